//! The domains of inputs, checked tile by tile.

use super::BlockJob;
use crate::array::Tile;
use crate::drive::domain::{Check, Domain};
use crate::drive::factor::Factor;
use crate::drive::operand::Input;
use crate::error::{Error, Result};
use crate::math::Real;
use crate::simd::Isa;
use std::sync::PoisonError;

impl<T: Real> BlockJob<'_, '_, T> {
    /// Checks the elements of an input that have a weight, in the input's own type.
    #[inline(always)]
    pub(super) fn check<S: Isa>(
        &self,
        check: &Check<'_>,
        input: &Input<'_, '_>,
        tile: Tile,
        x: &[T],
        weights: Factor<'_>,
        exact: &mut Vec<f64>,
    ) -> Result<()> {
        if input.is_wider::<T>() {
            let x = input.tile(self.grid, tile, exact)?;
            let holds = check.domain.all_hold(S::LEVEL, x);
            return if holds { Ok(()) } else { self.wrong(check, tile, x, weights) };
        }
        let holds = check.domain.all_hold_here::<S, T>(x);
        if holds { Ok(()) } else { self.wrong(check, tile, x, weights) }
    }

    /// The error of the first element that has a weight and is not what it must be, if there is one. Where tiles are not in
    /// the order of the elements it is kept, until all tiles are done, unless there is one of an element before.
    #[cold]
    #[inline(never)]
    fn wrong<X: Real>(
        &self,
        check: &Check<'_>,
        tile: Tile,
        x: &[X],
        weights: Factor<'_>,
    ) -> Result<()> {
        if check.domain == Domain::Weight {
            // No weight is exempt.
            return check.all();
        }
        let outside =
            |&(i, &x): &(usize, &X)| !check.domain.holds(x) && !weights.removes(i, tile.cols);
        let position = |i: usize| {
            let (row, col) = (tile.row + i / tile.cols, tile.col + i % tile.cols);
            let (row, col) = if self.turned { (col, row) } else { (row, col) };
            row * self.cols + col
        };
        let mut outside = x.iter().enumerate().filter(outside).map(|(i, _)| position(i));
        if !self.turned && !self.gathers() {
            return outside.next().map_or(Ok(()), |at| Err(self.error_at(check, at)));
        }
        if let Some(at) = outside.min() {
            let mut first = self.first_wrong.lock().unwrap_or_else(PoisonError::into_inner);
            if first.as_ref().is_none_or(|&(other, _)| at < other) {
                *first = Some((at, self.error_at(check, at)));
            }
        }
        Ok(())
    }

    /// The error of an element of E, by its position in C order, the batch axis first.
    fn error_at(&self, check: &Check<'_>, position: usize) -> Error {
        check.error(&self.order.element(position, check.given.shape()))
    }
}

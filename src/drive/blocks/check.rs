//! The domains of inputs, checked tile by tile.

use super::BlockJob;
use crate::array::Tile;
use crate::buffer::Buffer;
use crate::drive::domain::{Check, Domain};
use crate::drive::factor::Factor;
use crate::drive::operand::Input;
use crate::error::{Number, Result};
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
        exact: &mut Buffer<f64>,
    ) -> Result<()> {
        if input.is_wider::<T>() {
            let x = input.tile(self.grid, tile, exact)?;
            let holds = check.domain.all_hold(S::LEVEL, x);
            return if holds { Ok(()) } else { self.wrong(check, input, tile, x, weights) };
        }
        let holds = check.domain.all_hold_here::<S, T>(x);
        if holds { Ok(()) } else { self.wrong(check, input, tile, x, weights) }
    }

    /// The error of the first element that has a weight and is not what it must be, if there is one. Where tiles are not in
    /// the order of the elements it is kept, until all tiles are done, unless there is one of an element before.
    #[cold]
    #[inline(never)]
    fn wrong<X: Real>(
        &self,
        check: &Check<'_>,
        input: &Input<'_, '_>,
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
        let in_order = !self.turned && !self.gathers();
        let mut outside = x.iter().enumerate().filter(outside).map(|(i, _)| (position(i), i));
        let first = if in_order { outside.next() } else { outside.min() };
        let Some((at, i)) = first else { return Ok(()) };
        let index = self.order.element(at, check.given.shape());
        // What is written over holds the gradient by now; it has the type of computation.
        let number = input.copied.then(|| Number::Float(x[i].to_f64()));
        let error = check.error_of(&index, number.unwrap_or_else(|| check.given.number(&index)));
        if in_order {
            return Err(error);
        }
        let mut kept = self.first_wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|&(other, _)| at < other) {
            *kept = Some((at, error));
        }
        Ok(())
    }
}

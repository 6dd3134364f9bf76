//! The domains of inputs, checked tile by tile.

use super::BlockJob;
use crate::array::Tile;
use crate::drive::domain::{Check, Domain};
use crate::drive::factor::Factor;
use crate::drive::operand::Input;
use crate::error::Result;
use crate::math::Real;
use crate::simd::Isa;

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

    /// The error of the first element that has a weight and is not what it must be, if there is one.
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
        let Some((i, _)) = x.iter().enumerate().find(outside) else { return Ok(()) };
        let (row, col) = (tile.row + i / tile.cols, tile.col + i % tile.cols);
        let (row, col) = if self.turned { (col, row) } else { (row, col) };
        let position = row * self.cols + col;
        Err(check.error(&self.order.element(position, check.given.shape())))
    }
}

//! A tile: the kernel, the checks of its inputs, factors and sums.

use super::{BlockJob, Partial, Rest};
use crate::array::Tile;
use crate::drive::block_kernel::{BlockOutputs, MAX_OPERANDS};
use crate::drive::factor::multiply;
use crate::drive::factor::{Factor, TileScale};
use crate::drive::scale::split;
use crate::error::Result;
use crate::math::Real;
use crate::simd::{self, Isa, Kernel};

/// Rows from this length on are computed one by one where each has a factor of its own.
const LONG_ROW: usize = 256;

impl<T: Real> BlockJob<'_, '_, T> {
    /// Computes a tile, checks its inputs, applies factors and sums.
    pub(super) fn compute(
        &self,
        tile: Tile,
        factors: &(Factor<'_>, TileScale<'_>),
        inputs: &[&[T]],
        outputs: BlockOutputs<'_, T>,
        rest: &mut Rest<T>,
    ) -> Result<()> {
        simd::dispatch(self.level, Compute { job: self, tile, factors, inputs, outputs, rest })
    }

    /// Runs the kernel row by row, each with a factor of its own.
    #[inline(never)]
    fn run_rows(
        &self,
        inputs: &[&[T]],
        mut outputs: BlockOutputs<'_, T>,
        cols: usize,
        scale: impl Iterator<Item = f64>,
    ) {
        for (r, scale) in scale.enumerate() {
            let run = r * cols..(r + 1) * cols;
            let mut of_row = [&[][..]; MAX_OPERANDS];
            for (row, input) in of_row.iter_mut().zip(inputs) {
                *row = &input[run.clone()];
            }
            let mut outputs = outputs.part(&run);
            let [scale, rest] = split::<T>(scale);
            self.kernel.run(
                self.level,
                &of_row[..inputs.len()],
                outputs.part(&(0..cols)),
                T::from_f64(scale),
            );
            // A factor of 0 leaves nothing, whatever it was multiplied with.
            let rest = if scale == 0.0 { 0.0 } else { rest };
            for out in outputs.grads.iter_mut().chain([&mut outputs.hess]).flatten() {
                multiply(out, rest);
            }
        }
    }
}

/// [`BlockJob::compute`].
struct Compute<'c, 'v, 'a, T> {
    job: &'c BlockJob<'v, 'a, T>,
    tile: Tile,
    factors: &'c (Factor<'c>, TileScale<'c>),
    inputs: &'c [&'c [T]],
    outputs: BlockOutputs<'c, T>,
    rest: &'c mut Rest<T>,
}

impl<T: Real> Kernel for Compute<'_, '_, '_, T> {
    type Output = Result<()>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        let Compute { job, tile, factors: &(weights, ref scale), inputs, mut outputs, rest } = self;
        let cols = tile.cols;
        let at_once = scale.as_one();
        let wanted = outputs.part(&(0..tile.len()));
        let by_row = scale.of_rows().filter(|_| cols >= LONG_ROW);
        let scaled = by_row.is_some() || at_once.is_some_and(|scale| scale != T::ZERO);
        if let Some(scale) = by_row {
            job.run_rows(inputs, wanted, cols, scale);
        } else {
            job.kernel.run(job.level, inputs, wanted, at_once.unwrap_or(T::ONE));
        }
        // Only now: the kernel hides that it waits for memory, and leaves the tile in the cache.
        for (input, (o, check)) in inputs.iter().zip(&job.inputs) {
            if let Some(check) = check {
                job.check::<S>(check, o, tile, input, weights, &mut rest.exact)?;
            }
        }
        let BlockOutputs { value, mut grads, mut hess } = outputs;
        for out in grads.iter_mut().chain([&mut hess]).flatten() {
            if !scaled {
                scale.apply::<S, T>(out, cols);
            }
        }
        if let Some(extremes) = job.extremes {
            extremes.add::<S, _>(inputs[0], grads[0].as_deref(), hess.as_deref());
        }
        if let Some(value) = value {
            if job.partial != Partial::Nothing {
                let Rest { products, samples, values, .. } = rest;
                match (job.sums_samples(), job.turned) {
                    (true, _) => job.sum_samples::<S>(tile, value, weights, products, samples)?,
                    (_, true) => job.sum_turned::<S>(tile, value, weights, products, values)?,
                    _ => job.sum::<S>(tile, value, weights, products)?,
                }
            } else if job.weight != 1.0 || job.factors.is_weighted() {
                weights.apply::<S, T>(value, cols, job.weight);
            }
        }
        Ok(())
    }
}

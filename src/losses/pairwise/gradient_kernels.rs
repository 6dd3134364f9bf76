//! The arithmetic of the gradients of pairs, compiled for each instruction set: of slopes and elements before their product,
//! and of its sums behind it.

use super::product::BlockSums;
use super::similarity::Batches;
use crate::array::Tile;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::math::Real;
use crate::simd::{self, Isa, Kernel, Level};
use crate::sum::sum_block;

impl Batches<'_, '_> {
    /// A tile of the gradients with respect to the vectors of a batch: the sums of slopes times the others, less the total of
    /// the slopes times the vector itself, relative to the centre; times a factor.
    #[inline(never)]
    pub fn gradients<T: Real>(
        &self,
        level: Level,
        of: usize,
        tile: Tile,
        (totals, sums): (&[f64], BlockSums<'_>),
        factor: f64,
        buffer: &mut Buffer<T>,
        grads: &mut [T],
    ) -> Result<()> {
        let Tile { col, cols, .. } = tile;
        let are_zero = totals.iter().all(|&total| total == 0.0);
        let vectors: &[T] = if are_zero {
            &[]
        } else {
            self.grids[of].load(&self.views[of], 0, tile, buffer.sized(tile.len())?)
        };
        let centre = self.centre.get(col..col + cols).unwrap_or_default();
        let factors = [self.similarity.factor(), factor];
        for (r, (grads, &total)) in grads.chunks_exact_mut(cols).zip(totals).enumerate() {
            let own = if total == 0.0 { &[] } else { &vectors[r * cols..][..cols] };
            let sums = sums.from(r);
            simd::dispatch(level, GradientRow { own, centre, total, sums, factors, grads });
        }
        Ok(())
    }
}

/// A row of [`Batches::gradients`].
struct GradientRow<'r, T> {
    /// Nothing if the total is 0.
    own: &'r [T],
    centre: &'r [f64],
    total: f64,
    sums: BlockSums<'r>,
    factors: [f64; 2],
    grads: &'r mut [T],
}

impl<T: Real> Kernel for GradientRow<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let GradientRow { own, centre, total, sums, factors: [by_similarity, of_all], grads } =
            self;
        let gradient = |sum: f64| T::from_f64(by_similarity * sum * of_all);
        let lanes = sums.lanes();
        let grads = grads.chunks_mut(lanes).zip(sums.runs());
        if own.is_empty() {
            for (grads, sums) in grads {
                for (g, &sum) in grads.iter_mut().zip(sums) {
                    *g = gradient(sum);
                }
            }
            return;
        }
        for ((grads, sums), (own, centre)) in grads.zip(own.chunks(lanes).zip(centre.chunks(lanes)))
        {
            for ((g, &sum), (&own, &centre)) in
                grads.iter_mut().zip(sums).zip(own.iter().zip(centre))
            {
                *g = gradient(sum - total * (own - T::from_f64(centre)).to_f64());
            }
        }
    }
}

/// Adds the sum of each row to its total.
pub struct RowTotals<'r, T> {
    pub rows: &'r [T],
    pub cols: usize,
    pub totals: &'r mut [f64],
}

impl<T: Real> Kernel for RowTotals<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        for (total, row) in self.totals.iter_mut().zip(self.rows.chunks_exact(self.cols)) {
            *total += sum_block::<S, T>(row);
        }
    }
}

/// Takes the centre from panels of `lanes` vectors, and makes 0 of what is not finite; whether all is.
pub struct FinitePanels<'r, T> {
    pub panels: &'r mut [T],
    pub lanes: usize,
    pub cols: usize,
    pub centre: &'r [f64],
}

impl<T: Real> Kernel for FinitePanels<'_, T> {
    type Output = bool;
    #[inline(always)]
    fn run<S: Isa>(self) -> bool {
        let FinitePanels { panels, lanes, cols, centre } = self;
        for (panel, centre) in panels.chunks_exact_mut(lanes * cols).zip(centre.chunks(lanes)) {
            for line in panel.chunks_exact_mut(lanes) {
                for (x, &centre) in line.iter_mut().zip(centre) {
                    *x -= T::from_f64(centre);
                }
            }
        }
        let finite = all_finite(panels);
        if !finite {
            for x in panels.iter_mut().filter(|x| !x.to_f64().is_finite()) {
                *x = T::ZERO;
            }
        }
        finite
    }
}

#[inline(always)]
fn all_finite<T: Real>(x: &[T]) -> bool {
    const FINITE_LANES: usize = 16;
    let (chunks, rest) = x.as_chunks::<FINITE_LANES>();
    let mut lanes = [T::ZERO; FINITE_LANES];
    for chunk in chunks {
        for l in 0..FINITE_LANES {
            // 0, or NaN of a number that is not finite.
            lanes[l] += chunk[l] * T::ZERO;
        }
    }
    lanes.iter().chain(rest).all(|x| (*x * T::ZERO).to_f64() == 0.0)
}

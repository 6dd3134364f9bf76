//! The sums of an elementwise run: tile by tile to partial sums whose borders depend on the shape alone, and from these
//! to the value.

use super::{BlockJob, Partial};
use crate::array::{Grid, Tile, Tiles, View, elements};
use crate::buffer::Buffer;
use crate::drive::Reduction;
use crate::drive::factor::Factor;
use crate::drive::weight::Weighting;
use crate::error::Result;
use crate::math::Real;
use crate::num::{DType, Float};
use crate::simd::Isa;
use crate::sum::{BLOCK, ExactSum, sum_block, sum_block_exactly, sum_block_of_products};
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

/// Elements of a tile that are summed at once.
struct SummedBlock {
    /// Where their sum goes.
    slot: usize,
    /// The row of the first.
    row: usize,
    run: Range<usize>,
}

impl<T: Real> BlockJob<'_, '_, T> {
    /// Adds up the values of a tile. The borders of the partial sums depend on the shape alone.
    #[inline(always)]
    pub(super) fn sum<S: Isa>(
        &self,
        tile: Tile,
        value: &[T],
        weights: Factor<'_>,
        products: &mut Buffer<f64>,
    ) -> Result<()> {
        if self.weighs_sums(weights) {
            self.sum_values::<S>(tile, value, weights);
            return Ok(());
        }
        match weights {
            // Products of f32 have room in an f64 for what their sum would round off, and need not be kept.
            Factor::Singles(weights) if T::DTYPE == DType::F32 => {
                for SummedBlock { slot, run, .. } in self.blocks(tile) {
                    let weights = &weights.factors()[run.clone()];
                    self.store(slot, sum_block_of_products(&value[run], weights));
                }
            }
            _ => {
                let products = weights.products_of::<S, T>(value, tile, products)?;
                self.sum_products::<S>(tile, products);
            }
        }
        Ok(())
    }

    /// Whether weights are multiplied with sums, as they are the same for all terms of one.
    pub(super) fn weighs_sums(&self, weights: Factor<'_>) -> bool {
        matches!(weights, Factor::One(_)) || (self.weighs_rows && self.sums_rows())
    }

    /// Stores the sums of values, each times the weight of its rows.
    #[inline(always)]
    fn sum_values<S: Isa>(&self, tile: Tile, value: &[T], weights: Factor<'_>) {
        for SummedBlock { slot, row, run } in self.blocks(tile) {
            let sum = sum_block_exactly::<S, T>(&value[run]);
            self.store(slot, sum.weighted(weights.of_row(row, tile.cols)));
        }
    }

    /// Stores the sums of products: those of f32 have room in an f64 for what their sum would round off.
    #[inline(always)]
    fn sum_products<S: Isa>(&self, tile: Tile, products: &[f64]) {
        for SummedBlock { slot, run, .. } in self.blocks(tile) {
            let products = &products[run];
            let sum = match T::DTYPE {
                DType::F32 => sum_block::<S, f64>(products),
                _ => sum_block_exactly::<S, f64>(products),
            };
            self.store(slot, sum);
        }
    }

    /// [`BlockJob::sum`] of samples side by side that have their sums in common.
    #[inline(always)]
    pub(super) fn sum_turned<S: Isa>(
        &self,
        tile: Tile,
        value: &[T],
        weights: Factor<'_>,
        products: &mut Buffer<f64>,
        turned: &mut Turned<T>,
    ) -> Result<()> {
        let upright = Tile { row: tile.col, rows: tile.cols, col: tile.row, cols: tile.rows };
        if self.weighs_sums(weights) {
            let value = turn(value, tile, &mut turned.values)?;
            self.sum_values::<S>(upright, value, weights);
            return Ok(());
        }
        let products = weights.products_of::<S, T>(value, tile, products)?;
        let products = turn(products, tile, &mut turned.products)?;
        self.sum_products::<S>(upright, products);
        Ok(())
    }

    pub(super) fn store(&self, slot: usize, sum: f64) {
        self.sums[slot].store(sum.to_bits(), Relaxed);
    }

    /// The blocks of a tile whose sums are kept.
    fn blocks(&self, tile: Tile) -> impl Iterator<Item = SummedBlock> {
        let (blocks, cols) = (self.cols.div_ceil(BLOCK), tile.cols);
        let whole = blocks == 1 && self.partial == Partial::Blocks;
        let rows = if whole { self.block_rows } else { 1 };
        let across = cols.div_ceil(BLOCK);
        (0..tile.rows.div_ceil(rows) * across).map(move |i| {
            let (row, col) = (i / across * rows, i % across * BLOCK);
            let last = tile.rows.min(row + rows) - 1;
            SummedBlock {
                slot: (tile.row + row) / rows * blocks + (tile.col + col) / BLOCK,
                row,
                run: row * cols + col..last * cols + cols.min(col + BLOCK),
            }
        })
    }

    /// Turns partial sums into the value.
    pub(super) fn finish(
        &self,
        value: Tiles<'_, '_>,
        weighting: &Weighting<'_>,
        shape: &[usize],
    ) -> Result<()> {
        let total = |slots: Range<usize>| {
            let mut sum = ExactSum::default();
            for slot in &self.sums[slots] {
                sum.add(f64::from_bits(slot.load(Relaxed)));
            }
            sum.total().weighted(self.weight)
        };
        let divisor = &self.factors.divisor;
        let is_mean = !matches!(weighting.reduction, Reduction::Sum | Reduction::SampleSum);
        let may_be_empty = is_mean && weighting.denominator.is_none();
        if self.partial == Partial::Blocks {
            let by_rows = weighting.reduction == Reduction::BatchMean;
            let count = elements(if by_rows { &shape[..1] } else { shape });
            let result = if count == 0 && may_be_empty {
                weighting.empty
            } else {
                total(0..self.sums.len()) / divisor.row(0)
            };
            return value.fill::<T>(1, |_| T::from_f64(result));
        }
        let blocks = self.cols.div_ceil(BLOCK);
        value.fill(self.rows, |row| {
            T::from_f64(if blocks > 0 {
                total(row * blocks..(row + 1) * blocks) / divisor.row(row)
            } else if may_be_empty {
                weighting.empty
            } else {
                0.0
            })
        })
    }
}

/// Scratch for values, or their products with weights, whose rows and columns change places.
pub(super) struct Turned<T> {
    values: Buffer<T>,
    products: Buffer<f64>,
}

impl<T> Default for Turned<T> {
    fn default() -> Self {
        Turned { values: Buffer::new(), products: Buffer::new() }
    }
}

/// The elements of a tile with rows and columns changing places.
fn turn<'b, X: Real>(x: &[X], tile: Tile, buffer: &'b mut Buffer<X>) -> Result<&'b [X]> {
    let columns = View::from_slice(x, &[tile.rows, tile.cols]).move_axis(0, 1);
    let grid = Grid::single(columns.shape(), columns.strides());
    let all = Tile { row: 0, rows: tile.cols, col: 0, cols: tile.rows };
    let buffer = buffer.sized(x.len())?;
    grid.read(&columns, 0, all, buffer);
    Ok(buffer)
}

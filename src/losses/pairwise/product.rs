//! Products of matrices, in blocks: every row of one factor times every row of the other, summed along their columns.
//!
//! The right factor is copied into panels, where what a step of the innermost loop needs lies side by side; that loop has as
//! many sums in registers as the instruction set has room for.
//!
//! Accuracy: [`CHAIN`] terms are added in the type of computation one after another, then two such sums, and these in f64.
//! Whatever part of a product is asked for has the same bits.

use crate::array::Tile;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::math::Real;
use crate::scratch::Reusable;
use crate::simd::{self, Isa, Kernel, Level};
use crate::threads;
use std::ops::Range;

/// Rows of the left factor that are worked on together.
pub const ROWS: usize = 6;
/// Terms that are added in the type of computation one after another.
pub const CHAIN: usize = 64;
/// Terms that are added in the type of computation: two chains, whose factors are copied at once.
pub const DEPTH: usize = 2 * CHAIN;
/// Rows of the right factor that are worked on together, in whole panels of every level: a block of sums that a core's
/// own cache has room for.
pub const RIGHT: usize = 512;

/// The factors of a product, and what becomes of it.
pub trait Factors<T> {
    /// Copies a tile of the left factor, row after row; maybe `again`.
    fn left(&mut self, level: Level, tile: Tile, again: bool, rows: &mut [T]);

    /// Copies a tile of the right factor into panels: `lanes` rows side by side, column after column, and the next rows
    /// behind them. Places of rows that are missing to the last panel may hold anything.
    fn right(&mut self, level: Level, tile: Tile, lanes: usize, panels: &mut [T]);

    /// Whether the product is added to what [`Factors::resume`] has.
    fn resumes(&self) -> bool {
        false
    }

    /// Fills in what there is of the sums that [`Factors::finish`] takes.
    fn resume(&self, _row: usize, _cols: Range<usize>, _sums: &mut [f64]) {}

    /// Takes the sums of all rows of the left factor with some rows of the right one, from a multiple of [`RIGHT`] on.
    fn finish(&mut self, level: Level, cols: Range<usize>, sums: BlockSums<'_>) -> Result<()>;
}

/// Sums of several rows, panel by panel.
#[derive(Clone, Copy)]
pub struct BlockSums<'b> {
    block: &'b [f64],
    /// Sums of a row that lie side by side, and where the next of them begin.
    lanes: usize,
    step: usize,
}

impl<'b> BlockSums<'b> {
    /// Of a matrix with so many columns.
    pub fn dense(sums: &'b [f64], cols: usize) -> Self {
        BlockSums { block: sums, lanes: cols, step: sums.len() }
    }

    /// Those of a row, and of the rows behind it.
    #[inline(always)]
    pub fn from(self, row: usize) -> Self {
        BlockSums { block: &self.block[row * self.lanes..], ..self }
    }

    /// How many lie side by side.
    pub fn lanes(self) -> usize {
        self.lanes.max(1)
    }

    /// The runs of sums of the first row that lie side by side; behind the last sum they may hold anything.
    #[inline(always)]
    pub fn runs(self) -> impl Iterator<Item = &'b [f64]> {
        self.block.chunks(self.step.max(1)).map(move |run| &run[..self.lanes])
    }

    /// Copies those of the first row side by side.
    pub fn copy_to(self, out: &mut [f64]) {
        for (out, sums) in out.chunks_mut(self.lanes()).zip(self.runs()) {
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

/// Memory that products are computed in.
#[derive(Default)]
pub struct ProductRoom<T> {
    left: Buffer<T>,
    right: Buffer<T>,
    products: Buffer<T>,
    sums: Buffer<f64>,
}

impl<T: Real> Reusable for ProductRoom<T> {
    fn bytes(&self) -> usize {
        let ProductRoom { left, right, products, sums } = self;
        left.bytes() + right.bytes() + products.bytes() + sums.bytes()
    }
}

/// A part of a product: of some rows of the left factor, those of the tile, with some of the right one, its columns, along
/// some of the columns of both, from a multiple of [`DEPTH`] on.
pub struct PartialProduct<'p, T> {
    pub tile: Tile,
    pub along: Range<usize>,
    pub factors: &'p mut dyn Factors<T>,
    pub room: &'p mut ProductRoom<T>,
}

impl<T: Real> PartialProduct<'_, T> {
    /// Computes it, and hands it to [`Factors::finish`].
    pub fn compute(self, level: Level) -> Result<()> {
        simd::dispatch(level, self)
    }
}

impl<T: Real> Kernel for PartialProduct<'_, T> {
    type Output = Result<()>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        // As many sums as the level has registers for.
        match (S::REGISTER, S::REGISTER / size_of::<T>()) {
            (64, 16) => blocks::<S, T, 16, 4>(self),
            (64, _) => blocks::<S, T, 8, 4>(self),
            (_, 8) => blocks::<S, T, 8, 2>(self),
            (_, 4) => blocks::<S, T, 4, 2>(self),
            _ => blocks::<S, T, 2, 2>(self),
        }
    }
}

/// The same by registers of `W` numbers, `R` of them for each row of a left panel.
#[inline(always)]
fn blocks<S: Isa, T: Real, const W: usize, const R: usize>(
    part: PartialProduct<'_, T>,
) -> Result<()> {
    let PartialProduct { tile, along, factors, room } = part;
    let fresh = !factors.resumes();
    let lanes = W * R;
    let rows = tile.rows.next_multiple_of(ROWS);
    // They go through memory, so that how they are added up has no say in how this is vectorised.
    let products = room.products.sized(2 * ROWS * lanes)?.as_chunks_mut::<W>().0;
    let products = products.as_chunks_mut::<R>().0.as_chunks_mut().0.as_chunks_mut().0;
    let products: &mut [_; 2] = &mut products[0];
    for first in (0..tile.cols).step_by(RIGHT) {
        let cols = RIGHT.min(tile.cols - first);
        // Panel by panel, too: what is added to next lies next to it. What is missing to the last panel holds anything.
        let block = room.sums.sized(rows * cols.next_multiple_of(lanes))?;
        let run = tile.col + first..tile.col + first + cols;
        if !fresh {
            for (r, row) in (tile.row..tile.row + tile.rows).enumerate() {
                let starts = (run.start..run.end).step_by(lanes);
                for (panel, start) in block.chunks_exact_mut(rows * lanes).zip(starts) {
                    let run = start..run.end.min(start + lanes);
                    factors.resume(row, run.clone(), &mut panel[r * lanes..][..run.len()]);
                }
            }
        } else if along.is_empty() {
            block.fill(0.0);
        }
        for col in along.clone().step_by(DEPTH) {
            threads::check()?;
            let run = Tile { col, cols: DEPTH.min(along.end - col), ..tile };
            let left_rows = room.left.sized(rows * run.cols)?;
            factors.left(S::LEVEL, run, first > 0, &mut left_rows[..tile.rows * run.cols]);
            let run = Tile { row: tile.col + first, rows: cols, ..run };
            let panels = room.right.sized(cols.next_multiple_of(lanes) * run.cols)?;
            factors.right(S::LEVEL, run, lanes, panels);
            let is_first = fresh && col == along.start;
            let blocks = block.chunks_exact_mut(rows * lanes);
            for (panel, sums) in panels.chunks_exact(lanes * run.cols).zip(blocks) {
                let panel: &[[[T; W]; R]] = panel.as_chunks().0.as_chunks().0;
                let groups = left_rows.chunks_exact(ROWS * run.cols);
                for (rows, sums) in groups.zip(sums.chunks_exact_mut(ROWS * lanes)) {
                    let rows: [_; ROWS] =
                        std::array::from_fn(|i| &rows[i * run.cols..][..run.cols]);
                    let mut start = 0;
                    for products in &mut *products {
                        let chain = start..run.cols.min(start + CHAIN);
                        start = chain.end;
                        let rows = rows.map(|row| &row[chain.clone()]);
                        multiply::<S, T, W, R>(rows, &panel[chain], products);
                    }
                    let [x, y] = products.each_ref().map(|x| x.as_flattened().as_flattened());
                    for ((sum, &x), &y) in sums.iter_mut().zip(x).zip(y) {
                        *sum = if is_first { 0.0 } else { *sum } + (x + y).to_f64();
                    }
                }
            }
        }
        factors.finish(S::LEVEL, run, BlockSums { block, lanes, step: rows * lanes })?;
    }
    Ok(())
}

/// The products of some rows with those of a panel.
#[inline(always)]
fn multiply<S: Isa, T: Real, const W: usize, const R: usize>(
    rows: [&[T]; ROWS],
    panel: &[[[T; W]; R]],
    out: &mut [[[T; W]; R]; ROWS],
) {
    let rows = rows.map(|row| &row[..panel.len()]);
    let mut sums = [[[T::ZERO; W]; R]; ROWS];
    for (k, b) in panel.iter().enumerate() {
        unrolled!(i in [0, 1, 2, 3, 4, 5] {
            let a = rows[i][k];
            unrolled!(r in [0, 1, 2, 3] {
                if r < R {
                    for l in 0..W {
                        sums[i][r][l] = a.mul_add::<S>(b[r][l], sums[i][r][l]);
                    }
                }
            });
        });
    }
    *out = sums;
}

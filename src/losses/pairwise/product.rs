//! Products of matrices, in blocks: every row of one factor times every row of the other, summed along their columns.
//!
//! The right factor is copied into panels, where what a step of the innermost loop needs lies side by side; that loop has as
//! many sums in registers as the instruction set has room for.
//!
//! Accuracy: [`CHAIN`] terms are added in the type of computation one after another, and such sums in f64. Whatever part of
//! a product is asked for has the same bits.

use crate::array::Tile;
use crate::drive::operand::sized;
use crate::error::Result;
use crate::math::Real;
use crate::simd::Isa;
use crate::threads;
use std::ops::Range;

/// Rows of the left factor that are worked on together.
pub const ROWS: usize = 6;
/// Terms that are added in the type of computation.
pub const CHAIN: usize = 64;
/// Rows of the right factor whose panels are there at once, in whole panels of every level.
const RIGHT: usize = 256;

/// The left factor.
pub trait Left<T> {
    /// Copies a tile, row after row.
    fn copy<S: Isa>(&mut self, tile: Tile, rows: &mut [T]);
}

/// The right factor.
pub trait Right<T> {
    /// Copies a tile into panels: `lanes` rows side by side, column after column, and the next rows behind them. Places of
    /// rows that are missing to the last panel may hold anything.
    fn copy<S: Isa>(&mut self, tile: Tile, lanes: usize, panels: &mut [T]);
}

/// Memory that products are computed in.
#[derive(Default)]
pub struct Room<T> {
    left: Vec<T>,
    right: Vec<T>,
    products: Vec<T>,
}

/// Adds a part of a product to `sums`: of some rows of the left factor, those of the tile, with some of the right one, its
/// columns, along some of the columns of both, the first of them that of a chain.
#[inline(always)]
pub fn add_product<S: Isa, T: Real>(
    tile: Tile,
    along: Range<usize>,
    left: impl Left<T>,
    right: impl Right<T>,
    room: &mut Room<T>,
    sums: &mut [f64],
) -> Result<()> {
    // As many sums as the level has registers for.
    match (S::REGISTER, S::REGISTER / size_of::<T>()) {
        (64, 16) => blocks::<S, T, 16, 4>(tile, along, left, right, room, sums),
        (64, _) => blocks::<S, T, 8, 4>(tile, along, left, right, room, sums),
        (_, 8) => blocks::<S, T, 8, 2>(tile, along, left, right, room, sums),
        (_, 4) => blocks::<S, T, 4, 2>(tile, along, left, right, room, sums),
        _ => blocks::<S, T, 2, 2>(tile, along, left, right, room, sums),
    }
}

/// The same by registers of `W` numbers, `R` of them for each row of a left panel.
#[inline(always)]
fn blocks<S: Isa, T: Real, const W: usize, const R: usize>(
    tile: Tile,
    along: Range<usize>,
    mut left: impl Left<T>,
    mut right: impl Right<T>,
    room: &mut Room<T>,
    sums: &mut [f64],
) -> Result<()> {
    let lanes = W * R;
    let rows = tile.rows.next_multiple_of(ROWS);
    let products = sized(&mut room.products, rows * lanes)?;
    let products = products.as_chunks_mut::<W>().0.as_chunks_mut::<R>().0.as_chunks_mut().0;
    for col in along.clone().step_by(CHAIN) {
        let run = Tile { col, cols: CHAIN.min(along.end - col), ..tile };
        let left_rows = sized(&mut room.left, rows * run.cols)?;
        left.copy::<S>(run, &mut left_rows[..tile.rows * run.cols]);
        for first in (0..tile.cols).step_by(RIGHT) {
            threads::check()?;
            let run = Tile { row: tile.col + first, rows: RIGHT.min(tile.cols - first), ..run };
            let panels = sized(&mut room.right, run.rows.next_multiple_of(lanes) * run.cols)?;
            right.copy::<S>(run, lanes, panels);
            for (panel, start) in
                panels.chunks_exact(lanes * run.cols).zip((first..).step_by(lanes))
            {
                let panel = panel.as_chunks().0.as_chunks().0;
                // They go through memory, so that how they are added up has no say in how this is vectorised.
                for (rows, products) in left_rows.chunks_exact(ROWS * run.cols).zip(&mut *products)
                {
                    multiply::<S, T, W, R>(rows, panel, products);
                }
                let rows = sums.chunks_exact_mut(tile.cols).zip(products.as_flattened());
                for (sums, products) in rows {
                    for (sum, x) in sums[start..].iter_mut().zip(products.as_flattened()) {
                        *sum += x.to_f64();
                    }
                }
            }
        }
    }
    Ok(())
}

/// The products of some rows with those of a panel.
#[inline(always)]
fn multiply<S: Isa, T: Real, const W: usize, const R: usize>(
    rows: &[T],
    panel: &[[[T; W]; R]],
    out: &mut [[[T; W]; R]; ROWS],
) {
    let len = panel.len();
    let rows: [&[T]; ROWS] = std::array::from_fn(|i| &rows[i * len..][..len]);
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

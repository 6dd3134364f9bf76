//! Similarities of all vectors of one batch to all of another, in tiles.
//!
//! Squared distances are sums of squared differences, and their gradients sums of differences: the forms by matrix
//! products, |a|^2 - 2 a b + |b|^2 and (sum of c) a - sum of c b, cancel where vectors lie close together and far from 0.
//!
//! Accuracy: in the type of computation a lane adds at most 64 terms of a similarity, and the lanes are added pairwise;
//! of a gradient it adds 16 terms, and then 8 such sums. From there on sums are in f64. So a similarity is within 32 + 4
//! ulp, and a gradient within 8 + 6 ulp of the sum of its absolute terms. Roundings do not all go one way: measured it is
//! 2 to 3.

use crate::array::{Grid, Tile, View};
use crate::drive::operand::sized;
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::DType;
use crate::simd::{Baseline, Isa};
use crate::sum::{PairwiseSum, sum_block_exactly};
use crate::threads;

/// Vectors whose differences are summed in the type of computation. A block of as many rows, or of a multiple, leaves all
/// bits of the gradients as they are.
pub(super) const VECTORS: usize = 128;
/// Elements of a chunk: whole registers of every level.
pub(super) const LANES: usize = 16;
/// Bytes of a vector whose terms are summed in the type of computation: two groups of them fit into the first cache.
const RUN: usize = 4096;
/// Vectors of either batch whose similarities are summed together.
pub(super) const GROUP: usize = 4;
/// Vectors of the second batch in a tile of similarities.
const TILE: usize = 32;
/// Terms of a similarity that are summed together in f64.
const FAR: usize = 256;

/// What two vectors are compared by: a sum of one term for each of their elements.
pub trait Similarity: Copy + Sync {
    /// What sums of slopes times [`Similarity::toward`] are to be multiplied by to be gradients.
    const FACTOR: f64;

    /// Adds a term to a sum.
    fn add<S: Isa, T: Real>(a: T, b: T, sum: T) -> T;

    /// The derivative of a term with respect to the element of the own vector, but for the factor.
    fn toward<T: Real>(own: T, other: T) -> T;
}

/// The sum of (a - b)^2.
#[derive(Clone, Copy)]
pub struct SquaredDistance;

impl Similarity for SquaredDistance {
    const FACTOR: f64 = -2.0;

    #[inline(always)]
    fn add<S: Isa, T: Real>(a: T, b: T, sum: T) -> T {
        let gap = a - b;
        gap.mul_add::<S>(gap, sum)
    }

    #[inline(always)]
    fn toward<T: Real>(own: T, other: T) -> T {
        other - own
    }
}

/// The sum of a b.
#[derive(Clone, Copy)]
pub struct DotProduct;

impl Similarity for DotProduct {
    const FACTOR: f64 = 1.0;

    #[inline(always)]
    fn add<S: Isa, T: Real>(a: T, b: T, sum: T) -> T {
        a.mul_add::<S>(b, sum)
    }

    #[inline(always)]
    fn toward<T: Real>(_own: T, other: T) -> T {
        other
    }
}

/// Both batches, to read.
pub(super) struct Batches<'a, 'b> {
    pub views: &'a [View<'b>; 2],
    pub grids: [Grid; 2],
}

impl Batches<'_, '_> {
    /// The shapes' [n, m, d].
    fn shape(&self) -> [usize; 3] {
        let [first, second] = self.views;
        [first.shape()[0], second.shape()[0], first.shape()[1]]
    }

    /// Adds the similarities of a tile of rows.
    #[inline(always)]
    pub fn similarities<S: Isa, M: Similarity, T: Real>(
        &self,
        tile: Tile,
        similarities: &mut [f64],
    ) -> Result<()> {
        self.near::<S, M, T>(tile, similarities)?;
        // Terms may be too large for f32 where what becomes of them is not.
        if T::DTYPE == DType::F32 {
            let [_, m, _] = self.shape();
            for (row, similarities) in (tile.row..).zip(similarities.chunks_exact_mut(m)) {
                for (col, x) in similarities.iter_mut().enumerate().filter(|(_, x)| !x.is_finite())
                {
                    *x = self.far::<M>([row, col]);
                }
            }
        }
        Ok(())
    }

    /// The similarity of two vectors, in f64.
    #[cold]
    fn far<M: Similarity>(&self, vectors: [usize; 2]) -> f64 {
        let [_, _, d] = self.shape();
        let mut buffers = [[0.0; FAR]; 2];
        let mut sum = PairwiseSum::default();
        for col in (0..d).step_by(FAR) {
            let cols = FAR.min(d - col);
            let [a, b] = &mut buffers;
            let load = |batch: usize, buffer: &mut [f64]| {
                let tile = Tile { row: vectors[batch], rows: 1, col, cols };
                self.grids[batch].read(&self.views[batch], 0, tile, buffer);
            };
            load(0, a);
            load(1, b);
            for (a, b) in a.iter_mut().zip(b) {
                *a = M::add::<Baseline, f64>(*a, *b, 0.0);
            }
            sum.add(sum_block_exactly::<Baseline, f64>(&a[..cols]));
        }
        sum.total()
    }

    /// The same, by terms in `T`.
    #[inline(always)]
    fn near<S: Isa, M: Similarity, T: Real>(
        &self,
        tile: Tile,
        similarities: &mut [f64],
    ) -> Result<()> {
        let [_, m, d] = self.shape();
        let [mut first, mut second] = [Panel::<T>::default(), Panel::default()];
        let zero = [[[T::ZERO; LANES]; GROUP]; GROUP];
        let mut lanes = memory::filled(zero, tile.rows.div_ceil(GROUP))?;
        let mut halves: [Vec<T>; 2] = Default::default();
        let most = RUN / size_of::<T>();
        for start in (0..d).step_by(most) {
            let run = Tile { col: start, cols: most.min(d - start), ..tile };
            first.fill(&self.grids[0], &self.views[0], run)?;
            for col in (0..m).step_by(TILE) {
                threads::check()?;
                let run = Tile { row: col, rows: TILE.min(m - col), ..run };
                second.fill(&self.grids[1], &self.views[1], run)?;
                for (b, j) in second.groups().zip((col..m).step_by(GROUP)) {
                    for (a, lanes) in first.groups().zip(&mut lanes) {
                        lanes_at_level::<S, M, T>(a, b, lanes);
                    }
                    let lanes = lanes.as_flattened().as_flattened().as_flattened();
                    let sums = sum_lanes(lanes, &mut halves)?.as_chunks::<GROUP>().0;
                    for (row, sums) in similarities.chunks_exact_mut(m).zip(sums) {
                        for (x, sum) in row[j..].iter_mut().zip(sums) {
                            *x += sum.to_f64();
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// A run of the elements of some vectors, in groups: chunk after chunk of a group, vector after vector in a chunk. What
/// is missing to whole chunks and groups is 0.
#[derive(Default)]
struct Panel<T> {
    chunks: Vec<[[T; LANES]; GROUP]>,
    /// Chunks of a group.
    width: usize,
    buffer: Vec<T>,
}

impl<T: Real> Panel<T> {
    #[inline(always)]
    fn fill(&mut self, grid: &Grid, view: &View<'_>, tile: Tile) -> Result<()> {
        self.width = tile.cols.div_ceil(LANES);
        let (zero, rows) = ([T::ZERO; LANES], tile.rows.next_multiple_of(GROUP));
        memory::grow(&mut self.chunks, rows / GROUP * self.width, [zero; GROUP])?;
        self.chunks.truncate(rows / GROUP * self.width);
        let buffer = sized(&mut self.buffer, tile.cols)?;
        for r in 0..rows {
            let group = &mut self.chunks[r / GROUP * self.width..][..self.width];
            if r >= tile.rows {
                for place in group {
                    place[r % GROUP] = zero;
                }
                continue;
            }
            let row = grid.load(view, 0, Tile { row: tile.row + r, rows: 1, ..tile }, buffer);
            let (chunks, rest) = row.as_chunks::<LANES>();
            for (place, chunk) in group.iter_mut().zip(chunks) {
                place[r % GROUP] = *chunk;
            }
            if let Some(place) = group.get_mut(chunks.len()) {
                place[r % GROUP] = zero;
                place[r % GROUP][..rest.len()].copy_from_slice(rest);
            }
        }
        Ok(())
    }

    fn groups(&self) -> impl Iterator<Item = &[[[T; LANES]; GROUP]]> {
        self.chunks.chunks_exact(self.width)
    }
}

/// The similarities of a group of vectors to another, lane by lane. They go through memory, so that how lanes are summed
/// has no say in how this is vectorised.
#[inline(always)]
fn lanes_at_level<S: Isa, M: Similarity, T: Real>(
    a: &[[[T; LANES]; GROUP]],
    b: &[[[T; LANES]; GROUP]],
    out: &mut [[[T; LANES]; GROUP]; GROUP],
) {
    // As many sums as the level has registers for.
    match (S::REGISTER, S::REGISTER / size_of::<T>()) {
        (64, 16) => lanes::<S, M, T, 4, 16>(a, b, out),
        (64, _) => lanes::<S, M, T, 4, 8>(a, b, out),
        (_, 8) => lanes::<S, M, T, 2, 8>(a, b, out),
        (_, 4) => lanes::<S, M, T, 2, 4>(a, b, out),
        _ => lanes::<S, M, T, 2, 2>(a, b, out),
    }
}

/// The same, `I` vectors of the first group and `W` lanes at a time.
#[inline(always)]
fn lanes<S: Isa, M: Similarity, T: Real, const I: usize, const W: usize>(
    a: &[[[T; LANES]; GROUP]],
    b: &[[[T; LANES]; GROUP]],
    out: &mut [[[T; LANES]; GROUP]; GROUP],
) {
    for first in (0..GROUP).step_by(I) {
        for w in 0..LANES / W {
            let mut sums = [[[T::ZERO; W]; GROUP]; I];
            for (a, b) in a.iter().zip(b) {
                unrolled!(i in [0, 1, 2, 3] {
                    if i < I {
                        let a = a[first + i].as_chunks::<W>().0[w];
                        unrolled!(j in [0, 1, 2, 3] {
                            let b = b[j].as_chunks::<W>().0[w];
                            for l in 0..W {
                                sums[i][j][l] = M::add::<S, T>(a[l], b[l], sums[i][j][l]);
                            }
                        });
                    }
                });
            }
            unrolled!(i in [0, 1, 2, 3] {
                if i < I {
                    unrolled!(j in [0, 1, 2, 3] {
                        out[first + i][j].as_chunks_mut::<W>().0[w] = sums[i][j];
                    });
                }
            });
        }
    }
}

/// The sums of every [`LANES`] numbers, pairwise.
#[inline(always)]
fn sum_lanes<'a, T: Real>(lanes: &[T], halves: &'a mut [Vec<T>; 2]) -> Result<&'a [T]> {
    const { assert!(LANES == 16) };
    let [even, odd] = halves;
    let even = sized(even, lanes.len() / 2)?;
    let odd = sized(odd, lanes.len() / 4)?;
    add_pairs(lanes, even);
    add_pairs(even, odd);
    add_pairs(odd, even);
    add_pairs(&even[..lanes.len() / 8], odd);
    Ok(&odd[..lanes.len() / LANES])
}

#[inline(always)]
fn add_pairs<T: Real>(x: &[T], out: &mut [T]) {
    for (out, [a, b]) in out.iter_mut().zip(x.as_chunks::<2>().0) {
        *out = *a + *b;
    }
}

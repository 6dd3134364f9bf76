//! The driver of losses of squared distances: every vector of one batch against every vector of another.
//!
//! Distances are sums of squared differences, and gradients sums of differences: the forms by matrix products, |a|^2 -
//! 2 a b + |b|^2 and (sum of c) a - sum of c b, cancel where vectors lie close together and far from 0. Work is cut into
//! tiles that depend on the shape alone, and every number is summed by one task in one order.
//!
//! Accuracy: in the type of computation a lane adds at most 64 squares of a distance, and the lanes are added pairwise;
//! of a gradient it adds `CHAIN` = 16 differences, and then `VECTORS / CHAIN` = 8 such sums. From there on
//! sums are in f64. So a distance is within 32 + 4 ulp, and a gradient within 8 + 6 ulp of the sum of its absolute terms.
//! Roundings do not all go one way: measured it is 2 to 3.

use super::LANES;
use super::gradients::{PULL_TILE, PullJob, PullTile};
use crate::array::{Grid, Tile};
use crate::array::{View, ViewMut};
use crate::drive::operand::{Operand, Output, sized};
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::DType;
use crate::simd::{self, Baseline, Isa, Kernel, Level};
use crate::sum::{PairwiseSum, sum_block_exactly};
use crate::threads;
use std::marker::PhantomData;

/// Bytes of a vector whose squares are summed in the type of computation: two groups of them fit into the first cache.
const RUN: usize = 4096;
/// Vectors of either batch whose distances are summed together.
const GROUP: usize = 4;
/// Vectors of the first batch in a task, at most and, where there are more, at least.
const TASK: (usize, usize) = (64, 16);
/// Vectors of the second batch in a tile of distances.
const TILE: usize = 32;
/// Squares of a distance that are summed together in f64.
const FAR: usize = 256;
/// Rough time for value and gradient of one element of one pair, in nanoseconds.
const COST: f64 = 0.08;

/// A loss of the squared distances of a vector of the first batch to all of the second.
pub trait PairKernel<T: Real>: Sync {
    /// One row of E, of which it returns the sum, or anything if that is not wanted.
    fn row<S: Isa>(&self, row: usize, distances: &[f64], outputs: RowOutputs<'_, T>) -> T;
}

/// What a row writes; what is `None` is not wanted.
pub struct RowOutputs<'a, T> {
    /// E.
    pub value: Option<&'a mut [T]>,
    /// The derivative of the result with respect to each distance.
    pub slopes: Option<&'a mut [T]>,
    /// Whether the sum is wanted.
    pub wants_sum: bool,
    /// Scratch as long as the row.
    pub scratch: [&'a mut [T]; 3],
}

/// What all rows write: matrices of (N, N), and the sums of E's rows.
pub struct Outputs<'a, T> {
    /// E.
    pub value: Option<&'a mut [T]>,
    /// The sums of E's rows.
    pub sums: Option<&'a mut [T]>,
    /// The derivative of the result with respect to each distance.
    pub slopes: Option<&'a mut [T]>,
}

/// Two batches of vectors, (N, D) each.
pub struct Pairs<'a> {
    /// The instruction set.
    pub level: Level,
    /// The batches.
    pub batches: &'a [View<'a>; 2],
}

impl Pairs<'_> {
    /// Rough time for value and gradient, in nanoseconds.
    pub fn cost(&self) -> f64 {
        let [n, d] = self.shape();
        COST * (n as f64) * (n as f64) * (d + 2 * LANES) as f64
    }

    fn shape(&self) -> [usize; 2] {
        [self.batches[0].shape()[0], self.batches[0].shape()[1]]
    }

    fn grid(&self, batch: usize) -> Grid {
        Grid::single(self.batches[batch].shape(), self.batches[batch].strides())
    }

    /// Runs `kernel` over all rows.
    pub fn rows<T: Real, L: PairKernel<T>>(
        &self,
        kernel: &L,
        outputs: Outputs<'_, T>,
    ) -> Result<()> {
        let [n, d] = self.shape();
        let (mut matrix, mut column) = (Grid::new(&[n, n], 1), Grid::new(&[n, 1], 1));
        let whole = |x, cols| ViewMut::from_slice(x, &[n, cols]);
        let [value, slopes] = [outputs.value, outputs.slopes].map(|x| x.map(|x| whole(x, n)));
        let sums = outputs.sums.map(|x| whole(x, 1));
        let [value, slopes] =
            [&value, &slopes].map(|x| x.as_ref().map(|x| Operand::output(&mut matrix, x)));
        let sums = sums.as_ref().map(|x| Operand::output(&mut column, x));
        matrix.merge();
        column.merge();
        let job = RowJob {
            pairs: self,
            vectors: [self.grid(0), self.grid(1)],
            kernel,
            matrix,
            column,
            value,
            slopes,
            sums,
            n,
            d,
        };
        let rows = n.div_ceil(2).next_multiple_of(GROUP).clamp(TASK.1, TASK.0);
        let tiles = n.div_ceil(rows);
        threads::run(tiles, self.cost() / tiles as f64, &|tasks| {
            for row in tasks.map(|task| task * rows) {
                let tile = Tile { row, rows: rows.min(n - row), col: 0, cols: n };
                simd::dispatch(self.level, RowTile { job: &job, tile, of: PhantomData::<T> })?;
            }
            Ok(())
        })
    }

    /// The gradients with respect to the vectors of both batches: the sum of 2 `slopes` (own - other) over the others,
    /// times a factor.
    pub fn gradients<T: Real>(
        &self,
        slopes: &[T],
        factor: f64,
        out: [Option<&ViewMut<'_>>; 2],
    ) -> Result<()> {
        let [n, d] = self.shape();
        let job = PullJob {
            batches: self.batches,
            grids: [self.grid(0), self.grid(1)],
            out: out.map(|out| {
                let mut grid = Grid::new(out?.shape(), 1);
                let out = Operand::output(&mut grid, out?);
                grid.merge();
                Some((out, grid))
            }),
            slopes,
            factor,
            n,
        };
        let (rows, cols) = (PULL_TILE.0, PULL_TILE.1 / size_of::<T>());
        let across = d.div_ceil(cols);
        let tiles = n.div_ceil(rows) * across;
        threads::run(tiles, self.cost() / tiles as f64, &|tasks| {
            for task in tasks {
                let (row, col) = (task / across * rows, task % across * cols);
                let tile = Tile { row, rows: rows.min(n - row), col, cols: cols.min(d - col) };
                simd::dispatch(self.level, PullTile { job: &job, tile })?;
            }
            Ok(())
        })
    }
}

struct RowJob<'a, 'b, L> {
    pairs: &'a Pairs<'b>,
    vectors: [Grid; 2],
    kernel: &'a L,
    matrix: Grid,
    column: Grid,
    value: Option<Output<'a, 'a>>,
    slopes: Option<Output<'a, 'a>>,
    sums: Option<Output<'a, 'a>>,
    n: usize,
    d: usize,
}

/// A block of rows.
struct RowTile<'a, 'b, 'c, L, T> {
    job: &'a RowJob<'b, 'c, L>,
    tile: Tile,
    of: PhantomData<T>,
}

impl<T: Real, L: PairKernel<T>> Kernel for RowTile<'_, '_, '_, L, T> {
    type Output = Result<()>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        let RowTile { job, tile, .. } = self;
        let mut distances = memory::filled(0.0, tile.len())?;
        job.distances::<S, T>(tile, &mut distances)?;
        let mut buffers: [Vec<T>; 3] = Default::default();
        let [value_buffer, slopes_buffer, sums_buffer] = &mut buffers;
        let column = Tile { cols: 1, ..tile };
        let mut value =
            job.value.as_ref().map(|o| o.tile(&job.matrix, tile, value_buffer)).transpose()?;
        let mut slopes =
            job.slopes.as_ref().map(|o| o.tile(&job.matrix, tile, slopes_buffer)).transpose()?;
        let mut sums =
            job.sums.as_ref().map(|o| o.tile(&job.column, column, sums_buffer)).transpose()?;
        let mut scratch: [Vec<T>; 3] = Default::default();
        for row in &mut scratch {
            memory::grow(row, tile.cols, T::ZERO)?;
        }
        for (r, distances) in distances.chunks_exact(tile.cols).enumerate() {
            let run = r * tile.cols..(r + 1) * tile.cols;
            let outputs = RowOutputs {
                value: value.as_deref_mut().map(|x| &mut x[run.clone()]),
                slopes: slopes.as_deref_mut().map(|x| &mut x[run]),
                wants_sum: sums.is_some(),
                scratch: scratch.each_mut().map(|x| &mut x[..]),
            };
            let sum = job.kernel.row::<S>(tile.row + r, distances, outputs);
            if let Some(sums) = &mut sums {
                sums[r] = sum;
            }
        }
        Ok(())
    }
}

impl<L> RowJob<'_, '_, L> {
    /// The squared distances of a block of rows.
    #[inline(always)]
    fn distances<S: Isa, T: Real>(&self, tile: Tile, distances: &mut [f64]) -> Result<()> {
        self.near::<S, T>(tile, distances)?;
        // Squares may be too large for f32 where what becomes of them is not.
        if T::DTYPE == DType::F32 {
            for (row, distances) in (tile.row..).zip(distances.chunks_exact_mut(self.n)) {
                let far = |distance: &f64| !distance.is_finite();
                for (col, distance) in distances.iter_mut().enumerate().filter(|(_, d)| far(d)) {
                    *distance = self.far([row, col]);
                }
            }
        }
        Ok(())
    }

    /// The squared distance of two vectors, in f64.
    #[cold]
    fn far(&self, vectors: [usize; 2]) -> f64 {
        let mut buffers = [[0.0; FAR]; 2];
        let mut sum = PairwiseSum::default();
        for col in (0..self.d).step_by(FAR) {
            let cols = FAR.min(self.d - col);
            let [a, b] = &mut buffers;
            let load = |batch: usize, buffer: &mut [f64]| {
                let tile = Tile { row: vectors[batch], rows: 1, col, cols };
                self.vectors[batch].read(&self.pairs.batches[batch], 0, tile, buffer);
            };
            load(0, a);
            load(1, b);
            for (a, b) in a.iter_mut().zip(b) {
                *a = (*a - *b) * (*a - *b);
            }
            sum.add(sum_block_exactly::<Baseline, f64>(&a[..cols]));
        }
        sum.total()
    }

    /// The squared distances of a block of rows, by squares in `T`.
    #[inline(always)]
    fn near<S: Isa, T: Real>(&self, tile: Tile, distances: &mut [f64]) -> Result<()> {
        let [mut first, mut second] = [Panel::<T>::default(), Panel::default()];
        let zero = [[[T::ZERO; LANES]; GROUP]; GROUP];
        let mut lanes = memory::filled(zero, tile.rows.div_ceil(GROUP))?;
        let mut halves: [Vec<T>; 2] = Default::default();
        let most = RUN / size_of::<T>();
        for start in (0..self.d).step_by(most) {
            let run = Tile { col: start, cols: most.min(self.d - start), ..tile };
            threads::check()?;
            first.fill(&self.vectors[0], &self.pairs.batches[0], run)?;
            for col in (0..self.n).step_by(TILE) {
                let run = Tile { row: col, rows: TILE.min(self.n - col), ..run };
                second.fill(&self.vectors[1], &self.pairs.batches[1], run)?;
                for (b, j) in second.groups().zip((col..self.n).step_by(GROUP)) {
                    for (a, lanes) in first.groups().zip(&mut lanes) {
                        squares_at_level::<S, T>(a, b, lanes);
                    }
                    let lanes = lanes.as_flattened().as_flattened().as_flattened();
                    let sums = sum_lanes(lanes, &mut halves)?.as_chunks::<GROUP>().0;
                    for (row, sums) in distances.chunks_exact_mut(self.n).zip(sums) {
                        for (distance, sum) in row[j..].iter_mut().zip(sums) {
                            *distance += sum.to_f64();
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

/// The squared distances of a group of vectors to another, lane by lane. They go through memory, so that how lanes are
/// summed has no say in how this is vectorised.
#[inline(always)]
fn squares_at_level<S: Isa, T: Real>(
    a: &[[[T; LANES]; GROUP]],
    b: &[[[T; LANES]; GROUP]],
    out: &mut [[[T; LANES]; GROUP]; GROUP],
) {
    // As many sums as the level has registers for.
    match (S::REGISTER, S::REGISTER / size_of::<T>()) {
        (64, 16) => squares::<S, T, 4, 16>(a, b, out),
        (64, _) => squares::<S, T, 4, 8>(a, b, out),
        (_, 8) => squares::<S, T, 2, 8>(a, b, out),
        (_, 4) => squares::<S, T, 2, 4>(a, b, out),
        _ => squares::<S, T, 2, 2>(a, b, out),
    }
}

/// The same, `I` vectors of the first group and `W` lanes at a time.
#[inline(always)]
fn squares<S: Isa, T: Real, const I: usize, const W: usize>(
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
                                let gap = a[l] - b[l];
                                sums[i][j][l] = gap.mul_add::<S>(gap, sums[i][j][l]);
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

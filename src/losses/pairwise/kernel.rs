//! The driver of losses of squared distances: every vector of one batch against every vector of another.
//!
//! Distances are sums of squared differences, and gradients sums of differences: the forms by matrix products, |a|^2 -
//! 2 a b + |b|^2 and (sum of c) a - sum of c b, cancel where vectors lie close together and far from 0. Work is cut into
//! tiles that depend on the shape alone, and every number is summed by one task in one order.
//!
//! Accuracy: in the type of computation a lane adds at most `RUN / LANES` = 64 squares of a distance, or `VECTORS / 2` =
//! 16 differences of a gradient; from there on sums are in f64. So a distance is within 32 + 2 ulp, and a gradient
//! within 8 + 2 ulp of the sum of its absolute terms. Roundings do not all go one way: measured it is 2 to 3.

use crate::grid::{Grid, Operand, Output, Tile, sized};
use crate::parallel;
use crate::real::Real;
use crate::simd::{self, Isa, Kernel, Level};
use crate::view::{View, ViewMut};
use std::marker::PhantomData;

/// Elements that are worked on at once.
const LANES: usize = 8;
/// Elements whose squares are summed in the type of computation.
const RUN: usize = 512;
/// Vectors whose differences are summed in the type of computation.
const VECTORS: usize = 32;
/// Vectors of either batch in a tile of distances.
const TILE: usize = 32;
/// Vectors of the first and of the second batch whose distances are summed together.
const PAIRS: (usize, usize) = (2, 4);
/// Vectors and elements in a tile of gradients.
const PULL_TILE: (usize, usize) = (64, 128);
/// Vectors whose gradients are summed together.
const TOGETHER: usize = 4;
/// Rough time for value and gradient of one element of one pair, in nanoseconds.
const COST: f64 = 0.12;

/// A loss of the squared distances of a vector of the first batch to all of the second.
pub trait PairKernel<T: Real>: Sync {
    /// One row of E, of which it returns the sum.
    fn row<S: Isa>(&self, row: usize, distances: &[f64], outputs: RowOutputs<'_, T>) -> T;
}

/// What a row writes; what is `None` is not wanted.
pub struct RowOutputs<'a, T> {
    /// E.
    pub value: Option<&'a mut [T]>,
    /// The derivative of the result with respect to each distance.
    pub slopes: Option<&'a mut [T]>,
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
        COST * (n * n) as f64 * (d + 2 * LANES) as f64
    }

    fn shape(&self) -> [usize; 2] {
        [self.batches[0].shape()[0], self.batches[0].shape()[1]]
    }

    fn grid(&self, batch: usize) -> Grid {
        Grid::single(self.batches[batch].shape(), self.batches[batch].strides())
    }

    /// Runs `kernel` over all rows.
    pub fn rows<T: Real, L: PairKernel<T>>(&self, kernel: &L, outputs: Outputs<'_, T>) {
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
        let tiles = n.div_ceil(TILE);
        parallel::run(tiles, self.cost() / tiles as f64, &|tasks| {
            for row in tasks.map(|task| task * TILE) {
                let tile = Tile { row, rows: TILE.min(n - row), col: 0, cols: n };
                simd::dispatch(self.level, RowTile { job: &job, tile, of: PhantomData::<T> });
            }
        });
    }

    /// The gradient with respect to the vectors of batch `of`: the sum of 2 `slopes` (own - other) over the others.
    pub fn gradient<T: Real>(&self, slopes: &[T], of: usize, out: &ViewMut<'_>) {
        let [n, d] = self.shape();
        let job = PullJob {
            batches: [&self.batches[of], &self.batches[1 - of]],
            grids: [self.grid(of), self.grid(1 - of), Grid::single(out.shape(), out.strides())],
            slopes,
            own_first: of == 0,
            out,
            n,
        };
        let (rows, cols) = PULL_TILE;
        let across = d.div_ceil(cols);
        let tiles = n.div_ceil(rows) * across;
        parallel::run(tiles, self.cost() / tiles as f64, &|tasks| {
            for task in tasks {
                let (row, col) = (task / across * rows, task % across * cols);
                let tile = Tile { row, rows: rows.min(n - row), col, cols: cols.min(d - col) };
                simd::dispatch(self.level, PullTile { job: &job, tile });
            }
        });
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
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let RowTile { job, tile, .. } = self;
        let mut distances = vec![0.0; tile.len()];
        job.distances::<S, T>(tile, &mut distances);
        let mut buffers: [Vec<T>; 3] = Default::default();
        let [value_buffer, slopes_buffer, sums_buffer] = &mut buffers;
        let column = Tile { cols: 1, ..tile };
        let mut value = job.value.as_ref().map(|o| o.tile(&job.matrix, tile, value_buffer));
        let mut slopes = job.slopes.as_ref().map(|o| o.tile(&job.matrix, tile, slopes_buffer));
        let mut sums = job.sums.as_ref().map(|o| o.tile(&job.column, column, sums_buffer));
        let mut scratch: [Vec<T>; 3] = std::array::from_fn(|_| vec![T::ZERO; tile.cols]);
        for (r, distances) in distances.chunks_exact(tile.cols).enumerate() {
            let run = r * tile.cols..(r + 1) * tile.cols;
            let outputs = RowOutputs {
                value: value.as_deref_mut().map(|x| &mut x[run.clone()]),
                slopes: slopes.as_deref_mut().map(|x| &mut x[run]),
                scratch: scratch.each_mut().map(|x| &mut x[..]),
            };
            let sum = job.kernel.row::<S>(tile.row + r, distances, outputs);
            if let Some(sums) = &mut sums {
                sums[r] = sum;
            }
        }
    }
}

impl<L> RowJob<'_, '_, L> {
    /// The squared distances of a block of rows.
    #[inline(always)]
    fn distances<S: Isa, T: Real>(&self, tile: Tile, distances: &mut [f64]) {
        let mut first = Panel::<T, { PAIRS.0 }>::default();
        let mut second = Panel::<T, { PAIRS.1 }>::default();
        let mut sums = vec![[[T::ZERO; LANES]; PAIRS.1]; PAIRS.0];
        for start in (0..self.d).step_by(RUN) {
            let run = Tile { col: start, cols: RUN.min(self.d - start), ..tile };
            first.fill(&self.vectors[0], &self.pairs.batches[0], run);
            for col in (0..self.n).step_by(TILE) {
                let run = Tile { row: col, rows: TILE.min(self.n - col), ..run };
                second.fill(&self.vectors[1], &self.pairs.batches[1], run);
                for (b, j) in second.groups().zip((col..self.n).step_by(PAIRS.1)) {
                    for (a, rows) in first.groups().zip(distances.chunks_mut(PAIRS.0 * self.n)) {
                        squares::<S, T>(a, b, &mut sums);
                        for (row, sums) in rows.chunks_mut(self.n).zip(&sums) {
                            for (distance, lanes) in row[j..].iter_mut().zip(sums) {
                                *distance += sum_lanes(lanes);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A run of the elements of some vectors, in groups of `K`: chunk after chunk of a group, vector after vector in a chunk.
/// What is missing to whole chunks and groups is 0.
#[derive(Default)]
struct Panel<T, const K: usize> {
    chunks: Vec<[[T; LANES]; K]>,
    /// Chunks of a group.
    width: usize,
    buffer: Vec<T>,
}

impl<T: Real, const K: usize> Panel<T, K> {
    #[inline(always)]
    fn fill(&mut self, grid: &Grid, view: &View<'_>, tile: Tile) {
        self.width = tile.cols.div_ceil(LANES);
        self.chunks.clear();
        self.chunks.resize(tile.rows.div_ceil(K) * self.width, [[T::ZERO; LANES]; K]);
        let buffer = sized(&mut self.buffer, tile.cols);
        for r in 0..tile.rows {
            let row = grid.load(view, 0, Tile { row: tile.row + r, rows: 1, ..tile }, buffer);
            let group = &mut self.chunks[r / K * self.width..][..self.width];
            let (chunks, rest) = row.as_chunks::<LANES>();
            for (place, chunk) in group.iter_mut().zip(chunks) {
                place[r % K] = *chunk;
            }
            if let Some(place) = group.get_mut(chunks.len()) {
                place[r % K][..rest.len()].copy_from_slice(rest);
            }
        }
    }

    fn groups(&self) -> impl Iterator<Item = &[[[T; LANES]; K]]> {
        self.chunks.chunks_exact(self.width)
    }
}

/// A loop that is written out: the compiler keeps an array of sums in registers only where no index varies.
macro_rules! unrolled {
    ($k:ident in [$($at:literal),*] $body:block) => { $({ let $k = $at; $body })* };
}

/// The squared distances of a group of vectors to another, lane by lane. They go through memory, so that how lanes are
/// summed has no say in how this is vectorised.
#[inline(always)]
fn squares<S: Isa, T: Real>(
    a: &[[[T; LANES]; PAIRS.0]],
    b: &[[[T; LANES]; PAIRS.1]],
    out: &mut [[[T; LANES]; PAIRS.1]],
) {
    let mut sums = [[[T::ZERO; LANES]; PAIRS.1]; PAIRS.0];
    for (a, b) in a.iter().zip(b) {
        unrolled!(i in [0, 1] {
            unrolled!(j in [0, 1, 2, 3] {
                for l in 0..LANES {
                    let gap = a[i][l] - b[j][l];
                    sums[i][j][l] = gap.mul_add::<S>(gap, sums[i][j][l]);
                }
            });
        });
    }
    unrolled!(i in [0, 1] {
        unrolled!(j in [0, 1, 2, 3] { out[i][j] = sums[i][j]; });
    });
}

#[inline(always)]
fn sum_lanes<T: Real>(lanes: &[T; LANES]) -> f64 {
    let mut sums = lanes.map(Real::to_f64);
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            sums[l] += sums[l + half];
        }
        half /= 2;
    }
    sums[0]
}

struct PullJob<'a, 'b, T> {
    /// The vectors of the gradient and the others.
    batches: [&'a View<'b>; 2],
    grids: [Grid; 3],
    slopes: &'a [T],
    /// Whether the rows of the matrix of slopes are the own vectors', not its columns.
    own_first: bool,
    out: &'a ViewMut<'a>,
    n: usize,
}

/// A tile of a gradient.
struct PullTile<'a, 'b, 'c, T> {
    job: &'a PullJob<'b, 'c, T>,
    tile: Tile,
}

impl<T: Real> Kernel for PullTile<'_, '_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let PullTile { job, tile } = self;
        let width = tile.cols.div_ceil(LANES);
        let own = job.panel(0, tile, TOGETHER);
        let own_finite = all_finite(&own);
        let mut parts = vec![[T::ZERO; LANES]; 2 * TOGETHER * width];
        let mut sums = vec![[0.0; LANES]; own.len()];
        for start in (0..job.n).step_by(VECTORS) {
            let others = Tile { row: start, rows: VECTORS.min(job.n - start), ..tile };
            let other = job.panel(1, others, 2);
            let finite = own_finite && all_finite(&other);
            let groups = own.chunks(TOGETHER * width).zip(sums.chunks_mut(TOGETHER * width));
            for (group, (own, sums)) in groups.enumerate() {
                let first = tile.row + group * TOGETHER;
                let add = |slope: T, gap: T, sum: T| slope.mul_add::<S>(gap, sum);
                // A vector that does not count may hold anything.
                let add_counting = |slope: T, gap: T, sum: T| {
                    slope.mul_add::<S>(if slope == T::ZERO { T::ZERO } else { gap }, sum)
                };
                if job.own_first {
                    let slopes: [[T; VECTORS]; TOGETHER] = job.slopes(first, start);
                    let slope = |k: usize, m: usize| slopes[k][m];
                    if finite {
                        pull(slope, own, &other, &mut parts, sums, add);
                    } else {
                        pull(slope, own, &other, &mut parts, sums, add_counting);
                    }
                } else {
                    let slopes: [[T; TOGETHER]; VECTORS] = job.slopes(start, first);
                    let slope = |k: usize, m: usize| slopes[m][k];
                    if finite {
                        pull(slope, own, &other, &mut parts, sums, add);
                    } else {
                        pull(slope, own, &other, &mut parts, sums, add_counting);
                    }
                }
            }
        }
        let mut grad = vec![T::ZERO; tile.len()];
        let rows = grad.chunks_exact_mut(tile.cols).zip(sums.chunks_exact(width));
        for (grad, sums) in rows {
            for (g, sum) in grad.iter_mut().zip(sums.as_flattened()) {
                *g = T::from_f64(-2.0 * sum);
            }
        }
        job.grids[2].scatter(job.out, 0, tile, &grad);
    }
}

impl<T: Real> PullJob<'_, '_, T> {
    /// A tile of vectors, with whole chunks of elements and a multiple of `rows` rows.
    #[inline(always)]
    fn panel(&self, batch: usize, tile: Tile, rows: usize) -> Vec<[T; LANES]> {
        let width = tile.cols.div_ceil(LANES);
        let mut panel = vec![[T::ZERO; LANES]; tile.rows.next_multiple_of(rows) * width];
        let (grid, view) = (&self.grids[batch], self.batches[batch]);
        if tile.cols.is_multiple_of(LANES) {
            grid.read(view, 0, tile, &mut panel.as_flattened_mut()[..tile.len()]);
        } else {
            for (r, row) in panel.chunks_exact_mut(width).take(tile.rows).enumerate() {
                let tile = Tile { row: tile.row + r, rows: 1, ..tile };
                grid.read(view, 0, tile, &mut row.as_flattened_mut()[..tile.cols]);
            }
        }
        panel
    }

    /// A part of the matrix of slopes, 0 beyond its end.
    #[inline(always)]
    fn slopes<const ROWS: usize, const COLS: usize>(
        &self,
        row: usize,
        col: usize,
    ) -> [[T; COLS]; ROWS] {
        let mut part = [[T::ZERO; COLS]; ROWS];
        let cols = COLS.min(self.n - col);
        let rows = self.slopes[row * self.n..].chunks_exact(self.n);
        for (part, slopes) in part.iter_mut().zip(rows) {
            part[..cols].copy_from_slice(&slopes[col..][..cols]);
        }
        part
    }
}

#[inline(always)]
fn all_finite<T: Real>(panel: &[[T; LANES]]) -> bool {
    let mut lanes = [T::ZERO; LANES];
    for chunk in panel {
        for l in 0..LANES {
            // 0, or NaN of a number that is not finite.
            lanes[l] += chunk[l] * T::ZERO;
        }
    }
    lanes.iter().all(|lane| !lane.is_nan())
}

/// Adds slope (other - own) over all others to the sums of a group of own vectors. Two others at a time: that is as
/// many sums as keep the arithmetic units busy, and as few as fit into 16 registers. They go through `parts`, as above.
#[inline(always)]
fn pull<T: Real>(
    slope: impl Fn(usize, usize) -> T,
    own: &[[T; LANES]],
    other: &[[T; LANES]],
    parts: &mut [[T; LANES]],
    sums: &mut [[f64; LANES]],
    add: impl Fn(T, T, T) -> T,
) {
    let width = own.len() / TOGETHER;
    let parts = &mut parts[..2 * own.len()];
    for c in 0..width {
        let from: [[T; LANES]; TOGETHER] = std::array::from_fn(|k| own[k * width + c]);
        let mut lanes = [[[T::ZERO; LANES]; TOGETHER]; 2];
        for (m, others) in (0..VECTORS / 2).zip(other.chunks_exact(2 * width)) {
            unrolled!(i in [0, 1] {
                let other = others[i * width + c];
                unrolled!(k in [0, 1, 2, 3] {
                    let slope = slope(k, 2 * m + i);
                    for l in 0..LANES {
                        lanes[i][k][l] = add(slope, other[l] - from[k][l], lanes[i][k][l]);
                    }
                });
            });
        }
        unrolled!(i in [0, 1] {
            unrolled!(k in [0, 1, 2, 3] { parts[i * own.len() + k * width + c] = lanes[i][k]; });
        });
    }
    let (even, odd) = parts.as_flattened().split_at(own.as_flattened().len());
    for ((sum, even), odd) in sums.as_flattened_mut().iter_mut().zip(even).zip(odd) {
        *sum += even.to_f64() + odd.to_f64();
    }
}

//! The driver of losses of all pairs: a similarity of every vector of one batch to every vector of another.
//!
//! Work goes in blocks of rows of the matrix of pairs, as many as a limit of memory allows: what there is of an array over
//! all pairs is a block of it. Blocks are cut into tiles that depend on the shape alone, and every number is summed by
//! one task in one order, from block to block too.

use super::similarity::{Batches, GROUP, LANES, Similarity, VECTORS};
use crate::array::{Grid, Tile};
use crate::array::{View, ViewMut};
use crate::drive::operand::{Operand, Output};
use crate::error::{self, Error, Result, Tuple};
use crate::math::Real;
use crate::memory;
use crate::registry::{self, Call, Kind, Param, param};
use crate::simd::{self, Isa, Kernel, Level};
use crate::threads;
use std::marker::PhantomData;
use std::ops::Range;

/// The bytes that arrays over pairs may have.
pub const MEMORY_LIMIT: Param =
    param("memory_limit", registry::Default::Int(1 << 28), Kind::Int(1));

/// Refuses a first batch that is not a matrix.
pub fn matrix((name, shape): (&str, &[usize])) -> Result<()> {
    if shape.len() == 2 {
        return Ok(());
    }
    let detail = format!("expected two dimensions, got shape {}", Tuple(shape));
    Err(Error::new(error::Kind::Shape, name, detail))
}

/// Both batches of a call, with the batch axis first.
pub fn batches<'a>(call: &Call<'a>, samples: usize) -> [View<'a>; 2] {
    [0, 1].map(|at| call.argument(at, |given| Some(given.clone().move_axis(samples, 0))).view)
}

/// Vectors of the first batch in a task, at most and, where there are more, at least.
const TASK: (usize, usize) = (64, 16);
/// Rough time for value and gradient of one element of one pair, in nanoseconds.
const COST: f64 = 0.08;

/// A loss of the similarities of a vector of the first batch to all of the second.
pub trait PairKernel<T: Real>: Sync {
    /// One row of E, of which it returns the sum, or anything if that is not wanted.
    fn row<S: Isa>(&self, row: usize, similarities: &[f64], outputs: RowOutputs<'_, T>) -> T;
}

/// What a row writes; what is `None` is not wanted.
pub struct RowOutputs<'a, T> {
    /// E.
    pub value: Option<&'a mut [T]>,
    /// The derivative of the result with respect to each similarity.
    pub slopes: Option<&'a mut [T]>,
    /// Whether the sum is wanted.
    pub wants_sum: bool,
    /// Scratch as long as the row.
    pub scratch: [&'a mut [T]; 3],
}

/// What the rows of a block write: matrices over its pairs, and the sums of E's rows.
pub struct Outputs<'a, T> {
    /// E.
    pub value: Option<&'a mut [T]>,
    /// The sums of E's rows.
    pub sums: Option<&'a mut [T]>,
    /// The derivative of the result with respect to each similarity.
    pub slopes: Option<&'a mut [T]>,
}

/// Two batches of vectors, (N, D) and (M, D), or a block of rows of the first and the second.
pub struct Pairs<'a, M> {
    /// The instruction set.
    pub level: Level,
    /// The batches.
    pub batches: [View<'a>; 2],
    /// What arrays over pairs may need, in bytes.
    memory_limit: usize,
    of: PhantomData<M>,
}

impl<'a, M: Similarity> Pairs<'a, M> {
    /// Both batches with the batch axis first.
    pub fn new(level: Level, batches: [View<'a>; 2], memory_limit: usize) -> Self {
        Pairs { level, batches, memory_limit, of: PhantomData }
    }

    /// Rough time for value and gradient, in nanoseconds.
    pub fn cost(&self) -> f64 {
        let [n, m, d] = self.shape();
        COST * (n as f64) * (m as f64) * (d + 2 * LANES) as f64
    }

    /// N, M and D.
    pub(super) fn shape(&self) -> [usize; 3] {
        let [first, second] = &self.batches;
        [first.shape()[0], second.shape()[0], first.shape()[1]]
    }

    pub(super) fn grid(&self, batch: usize) -> Grid {
        Grid::single(self.batches[batch].shape(), self.batches[batch].strides())
    }

    /// A block of rows.
    pub(super) fn block(&self, rows: Range<usize>) -> Self {
        let [first, second] = &self.batches;
        Pairs { batches: [first.clone().narrow(rows), second.clone()], ..*self }
    }

    /// The rows of each block, for arrays with so many bytes for each pair: all rows, or else as many as fit, at least
    /// one. A quarter of the limit is left for the tiles of the tasks.
    pub fn blocks(&self, bytes: usize) -> Blocks {
        let [n, m, _] = self.shape();
        let fit = (self.memory_limit - self.memory_limit / 4) / (m * bytes).max(1);
        let rows = match fit {
            fit if fit >= n => n,
            fit if fit >= VECTORS => fit / VECTORS * VECTORS,
            fit if fit >= GROUP => fit / GROUP * GROUP,
            fit => fit,
        };
        Blocks { rows: rows.max(1), n }
    }

    /// Runs `kernel` over a block of rows, with the similarities of the block if they are at hand.
    pub fn rows<T: Real, L: PairKernel<T>>(
        &self,
        kernel: &L,
        rows: Range<usize>,
        similarities: Option<&[f64]>,
        outputs: Outputs<'_, T>,
    ) -> Result<()> {
        let block = self.block(rows.clone());
        let [n, m, _] = block.shape();
        let (mut matrix, mut column) = (Grid::new(&[n, m], 1), Grid::new(&[n, 1], 1));
        let whole = |x, cols| ViewMut::from_slice(x, &[n, cols]);
        let [value, slopes] = [outputs.value, outputs.slopes].map(|x| x.map(|x| whole(x, m)));
        let sums = outputs.sums.map(|x| whole(x, 1));
        let [value, slopes] =
            [&value, &slopes].map(|x| x.as_ref().map(|x| Operand::output(&mut matrix, x)));
        let sums = sums.as_ref().map(|x| Operand::output(&mut column, x));
        matrix.merge();
        column.merge();
        let job = RowJob {
            batches: Batches { views: &block.batches, grids: [block.grid(0), block.grid(1)] },
            of: PhantomData::<M>,
            kernel,
            first: rows.start,
            similarities,
            matrix,
            column,
            value,
            slopes,
            sums,
        };
        // The similarities of a task's rows are there at once on every thread.
        let room = self.memory_limit / 4 / threads::num_threads() / (size_of::<f64>() * m.max(1));
        let rows = n.div_ceil(2).next_multiple_of(GROUP).clamp(TASK.1, TASK.0);
        let rows = rows.min((room / GROUP * GROUP).max(GROUP));
        let tiles = n.div_ceil(rows);
        threads::run(tiles, block.cost() / tiles as f64, &|tasks| {
            for row in tasks.map(|task| task * rows) {
                let tile = Tile { row, rows: rows.min(n - row), col: 0, cols: m };
                simd::dispatch(self.level, RowTile { job: &job, tile, of: PhantomData::<T> })?;
            }
            Ok(())
        })
    }
}

/// The rows of each block in turn.
#[derive(Clone, Copy)]
pub struct Blocks {
    rows: usize,
    n: usize,
}

impl Blocks {
    /// Whether there is more than one.
    pub fn several(self) -> bool {
        self.rows < self.n
    }

    /// The most rows of a block.
    pub fn most(self) -> usize {
        self.rows.min(self.n)
    }

    /// The blocks.
    pub fn iter(self) -> impl Iterator<Item = Range<usize>> {
        let Blocks { rows, n } = self;
        (0..n).step_by(rows).map(move |start| start..(start + rows).min(n))
    }
}

struct RowJob<'a, 'b, M, L> {
    batches: Batches<'a, 'b>,
    of: PhantomData<M>,
    kernel: &'a L,
    /// The first row of the block.
    first: usize,
    similarities: Option<&'a [f64]>,
    matrix: Grid,
    column: Grid,
    value: Option<Output<'a, 'a>>,
    slopes: Option<Output<'a, 'a>>,
    sums: Option<Output<'a, 'a>>,
}

/// Rows of a block.
struct RowTile<'a, 'b, 'c, M, L, T> {
    job: &'a RowJob<'b, 'c, M, L>,
    tile: Tile,
    of: PhantomData<T>,
}

impl<M: Similarity, T: Real, L: PairKernel<T>> Kernel for RowTile<'_, '_, '_, M, L, T> {
    type Output = Result<()>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        let RowTile { job, tile, .. } = self;
        let mut computed = Vec::new();
        let similarities = if let Some(all) = job.similarities {
            &all[tile.row * tile.cols..][..tile.len()]
        } else {
            memory::grow(&mut computed, tile.len(), 0.0)?;
            job.batches.similarities::<S, M, T>(tile, &mut computed)?;
            &computed
        };
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
        for (r, similarities) in similarities.chunks_exact(tile.cols).enumerate() {
            let run = r * tile.cols..(r + 1) * tile.cols;
            let outputs = RowOutputs {
                value: value.as_deref_mut().map(|x| &mut x[run.clone()]),
                slopes: slopes.as_deref_mut().map(|x| &mut x[run]),
                wants_sum: sums.is_some(),
                scratch: scratch.each_mut().map(|x| &mut x[..]),
            };
            let sum = job.kernel.row::<S>(job.first + tile.row + r, similarities, outputs);
            if let Some(sums) = &mut sums {
                sums[r] = sum;
            }
        }
        Ok(())
    }
}

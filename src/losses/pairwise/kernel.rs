//! The driver of losses of all pairs: a similarity of every vector of one batch to every vector of another.
//!
//! Work goes in blocks of rows of the matrix of pairs, as many as a limit of memory allows: what there is of an array over
//! all pairs is a block of it. Blocks are cut into tiles whose size has no say in the numbers: each is summed by
//! one task in one order, from block to block too.

use super::marks::Marks;
use super::product::{DEPTH, RIGHT, ROWS};
use super::similarity::{Batches, Out, ProductScratch, Similarity};
use crate::array::{Grid, Tile};
use crate::array::{View, ViewMut};
use crate::buffer::Buffer;
use crate::drive::operand::{Operand, Output};
use crate::error::{self, Error, Result, Tuple};
use crate::math::Real;
use crate::memory;
use crate::registry::{self, Accepts, Call, Param, param};
use crate::scratch::{self, Reusable};
use crate::simd::{self, Isa, Kernel, Level};
use crate::threads;
use std::ops::Range;

/// The bytes that arrays over pairs may have.
pub const MEMORY_LIMIT: Param =
    param("memory_limit", registry::Default::Int(1 << 28), Accepts::Int(1));

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

/// Vectors of a batch in a task, at least, if there are more, and at most.
const ROWS_IN_TASK: (usize, usize) = (3 * ROWS, 44 * ROWS);
/// Rough time for value and gradient of one element of one pair, in nanoseconds.
const PAIR_COST: f64 = 0.08;
/// Elements of a pair that take as long as what does not depend on their number.
const PAIR: usize = 32;
/// Vectors that the centre is the mean of, at most.
const CENTRED: usize = 32;

/// Vectors of each task, of so many. Results do not depend on it.
pub(super) fn rows_of_task(rows: usize) -> usize {
    threads::part(rows, ROWS, ROWS_IN_TASK.0, ROWS_IN_TASK.1)
}

/// A loss of the similarities of a vector of the first batch to all of the second.
pub trait PairKernel<T: Real>: Sync {
    /// Whether slopes are written over similarities, rounded to their type: see [`Pairs::similarities`].
    const OVERWRITES: bool;

    /// One row of E, of which it returns the sum, or anything if that is not wanted.
    fn row<S: Isa>(&self, row: usize, similarities: &[f64], outputs: PairOutputs<'_, T>) -> T;
}

/// A [`PairKernel`] whose type is not known.
pub trait PairRows<T>: Sync {
    /// [`PairKernel::OVERWRITES`].
    fn overwrites(&self) -> bool;

    /// [`PairKernel::row`], with similarities, or what they are written over.
    fn dispatched_row(
        &self,
        level: Level,
        row: usize,
        x: &mut [f64],
        derives: bool,
        outputs: PairOutputs<'_, T>,
    ) -> T;
}

impl<T: Real, L: PairKernel<T>> PairRows<T> for L {
    fn overwrites(&self) -> bool {
        L::OVERWRITES
    }

    fn dispatched_row(
        &self,
        level: Level,
        row: usize,
        x: &mut [f64],
        derives: bool,
        outputs: PairOutputs<'_, T>,
    ) -> T {
        simd::dispatch(level, OneRow { kernel: self, row, x, derives, outputs })
    }
}

/// What a row writes; what is `None` is not wanted.
pub struct PairOutputs<'a, T> {
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
pub struct BlockOfPairs<'a, T> {
    /// E.
    pub value: Option<&'a mut [T]>,
    /// The sums of E's rows.
    pub sums: Option<&'a mut [T]>,
    /// The derivative of the result with respect to each similarity, or the similarities that they are written over.
    pub slopes: Option<&'a mut [T]>,
    /// Whether the derivatives are wanted.
    pub derives: bool,
    /// Pairs that had to be computed by themselves.
    pub marks: Option<&'a Marks>,
}

impl<T> BlockOfPairs<'_, T> {
    /// Nothing.
    pub const NONE: Self =
        BlockOfPairs { value: None, sums: None, slopes: None, derives: false, marks: None };
}

/// Two batches of vectors, (N, D) and (M, D), or a block of rows of the first and the second.
pub struct Pairs<'a> {
    /// The instruction set.
    pub level: Level,
    /// The batches.
    pub batches: [View<'a>; 2],
    /// A vector that all are taken relative to, or nothing.
    pub centre: &'a [f64],
    /// What arrays over pairs may need, in bytes.
    memory_limit: usize,
    /// What vectors are compared by.
    pub similarity: Similarity,
}

impl<'a> Pairs<'a> {
    /// Both batches with the batch axis first.
    pub fn new(
        similarity: Similarity,
        level: Level,
        batches: [View<'a>; 2],
        memory_limit: usize,
    ) -> Self {
        Pairs { level, batches, centre: &[], memory_limit, similarity }
    }

    /// The same, relative to a vector.
    pub fn around<'b>(&self, centre: &'b [f64]) -> Pairs<'b>
    where
        'a: 'b,
    {
        Pairs { batches: self.batches.clone(), centre, ..*self }
    }

    /// A vector in the midst of the second batch: the mean of some of it, or 0 where that is not finite.
    pub fn centre_of<T: Real>(&self) -> Result<Vec<f64>> {
        let [_, m, d] = self.shape();
        let mut centre = memory::filled(0.0, d)?;
        let mut buffer = memory::filled(T::ZERO, d)?;
        let every = m.div_ceil(CENTRED).max(1);
        for row in (0..m).step_by(every) {
            let tile = Tile { row, ..Tile::row(d) };
            let vector = self.grid(1).load(&self.batches[1], 0, tile, &mut buffer);
            for (sum, x) in centre.iter_mut().zip(vector) {
                *sum += x.to_f64();
            }
        }
        let count = m.div_ceil(every) as f64;
        for sum in &mut centre {
            *sum = if sum.is_finite() { T::from_f64(*sum / count).to_f64() } else { 0.0 };
        }
        Ok(centre)
    }

    /// Rough time for value and gradient, in nanoseconds.
    pub fn cost(&self) -> f64 {
        let [n, m, d] = self.shape();
        PAIR_COST * (n as f64) * (m as f64) * (d + PAIR) as f64
    }

    /// N, M and D.
    pub(super) fn shape(&self) -> [usize; 3] {
        let [first, second] = &self.batches;
        [first.shape()[0], second.shape()[0], first.shape()[1]]
    }

    pub(super) fn grid(&self, batch: usize) -> Grid {
        Grid::single(self.batches[batch].shape(), self.batches[batch].strides())
    }

    /// Both batches, to read.
    pub(super) fn sides(&self) -> Batches<'_, 'a> {
        Batches::new(self.similarity, &self.batches, self.centre)
    }

    /// A block of rows.
    pub(super) fn block(&self, rows: Range<usize>) -> Self {
        let [first, second] = &self.batches;
        Pairs { batches: [first.clone().narrow(rows), second.clone()], ..*self }
    }

    /// The rows of each block, for arrays with so many bytes for each pair: all rows, or else as many as fit, at least
    /// one. A quarter of the limit is left for the tiles of the tasks.
    pub fn blocks(&self, bytes: usize) -> RowBlocks {
        let [n, m, _] = self.shape();
        let fit = (self.memory_limit - self.memory_limit / 4) / (m * bytes).max(1);
        let rows = match fit {
            fit if fit >= n => n,
            fit if fit >= DEPTH => fit / DEPTH * DEPTH,
            fit if fit >= ROWS => fit / ROWS * ROWS,
            fit => fit,
        };
        RowBlocks { rows: rows.max(1), n }
    }

    /// Fills `out` with the similarities of a block of rows.
    pub fn similarities<T: Real>(&self, rows: Range<usize>, out: &mut [T]) -> Result<()> {
        let outputs = BlockOfPairs { slopes: Some(out), derives: true, ..BlockOfPairs::NONE };
        self.rows(None, rows, outputs)
    }

    /// Runs `kernel` over a block of rows; without one it fills in the similarities, in the place of slopes.
    pub fn rows<T: Real>(
        &self,
        kernel: Option<&dyn PairRows<T>>,
        rows: Range<usize>,
        outputs: BlockOfPairs<'_, T>,
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
            batches: block.sides(),
            kernel,
            first: rows.start,
            matrix,
            column,
            value,
            slopes,
            sums,
            derives: outputs.derives,
            marks: outputs.marks,
        };
        // The similarities of a task's rows are there at once on every thread, unless they are all that is wanted.
        let of_row = if kernel.is_some() { m } else { 0 } + RIGHT.min(m);
        let of_row = size_of::<f64>() * of_row.max(1);
        let room = self.memory_limit / 4 / threads::num_threads() / of_row;
        let rows = rows_of_task(n).min((room / ROWS * ROWS).max(ROWS));
        let overwrites = kernel.is_some_and(PairRows::overwrites);
        let rows = if overwrites { ROWS_IN_TASK.0 } else { rows };
        let tiles = n.div_ceil(rows);
        threads::run(tiles, block.cost() / tiles as f64, &|tasks| {
            scratch::with(|scratch| {
                tasks.map(|task| task * rows).try_for_each(|row| {
                    let tile = Tile { row, rows: rows.min(n - row), col: 0, cols: m };
                    job.tile(self.level, tile, scratch)
                })
            })
        })
    }
}

/// The rows of each block in turn.
#[derive(Clone, Copy)]
pub struct RowBlocks {
    rows: usize,
    n: usize,
}

impl RowBlocks {
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
        let RowBlocks { rows, n } = self;
        (0..n).step_by(rows).map(move |start| start..(start + rows).min(n))
    }
}

struct RowJob<'a, 'b, T> {
    batches: Batches<'a, 'b>,
    /// Without one the similarities are what is wanted, in the place of slopes.
    kernel: Option<&'a dyn PairRows<T>>,
    /// The first row of the block.
    first: usize,
    matrix: Grid,
    column: Grid,
    value: Option<Output<'a, 'a>>,
    slopes: Option<Output<'a, 'a>>,
    sums: Option<Output<'a, 'a>>,
    derives: bool,
    marks: Option<&'a Marks>,
}

/// Room for a tile.
#[derive(Default)]
struct SimilarityScratch<T> {
    similarities: Buffer<f64>,
    products: ProductScratch<T>,
    /// What outputs that memory does not hold in one run would be written to: there are none.
    outputs: [Buffer<T>; 3],
    rows: [Buffer<T>; 3],
}

impl<T: Real> Reusable for SimilarityScratch<T> {
    fn bytes(&self) -> usize {
        let SimilarityScratch { similarities, products, outputs, rows } = self;
        let others = outputs.iter().chain(rows).map(Reusable::bytes);
        similarities.bytes() + products.bytes() + others.sum::<usize>()
    }
}

impl<T: Real> RowJob<'_, '_, T> {
    /// Rows of a block.
    fn tile(&self, level: Level, tile: Tile, scratch: &mut SimilarityScratch<T>) -> Result<()> {
        let SimilarityScratch { similarities, products, outputs, rows: scratch } = scratch;
        let [value_buffer, slopes_buffer, sums_buffer] = outputs;
        let column = Tile { cols: 1, ..tile };
        let mut value =
            self.value.as_ref().map(|o| o.tile(&self.matrix, tile, value_buffer)).transpose()?;
        let mut slopes =
            self.slopes.as_ref().map(|o| o.tile(&self.matrix, tile, slopes_buffer)).transpose()?;
        let mut sums =
            self.sums.as_ref().map(|o| o.tile(&self.column, column, sums_buffer)).transpose()?;
        let Some(kernel) = self.kernel else {
            let Some(out) = slopes else { return Ok(()) };
            let out = Out::Rounded { out, row: similarities.sized(tile.cols.min(RIGHT))? };
            return self.batches.similarities(level, tile, out, self.marks, products);
        };
        let overwrites = kernel.overwrites();
        for row in &mut *scratch {
            row.sized(tile.cols)?;
        }
        // Of the row at hand, or of all.
        let x = similarities.sized(if overwrites { tile.cols } else { tile.len() })?;
        if !overwrites {
            self.batches.similarities(level, tile, Out::Rows(&mut *x), self.marks, products)?;
        }
        for r in 0..tile.rows {
            let run = r * tile.cols..(r + 1) * tile.cols;
            let x = if overwrites { &mut *x } else { &mut x[run.clone()] };
            let outputs = PairOutputs {
                value: value.as_deref_mut().map(|x| &mut x[run.clone()]),
                slopes: slopes.as_deref_mut().map(|x| &mut x[run.clone()]),
                wants_sum: sums.is_some(),
                scratch: scratch.each_mut().map(|x| &mut x[..tile.cols]),
            };
            let (row, derives) = (self.first + tile.row + r, self.derives);
            let sum = kernel.dispatched_row(level, row, x, derives, outputs);
            if let Some(sums) = &mut sums {
                sums[r] = sum;
            }
        }
        Ok(())
    }
}

/// [`PairRows::dispatched_row`].
struct OneRow<'r, L, T> {
    kernel: &'r L,
    row: usize,
    x: &'r mut [f64],
    derives: bool,
    outputs: PairOutputs<'r, T>,
}

impl<T: Real, L: PairKernel<T>> Kernel for OneRow<'_, L, T> {
    type Output = T;
    #[inline(always)]
    fn run<S: Isa>(self) -> T {
        let OneRow { kernel, row, x, derives, mut outputs } = self;
        if let Some(slopes) = outputs.slopes.as_deref().filter(|_| L::OVERWRITES) {
            for (x, &slope) in x.iter_mut().zip(slopes) {
                *x = slope.to_f64();
            }
        }
        outputs.slopes = outputs.slopes.filter(|_| derives);
        kernel.row::<S>(row, x, outputs)
    }
}

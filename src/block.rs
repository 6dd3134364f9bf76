//! The driver of element by element work: tiles, weights, reduction and threads, once for every loss.
//!
//! A loss is erased to a [`BlockKernel`], a function over equally long slices. The driver lines all operands up as rows
//! (the batch axis first) and columns, cuts them into tiles that fit the first-level cache, and for every tile loads
//! the inputs, runs the kernel, applies weights and sums. The other families reuse it on their unreduced losses
//! through [`Identity`], so weighting and reduction exist only here.

use crate::parallel;
use crate::real::Real;
use crate::reduce::{BLOCK, Reduction, sum_block, sum_pairwise};
use crate::simd::{self, Isa, Kernel, Level};
use crate::view::{Grid, View, ViewMut};
use crate::weight::{Divisor, Weighting};
use smallvec::SmallVec;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The most inputs that an elementwise loss takes.
pub const MAX_INPUTS: usize = 3;

/// Elements of a tile of dense operands: two or three operands fit a first-level cache of 32 KiB.
const TILE: usize = 2 * BLOCK;

/// Rows of a tile when some operand has its rows side by side in memory: a cache line of `f32`.
const GATHER_ROWS: usize = 16;

/// Work that a thread should take at least, in nanoseconds; with less than twice that there is one thread.
const CHUNK_NS: f64 = 10_000.0;

/// Where a kernel writes; what is `None` is not wanted.
pub struct BlockOutputs<'a, T> {
    /// The loss.
    pub value: Option<&'a mut [T]>,
    /// The derivative with respect to each input.
    pub grads: [Option<&'a mut [T]>; MAX_INPUTS],
    /// The second derivative with respect to the prediction.
    pub hess: Option<&'a mut [T]>,
}

/// An elementwise loss over slices of one length.
pub trait BlockKernel<T>: Send + Sync {
    /// How many inputs it takes.
    fn inputs(&self) -> usize;
    /// Rough time for one element in nanoseconds, to decide whether threads pay.
    fn cost(&self) -> f64;
    /// Computes the outputs; derivatives come multiplied by `scale`, the value does not.
    fn run(&self, level: Level, inputs: &[&[T]], outputs: BlockOutputs<'_, T>, scale: T);
}

/// The results of a call: views of shape E for everything but a reduced value.
#[derive(Default)]
pub struct Outputs<'a> {
    /// The loss: E's shape for [`Reduction::None`], (N,), or ().
    pub value: Option<ViewMut<'a>>,
    /// The gradient with respect to each input.
    pub grads: [Option<ViewMut<'a>>; MAX_INPUTS],
    /// The second derivative with respect to the prediction.
    pub hess: Option<ViewMut<'a>>,
}

/// The identity as a loss: through it the driver weights and reduces an E that was computed elsewhere, and its gradient
/// is the derivative of the result with respect to E.
pub struct Identity;

impl<T: Real> BlockKernel<T> for Identity {
    fn inputs(&self) -> usize {
        1
    }
    fn cost(&self) -> f64 {
        0.2
    }
    fn run(&self, _: Level, inputs: &[&[T]], outputs: BlockOutputs<'_, T>, scale: T) {
        if let Some(value) = outputs.value {
            value.copy_from_slice(inputs[0]);
        }
        if let [Some(grad), ..] = outputs.grads {
            grad.fill(scale);
        }
    }
}

/// Runs an elementwise loss over arrays of shape `shape`, the batch axis first (at least one axis).
///
/// `inputs` are broadcast to `shape`; `outputs` are as [`Outputs`] says and disjoint from each other and from
/// everything that is read.
pub fn drive<'a, T: Real>(
    kernel: &'a dyn BlockKernel<T>,
    level: Level,
    shape: &[usize],
    inputs: &[View<'a>],
    outputs: Outputs<'a>,
    weighting: &Weighting<'a>,
) {
    let mut grid = Grid::new(shape);
    let cols = grid.cols;
    let inputs = inputs.iter().map(|v| Operand::input(&mut grid, v)).collect();
    let grads = outputs.grads.map(|v| v.map(|v| Operand::output(&mut grid, v)));
    let hess = outputs.hess.map(|v| Operand::output(&mut grid, v));
    let (unreduced, reduced) = match weighting.reduction {
        Reduction::None => (outputs.value, None),
        // One element per sample is its own mean and sum.
        Reduction::Sample | Reduction::SampleSum if cols == 1 => {
            (outputs.value.and_then(|v| v.reshape(shape)), None)
        }
        _ => (None, outputs.value),
    };
    let unreduced = unreduced.map(|v| Operand::output(&mut grid, v));
    let mut factor = |v: &Option<View<'a>>| v.as_ref().map(|v| Operand::input(&mut grid, v));
    let sample_weight = factor(&weighting.sample_weight);
    let grad_output = factor(&weighting.grad_output);
    grid.merge();

    let columns = cols.min(BLOCK);
    let block_rows = (BLOCK / columns.max(1)).clamp(1, grid.rows.max(1));
    let per_block = weighting.reduction.is_total();
    let slots = match &reduced {
        None => 0,
        Some(_) if per_block => grid.rows.div_ceil(block_rows) * cols.div_ceil(BLOCK),
        Some(_) => grid.rows * cols.div_ceil(BLOCK),
    };
    let mut job = Job {
        kernel,
        level,
        inputs,
        grads,
        hess,
        unreduced,
        reduces: reduced.is_some(),
        per_block,
        sums: (0..slots).map(|_| AtomicU64::new(0)).collect(),
        divisor: weighting.divisor(shape),
        weight: weighting.weight,
        sample_weight,
        grad_output,
        block_rows,
        grid,
    };
    if job.grid.rows > 0 && cols > 0 {
        job.run();
    }
    if let Some(value) = reduced {
        job.finish(&value, weighting);
    }
}

/// An array with its number in the grid.
struct Operand<V> {
    view: V,
    k: usize,
}

impl<'a> Operand<ViewMut<'a>> {
    fn output(grid: &mut Grid, view: ViewMut<'a>) -> Self {
        Operand { k: grid.add(view.strides()), view }
    }

    /// The tile as memory to write: the view's own, else `buffer`, to be scattered later.
    fn tile<'s, T: Real>(
        &'s self,
        grid: &Grid,
        Tile { row, rows, col, cols }: Tile,
        buffer: &'s mut Vec<T>,
    ) -> &'s mut [T] {
        let len = rows * cols;
        // SAFETY: tiles are disjoint, and each is taken once.
        let direct = unsafe { grid.direct(&self.view, self.k, row, rows, col, len) };
        direct.unwrap_or_else(|| sized(buffer, len))
    }
}

impl<'a> Operand<View<'a>> {
    fn input(grid: &mut Grid, view: &View<'a>) -> Self {
        Operand { k: grid.add(view.strides()), view: view.clone() }
    }

    /// The factor of a whole row: 1 if it differs within rows.
    fn of_row(&self, grid: &Grid, row: usize) -> f64 {
        if grid.constant_in_row(self.k) {
            grid.load(&self.view, self.k, row, 1, 0, &mut [0.0])[0]
        } else {
            1.0
        }
    }
}

struct Job<'a, T> {
    kernel: &'a dyn BlockKernel<T>,
    level: Level,
    grid: Grid,
    inputs: SmallVec<[Operand<View<'a>>; MAX_INPUTS]>,
    grads: [Option<Operand<ViewMut<'a>>>; MAX_INPUTS],
    hess: Option<Operand<ViewMut<'a>>>,
    /// Where the loss of every element goes, if it is wanted.
    unreduced: Option<Operand<ViewMut<'a>>>,
    /// Whether sums are wanted instead.
    reduces: bool,
    /// Whether a sum may span rows.
    per_block: bool,
    /// Partial sums: one for each block of columns of each row, or of each group of `block_rows` rows.
    sums: Vec<AtomicU64>,
    block_rows: usize,
    divisor: Divisor,
    weight: f64,
    sample_weight: Option<Operand<View<'a>>>,
    grad_output: Option<Operand<View<'a>>>,
}

/// A rectangle of the grid.
#[derive(Clone, Copy)]
struct Tile {
    row: usize,
    rows: usize,
    col: usize,
    cols: usize,
}

/// Scratch for the operands of a tile that memory does not hold as a slice.
#[derive(Default)]
struct Scratch<T> {
    inputs: [Vec<T>; MAX_INPUTS],
    grads: [Vec<T>; MAX_INPUTS],
    hess: Vec<T>,
    value: Vec<T>,
    factor: Vec<T>,
}

impl<T: Real> Job<'_, T> {
    fn run(&self) {
        let grid = &self.grid;
        let views = self.inputs.iter().map(|o| o.k);
        let outputs = self.outputs().map(|o| o.k);
        let gathers = views.chain(outputs).any(|k| grid.prefers_rows(k));
        let wanted = if gathers { GATHER_ROWS } else { TILE / grid.cols.min(TILE) };
        let rows = (wanted.div_ceil(self.block_rows) * self.block_rows).min(grid.rows);
        let cols = grid.cols.min(if gathers { BLOCK } else { TILE });
        let (down, across) = (grid.rows.div_ceil(rows), grid.cols.div_ceil(cols));
        let tiles = down * across;
        let tile_ns = self.kernel.cost() * (rows * cols) as f64;
        let chunk = ((CHUNK_NS / tile_ns) as usize).clamp(1, tiles);
        let chunks = tiles.div_ceil(chunk);
        let work = |index: usize| {
            let mut scratch = Scratch::default();
            for t in index * chunk..((index + 1) * chunk).min(tiles) {
                let (row, col) = (t / across * rows, t % across * cols);
                let tile =
                    Tile { row, rows: rows.min(grid.rows - row), col, cols: cols.min(grid.cols - col) };
                simd::dispatch(self.level, RunTile { job: self, tile, scratch: &mut scratch });
            }
        };
        parallel::run(chunks, true, &work);
    }

    /// Outputs of E's shape.
    fn outputs(&self) -> impl Iterator<Item = &Operand<ViewMut<'_>>> {
        self.grads.iter().flatten().chain(&self.hess).chain(&self.unreduced)
    }

    /// What the derivatives of a row are multiplied by.
    fn grad_scale(&self, row: usize) -> f64 {
        let factor =
            |o: &Option<Operand<View<'_>>>| o.as_ref().map_or(1.0, |o| o.of_row(&self.grid, row));
        self.weight * factor(&self.sample_weight) * factor(&self.grad_output) / self.divisor.row(row)
    }

    /// What the values of a row are multiplied by before sums and divisors.
    fn row_weight(&self, row: usize) -> f64 {
        self.sample_weight.as_ref().map_or(1.0, |o| o.of_row(&self.grid, row))
    }

    /// Whether every row has the same scale.
    fn uniform(&self) -> bool {
        let varies = |o: &Option<Operand<View<'_>>>| {
            o.as_ref().is_some_and(|o| {
                self.grid.constant_in_row(o.k) && o.view.strides()[0] != 0
            })
        };
        !varies(&self.sample_weight)
            && !varies(&self.grad_output)
            && matches!(self.divisor, Divisor::All(_))
    }

    #[inline(always)]
    fn tile(&self, tile: Tile, scratch: &mut Scratch<T>) {
        let Tile { row, rows, col, cols } = tile;
        let (grid, len) = (&self.grid, rows * cols);
        let mut inputs = [&[][..]; MAX_INPUTS];
        for ((input, o), buffer) in inputs.iter_mut().zip(&self.inputs).zip(&mut scratch.inputs) {
            *input = grid.load(&o.view, o.k, row, rows, col, sized(buffer, len));
        }
        let Scratch { grads: buffers, hess: hess_buffer, value: value_buffer, .. } = scratch;
        let mut grads = [const { None }; MAX_INPUTS];
        for ((grad, o), buffer) in grads.iter_mut().zip(&self.grads).zip(buffers) {
            *grad = o.as_ref().map(|o| o.tile(grid, tile, buffer));
        }
        let mut hess = self.hess.as_ref().map(|o| o.tile(grid, tile, hess_buffer));
        let mut value = match &self.unreduced {
            Some(o) => Some(o.tile(grid, tile, value_buffer)),
            None => self.reduces.then(|| sized(value_buffer, len)),
        };

        let uniform = rows == 1 || self.uniform();
        let scale = if uniform { T::from_f64(self.grad_scale(row)) } else { T::ONE };
        let wanted = BlockOutputs {
            value: value.as_deref_mut(),
            grads: grads.each_mut().map(Option::as_deref_mut),
            hess: hess.as_deref_mut(),
        };
        self.kernel.run(self.level, &inputs[..self.inputs.len()], wanted, scale);

        for out in grads.iter_mut().chain([&mut hess]).flatten() {
            if uniform {
                if scale == T::ZERO {
                    out.fill(T::ZERO);
                }
            } else {
                for (r, run) in out.chunks_exact_mut(cols).enumerate() {
                    weigh_all(run, T::from_f64(self.grad_scale(row + r)));
                }
            }
        }
        let factors = [(&self.sample_weight, true), (&self.grad_output, false)];
        for (o, weighs_value) in factors {
            let Some(o) = o.as_ref().filter(|o| !grid.constant_in_row(o.k)) else { continue };
            let factor = grid.load(&o.view, o.k, row, rows, col, sized(&mut scratch.factor, len));
            for out in grads.iter_mut().chain([&mut hess]).flatten() {
                weigh(out, factor);
            }
            if weighs_value && let Some(value) = &mut value {
                weigh(value, factor);
            }
        }
        if let Some(value) = value {
            if self.reduces {
                self.sum(tile, value);
            } else if self.weight != 1.0 || self.sample_weight.is_some() {
                for (r, run) in value.chunks_exact_mut(cols).enumerate() {
                    weigh_all(run, T::from_f64(self.weight * self.row_weight(row + r)));
                }
            }
        }
        // A view that was not written directly has its tile in its buffer.
        let results = self.grads.iter().chain([&self.hess, &self.unreduced]);
        let buffers = scratch.grads.iter().chain([&scratch.hess, &scratch.value]);
        for (o, buffer) in results.zip(buffers) {
            if let Some(o) = o
                && !grid.is_direct::<T>(&o.view, o.k, rows)
            {
                grid.scatter(&o.view, o.k, row, rows, col, &buffer[..len]);
            }
        }
    }

    /// Adds up the values of a tile. The borders of the partial sums depend on the shape alone.
    #[inline(always)]
    fn sum(&self, tile: Tile, value: &[T]) {
        let store = |slot: usize, sum: f64| self.sums[slot].store(sum.to_bits(), Relaxed);
        let blocks = self.grid.cols.div_ceil(BLOCK);
        if blocks == 1 && self.per_block {
            for (i, block) in value.chunks(self.block_rows * tile.cols).enumerate() {
                let first = tile.row + i * self.block_rows;
                let varies = self.sample_weight.as_ref().is_some_and(|o| self.grid.constant_in_row(o.k));
                let sum = if varies {
                    let rows = block.chunks_exact(tile.cols).enumerate();
                    rows.map(|(r, run)| weighted(sum_block(run), self.row_weight(first + r))).sum()
                } else {
                    sum_block(block)
                };
                store(first / self.block_rows, sum);
            }
            return;
        }
        for (r, run) in value.chunks_exact(tile.cols).enumerate() {
            let row = tile.row + r;
            let weight = if self.per_block { self.row_weight(row) } else { 1.0 };
            for (b, block) in run.chunks(BLOCK).enumerate() {
                store(row * blocks + tile.col / BLOCK + b, weighted(sum_block(block), weight));
            }
        }
    }

    /// Turns partial sums into the value.
    fn finish(&mut self, value: &ViewMut<'_>, weighting: &Weighting<'_>) {
        let sums: Vec<f64> = self.sums.iter().map(|s| f64::from_bits(s.load(Relaxed))).collect();
        let (rows, cols) = (self.grid.rows, self.grid.cols);
        let is_mean = !matches!(weighting.reduction, Reduction::Sum | Reduction::SampleSum);
        let mean_of_nothing = is_mean && weighting.denominator.is_none();
        let values: Vec<T> = if self.per_block {
            let nothing = if weighting.reduction == Reduction::BatchMean { rows } else { rows * cols };
            let sum = if nothing == 0 && mean_of_nothing {
                weighting.empty
            } else {
                weighted(sum_pairwise(&sums), self.weight) / self.divisor.row(0)
            };
            vec![T::from_f64(sum)]
        } else if cols == 0 {
            vec![T::from_f64(if mean_of_nothing { weighting.empty } else { 0.0 }); rows]
        } else {
            let per_row = sums.chunks_exact(cols.div_ceil(BLOCK)).enumerate();
            per_row
                .map(|(row, parts)| {
                    let weight = self.weight * self.row_weight(row);
                    T::from_f64(weighted(sum_pairwise(parts), weight) / self.divisor.row(row))
                })
                .collect()
        };
        value.copy_from(&values);
    }
}

struct RunTile<'a, 'b, T> {
    job: &'a Job<'b, T>,
    tile: Tile,
    scratch: &'a mut Scratch<T>,
}

impl<T: Real> Kernel for RunTile<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        self.job.tile(self.tile, self.scratch);
    }
}

/// The first `len` elements of a buffer that grows as needed.
fn sized<T: Real>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::ZERO);
    }
    &mut buffer[..len]
}

/// `x * weight`; 0 where the weight is 0, whatever x is.
#[inline(always)]
fn weighted<T: Real>(x: T, weight: T) -> T {
    if weight == T::ZERO { T::ZERO } else { x * weight }
}

#[inline(always)]
fn weigh<T: Real>(x: &mut [T], weights: &[T]) {
    for (x, &w) in x.iter_mut().zip(weights) {
        *x = weighted(*x, w);
    }
}

#[inline(always)]
fn weigh_all<T: Real>(x: &mut [T], weight: T) {
    if weight == T::ZERO {
        x.fill(T::ZERO);
    } else if weight != T::ONE {
        for x in x {
            *x *= weight;
        }
    }
}

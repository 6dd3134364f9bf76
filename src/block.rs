//! The driver of element by element work: tiles, weights, reduction and threads, once for every loss.
//!
//! A loss is erased to a [`BlockKernel`], a function over equally long slices. The driver lines all operands up as rows
//! (the batch axis first) and columns, cuts them into tiles that fit the first-level cache, and for every tile loads
//! the inputs, runs the kernel, applies weights and sums. The other families reuse it on their unreduced losses
//! through [`Identity`], so weighting and reduction exist only here.

use crate::error::Result;
use crate::grid::{Grid, Tile};
use crate::memory;
use crate::operand::{Input, Operand, Output, sized};
use crate::real::Real;
use crate::reduce::{BLOCK, Reduction, sum_block_exactly, sum_pairwise};
use crate::simd::{self, Isa, Kernel, Level};
use crate::threads;
use crate::view::{View, ViewMut};
use crate::weight::{Divisor, Weighting};
use smallvec::SmallVec;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The most inputs that an elementwise loss takes.
pub const MAX_INPUTS: usize = 3;

/// Elements of a tile of dense operands: two or three operands fit a first-level cache of 32 KiB.
const TILE: usize = 2 * BLOCK;

/// Elements of a small tile.
const FEW: usize = 256;

/// Rows of a tile when some operand has its rows side by side in memory: a cache line of `f32`.
const GATHER_ROWS: usize = 16;

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
pub fn drive<'v, T: Real>(
    kernel: &'v dyn BlockKernel<T>,
    level: Level,
    shape: &[usize],
    inputs: &'v [View<'v>],
    outputs: &'v Outputs<'v>,
    weighting: &'v Weighting<'v>,
) -> Result<()> {
    let mut grid = Grid::new(shape, 1);
    let cols = grid.cols;
    let mut lined_up = SmallVec::new();
    for view in inputs {
        lined_up.push(Operand::input(&mut grid, view));
    }
    let mut output =
        |view: &'v Option<ViewMut<'v>>| view.as_ref().map(|v| Operand::output(&mut grid, v));
    let [a, b, c] = &outputs.grads;
    let grads = [output(a), output(b), output(c)];
    let hess = output(&outputs.hess);
    // One element per sample is its own mean and sum.
    let own_sum =
        cols == 1 && matches!(weighting.reduction, Reduction::Sample | Reduction::SampleSum);
    let whole = own_sum || weighting.reduction == Reduction::None;
    let unreduced = outputs.value.as_ref().filter(|_| whole);
    let reduced = if unreduced.is_some() { None } else { outputs.value.as_ref() };
    let unreduced = unreduced.map(|v| Operand::output(&mut grid, v));
    let mut factor =
        |view: &'v Option<View<'v>>| view.as_ref().map(|v| Operand::input(&mut grid, v));
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
    let job = Job {
        kernel,
        level,
        inputs: lined_up,
        grads,
        hess,
        unreduced,
        reduces: reduced.is_some(),
        per_block,
        sums: memory::collect((0..slots).map(|_| AtomicU64::new(0)))?,
        divisor: weighting.divisor(shape)?,
        weight: weighting.weight,
        sample_weight,
        grad_output,
        block_rows,
        grid: &grid,
    };
    if job.grid.rows > 0 && cols > 0 {
        job.run()?;
    }
    match reduced {
        Some(value) => job.finish(value, weighting),
        None => Ok(()),
    }
}

struct Job<'v, 'a, T> {
    kernel: &'v dyn BlockKernel<T>,
    level: Level,
    grid: &'v Grid,
    inputs: SmallVec<[Input<'v, 'a>; MAX_INPUTS]>,
    grads: [Option<Output<'v, 'a>>; MAX_INPUTS],
    hess: Option<Output<'v, 'a>>,
    /// Where the loss of every element goes, if it is wanted.
    unreduced: Option<Output<'v, 'a>>,
    /// Whether sums are wanted instead.
    reduces: bool,
    /// Whether a sum may span rows.
    per_block: bool,
    /// Partial sums: one for each block of columns of each row, or of each group of `block_rows` rows.
    sums: Vec<AtomicU64>,
    block_rows: usize,
    divisor: Divisor,
    weight: f64,
    sample_weight: Option<Input<'v, 'a>>,
    grad_output: Option<Input<'v, 'a>>,
}

/// Scratch for the operands of a tile that memory does not hold as a slice.
struct Scratch<T> {
    inputs: [Vec<T>; MAX_INPUTS],
    grads: [Vec<T>; MAX_INPUTS],
    hess: Vec<T>,
    value: Vec<T>,
    factor: Vec<T>,
    /// The values of a small tile, which shall not cost an allocation.
    few: [T; FEW],
}

impl<'v, 'a, T: Real> Job<'v, 'a, T> {
    fn run(&self) -> Result<()> {
        let grid = self.grid;
        let views = self.inputs.iter().map(|o| o.k);
        let outputs = self.outputs().map(|o| o.k);
        let gathers = views.chain(outputs).any(|k| grid.prefers_rows(k));
        let wanted = if gathers { GATHER_ROWS } else { TILE / grid.cols.min(TILE) };
        let rows = (wanted.div_ceil(self.block_rows) * self.block_rows).min(grid.rows);
        let cols = grid.cols.min(if gathers { BLOCK } else { TILE });
        let (down, across) = (grid.rows.div_ceil(rows), grid.cols.div_ceil(cols));
        let tiles = down * across;
        let tile_ns = self.kernel.cost() * (rows * cols) as f64;
        let work = |tasks: &mut threads::Tasks<'_>| {
            let mut scratch = Scratch {
                inputs: Default::default(),
                grads: Default::default(),
                hess: Vec::new(),
                value: Vec::new(),
                factor: Vec::new(),
                few: [T::ZERO; FEW],
            };
            for t in tasks {
                let (row, col) = (t / across * rows, t % across * cols);
                let tile = Tile {
                    row,
                    rows: rows.min(grid.rows - row),
                    col,
                    cols: cols.min(grid.cols - col),
                };
                simd::dispatch(self.level, RunTile { job: self, tile, scratch: &mut scratch })?;
            }
            Ok(())
        };
        threads::run(tiles, tile_ns, &work)
    }

    /// Outputs of E's shape.
    fn outputs(&self) -> impl Iterator<Item = &Output<'v, 'a>> {
        self.grads.iter().flatten().chain(&self.hess).chain(&self.unreduced)
    }

    /// What the derivatives of a row are multiplied by.
    fn grad_scale(&self, row: usize) -> f64 {
        let factor =
            |o: &Option<Input<'v, 'a>>| o.as_ref().map_or(1.0, |o| o.of_row(self.grid, row));
        self.weight * factor(&self.sample_weight) * factor(&self.grad_output)
            / self.divisor.row(row)
    }

    /// What the values of a row are multiplied by before sums and divisors.
    fn row_weight(&self, row: usize) -> f64 {
        self.sample_weight.as_ref().map_or(1.0, |o| o.of_row(self.grid, row))
    }

    /// Whether every row has the same scale.
    fn uniform(&self) -> bool {
        let varies = |o: &Option<Input<'v, 'a>>| {
            o.as_ref().is_some_and(|o| {
                self.grid.constant_in_row(o.k) && !self.grid.constant_in_column(o.k)
            })
        };
        !varies(&self.sample_weight)
            && !varies(&self.grad_output)
            && matches!(self.divisor, Divisor::All(_))
    }

    #[inline(always)]
    fn tile<S: Isa>(&self, tile: Tile, scratch: &mut Scratch<T>) -> Result<()> {
        let Tile { row, rows, cols, .. } = tile;
        let (grid, len) = (self.grid, tile.len());
        let mut inputs = [&[][..]; MAX_INPUTS];
        for ((input, o), buffer) in inputs.iter_mut().zip(&self.inputs).zip(&mut scratch.inputs) {
            *input = o.tile(grid, tile, buffer)?;
        }
        let Scratch { grads: buffers, hess: hess_buffer, value: value_buffer, few, .. } = scratch;
        let mut grads = [const { None }; MAX_INPUTS];
        for ((grad, o), buffer) in grads.iter_mut().zip(&self.grads).zip(buffers) {
            *grad = o.as_ref().map(|o| o.tile(grid, tile, buffer)).transpose()?;
        }
        let mut hess = self.hess.as_ref().map(|o| o.tile(grid, tile, hess_buffer)).transpose()?;
        let mut value = match &self.unreduced {
            Some(o) => Some(o.tile(grid, tile, value_buffer)?),
            None if !self.reduces => None,
            None if len <= FEW => Some(&mut few[..len]),
            None => Some(sized(value_buffer, len)?),
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
            let factor = o.tile(grid, tile, &mut scratch.factor)?;
            for out in grads.iter_mut().chain([&mut hess]).flatten() {
                weigh(out, factor);
            }
            if weighs_value && let Some(value) = &mut value {
                weigh(value, factor);
            }
        }
        if let Some(value) = value {
            if self.reduces {
                self.sum::<S>(tile, value);
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
            if let Some(o) = o {
                o.finish(grid, tile, buffer);
            }
        }
        Ok(())
    }

    /// Adds up the values of a tile. The borders of the partial sums depend on the shape alone.
    #[inline(always)]
    fn sum<S: Isa>(&self, tile: Tile, value: &[T]) {
        let store = |slot: usize, sum: f64| self.sums[slot].store(sum.to_bits(), Relaxed);
        let blocks = self.grid.cols.div_ceil(BLOCK);
        if blocks == 1 && self.per_block {
            for (i, block) in value.chunks(self.block_rows * tile.cols).enumerate() {
                let first = tile.row + i * self.block_rows;
                let varies =
                    self.sample_weight.as_ref().is_some_and(|o| self.grid.constant_in_row(o.k));
                let sum = if varies {
                    let rows = block.chunks_exact(tile.cols).enumerate();
                    rows.map(|(r, run)| {
                        sum_block_exactly::<S, T>(run).weighted(self.row_weight(first + r))
                    })
                    .sum()
                } else {
                    sum_block_exactly::<S, T>(block)
                };
                store(first / self.block_rows, sum);
            }
            return;
        }
        for (r, run) in value.chunks_exact(tile.cols).enumerate() {
            let row = tile.row + r;
            let weight = if self.per_block { self.row_weight(row) } else { 1.0 };
            for (b, block) in run.chunks(BLOCK).enumerate() {
                store(
                    row * blocks + tile.col / BLOCK + b,
                    sum_block_exactly::<S, T>(block).weighted(weight),
                );
            }
        }
    }

    /// Turns partial sums into the value.
    fn finish(&self, value: &ViewMut<'_>, weighting: &Weighting<'_>) -> Result<()> {
        let sum = |i: usize| f64::from_bits(self.sums[i].load(Relaxed));
        let (rows, cols) = (self.grid.rows, self.grid.cols);
        let is_mean = !matches!(weighting.reduction, Reduction::Sum | Reduction::SampleSum);
        let may_be_empty = is_mean && weighting.denominator.is_none();
        if self.per_block {
            let by_rows = weighting.reduction == Reduction::BatchMean;
            let count = if by_rows { rows } else { rows * cols };
            let result = if count == 0 && may_be_empty {
                weighting.empty
            } else {
                sum_pairwise(0..self.sums.len(), &sum).weighted(self.weight) / self.divisor.row(0)
            };
            return value.fill::<T>(1, |_| T::from_f64(result));
        }
        let blocks = cols.div_ceil(BLOCK);
        value.fill(rows, |row| {
            T::from_f64(if cols > 0 {
                let weight = self.weight * self.row_weight(row);
                let sum = match blocks {
                    1 => sum(row),
                    _ => sum_pairwise(row * blocks..(row + 1) * blocks, &sum),
                };
                sum.weighted(weight) / self.divisor.row(row)
            } else if may_be_empty {
                weighting.empty
            } else {
                0.0
            })
        })
    }
}

struct RunTile<'a, 'v, 'b, T> {
    job: &'a Job<'v, 'b, T>,
    tile: Tile,
    scratch: &'a mut Scratch<T>,
}

impl<T: Real> Kernel for RunTile<'_, '_, '_, T> {
    type Output = Result<()>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        self.job.tile::<S>(self.tile, self.scratch)
    }
}

#[inline(always)]
fn weigh<T: Real>(x: &mut [T], weights: &[T]) {
    for (x, &w) in x.iter_mut().zip(weights) {
        *x = x.weighted(w);
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

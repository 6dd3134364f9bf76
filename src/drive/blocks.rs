//! The driver of element by element work: tiles, weights, reduction and threads, once for every loss.
//!
//! A loss is erased to a [`BlockKernel`], a function over equally long slices. The driver lines all operands up as rows
//! (the batch axis first) and columns, cuts them into tiles that fit the first-level cache, and for every tile loads
//! the inputs, runs the kernel, applies weights and sums. The other families reuse it on their unreduced losses
//! through [`Identity`], so weighting and reduction exist only here.

use crate::array::{Grid, Tile};
use crate::array::{Tiles, ViewMut, elements};
use crate::drive::Reduction;
use crate::drive::domain::{Check, Domain, Order};
use crate::drive::factor::{Buffers, Factor, Factors};
use crate::drive::operand::{Argument, Input, Operand, Output, sized, tiles};
use crate::drive::weight::Weighting;
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::DType;
use crate::num::Float;
use crate::simd::{self, Isa, Kernel, Level};
use crate::sum::{BLOCK, ExactSum, sum_block, sum_block_exactly};
use crate::threads;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The most inputs that an elementwise loss takes.
pub const MAX_OPERANDS: usize = 5;

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
    pub grads: [Option<&'a mut [T]>; MAX_OPERANDS],
    /// The second derivative with respect to the prediction.
    pub hess: Option<&'a mut [T]>,
}

/// An elementwise loss over slices of one length.
pub trait BlockKernel<T>: Send + Sync {
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
    pub grads: [Option<ViewMut<'a>>; MAX_OPERANDS],
    /// The second derivative with respect to the prediction.
    pub hess: Option<ViewMut<'a>>,
}

/// The identity as a loss: through it the driver weights and reduces an E that was computed elsewhere, and its gradient
/// is the derivative of the result with respect to E.
pub struct Identity;

impl<T: Real> BlockKernel<T> for Identity {
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

/// Arrays of one shape, the batch axis first (at least one axis), and what is to be made of them.
pub(crate) struct Run<'v, T> {
    pub kernel: &'v dyn BlockKernel<T>,
    pub level: Level,
    /// E's shape.
    pub order: Order<'v>,
    /// The inputs, broadcast to the shape.
    pub inputs: &'v [Argument<'v>],
    /// As [`Outputs`] says, disjoint from each other and, but for what is overwritten, from everything that is read.
    pub outputs: &'v Outputs<'v>,
    pub weighting: &'v Weighting<'v>,
}

/// Runs an elementwise loss.
pub(crate) fn drive<'v, T: Real>(run: &Run<'v, T>) -> Result<()> {
    let Run { kernel, level, order, inputs, outputs, weighting } = *run;
    let shape = &order.batch_first()[..];
    let cols = elements(&shape[1..]);
    let reduction = weighting.reduction;
    // One element per sample is its own mean and sum, and the samples are the columns of a single row.
    let flat = cols == 1 && reduction != Reduction::SampleWeightedMean;
    let own_sum = flat && matches!(reduction, Reduction::Sample | Reduction::SampleSum);
    let whole = own_sum || reduction == Reduction::None;
    let mut grid = Grid::new(shape, usize::from(!flat));
    let mut lined_up = SmallVec::new();
    for argument in inputs {
        lined_up.push((Operand::argument(&mut grid, argument), argument.check.as_deref()));
    }
    let mut output =
        |view: &'v Option<ViewMut<'v>>| view.as_ref().map(|v| Operand::output(&mut grid, v));
    let grads = outputs.grads.each_ref().map(&mut output);
    let hess = output(&outputs.hess);
    let unreduced = outputs.value.as_ref().filter(|_| whole);
    let reduced = if unreduced.is_some() { None } else { outputs.value.as_ref() };
    let unreduced = unreduced.map(|v| Operand::output(&mut grid, v));
    let factors = Factors::new(&mut grid, weighting, shape)?;
    grid.merge();

    let cols = grid.cols;
    let block_rows = (BLOCK / cols.clamp(1, BLOCK)).clamp(1, grid.rows.max(1));
    let per_block = reduction.is_total();
    let slots = match &reduced {
        None => 0,
        Some(_) if per_block => grid.rows.div_ceil(block_rows) * cols.div_ceil(BLOCK),
        Some(_) => grid.rows * cols.div_ceil(BLOCK),
    };
    let job = Job {
        kernel,
        level,
        order,
        inputs: lined_up,
        grads,
        hess,
        unreduced,
        reduces: reduced.is_some(),
        per_block,
        sums: memory::collect_small((0..slots).map(|_| AtomicU64::new(0)))?,
        factors,
        weight: weighting.weight,
        block_rows,
        grid: &grid,
    };
    if job.grid.rows > 0 && cols > 0 {
        job.run()?;
    }
    match reduced {
        Some(value) => job.finish(tiles(value), weighting, shape),
        None => Ok(()),
    }
}

struct Job<'v, 'a, T> {
    kernel: &'v dyn BlockKernel<T>,
    level: Level,
    order: Order<'v>,
    grid: &'v Grid,
    inputs: SmallVec<[(Input<'v, 'a>, Option<&'v Check<'a>>); MAX_OPERANDS]>,
    grads: [Option<Output<'v, 'a>>; MAX_OPERANDS],
    hess: Option<Output<'v, 'a>>,
    /// Where the loss of every element goes, if it is wanted.
    unreduced: Option<Output<'v, 'a>>,
    /// Whether sums are wanted instead.
    reduces: bool,
    /// Whether a sum may span rows.
    per_block: bool,
    /// Partial sums: one for each block of columns of each row, or of each group of `block_rows` rows.
    sums: SmallVec<[AtomicU64; 16]>,
    block_rows: usize,
    factors: Factors<'v, 'a>,
    weight: f64,
}

/// Scratch for the operands of a tile that memory does not hold as a slice.
struct Scratch<T> {
    inputs: [Vec<T>; MAX_OPERANDS],
    grads: [Vec<T>; MAX_OPERANDS],
    hess: Vec<T>,
    value: Vec<T>,
    factors: Buffers,
    /// Values times their weights.
    products: Vec<f64>,
    /// Labels in their own type, for their check.
    exact: Vec<f64>,
    /// The values of a small tile, which shall not cost an allocation.
    few: [T; FEW],
}

impl<'v, 'a, T: Real> Job<'v, 'a, T> {
    fn run(&self) -> Result<()> {
        let grid = self.grid;
        let views = self.inputs.iter().map(|(o, _)| o.k);
        let outputs = self.outputs().map(|o| o.k);
        let gathers = views.chain(outputs).any(|k| grid.prefers_rows(k));
        // Weights and products with them want room in the cache, too.
        let len = if self.factors.is_weighted() { TILE / 2 } else { TILE };
        let wanted = if gathers { GATHER_ROWS } else { len / grid.cols.min(len) };
        let rows = (wanted.div_ceil(self.block_rows) * self.block_rows).min(grid.rows);
        let cols = grid.cols.min(if gathers { BLOCK } else { len });
        let (down, across) = (grid.rows.div_ceil(rows), grid.cols.div_ceil(cols));
        let tiles = down * across;
        let tile_ns = self.kernel.cost() * (rows * cols) as f64;
        let work = |tasks: &mut threads::Tasks<'_>| {
            let mut scratch = Scratch {
                inputs: Default::default(),
                grads: Default::default(),
                hess: Vec::new(),
                value: Vec::new(),
                factors: Buffers::default(),
                products: Vec::new(),
                exact: Vec::new(),
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

    #[inline(always)]
    fn tile<S: Isa>(&self, tile: Tile, scratch: &mut Scratch<T>) -> Result<()> {
        let Tile { cols, .. } = tile;
        let (grid, len) = (self.grid, tile.len());
        let (weights, scale) = self.factors.of_tile(grid, tile, &mut scratch.factors)?;
        let mut inputs = [&[][..]; MAX_OPERANDS];
        for ((input, (o, _)), buffer) in
            inputs.iter_mut().zip(&self.inputs).zip(&mut scratch.inputs)
        {
            *input = o.tile(grid, tile, buffer)?;
        }
        let Scratch { grads: buffers, hess: hess_buffer, value: value_buffer, few, .. } = scratch;
        let mut grads = [const { None }; MAX_OPERANDS];
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

        let at_once = scale.as_one();
        let wanted = BlockOutputs {
            value: value.as_deref_mut(),
            grads: grads.each_mut().map(Option::as_deref_mut),
            hess: hess.as_deref_mut(),
        };
        let of_kernel = at_once.unwrap_or(T::ONE);
        self.kernel.run(self.level, &inputs[..self.inputs.len()], wanted, of_kernel);
        // Only now: the kernel hides that it waits for memory, and leaves the tile in the cache.
        for (input, (o, check)) in inputs.iter().zip(&self.inputs) {
            if let Some(check) = check {
                self.check(check, o, tile, input, weights, &mut scratch.exact)?;
            }
        }
        for out in grads.iter_mut().chain([&mut hess]).flatten() {
            if at_once.is_none() || at_once == Some(T::ZERO) {
                scale.apply(out, cols);
            }
        }
        if let Some(value) = value {
            if self.reduces {
                self.sum::<S>(tile, value, weights, &mut scratch.products)?;
            } else if self.weight != 1.0 || self.factors.is_weighted() {
                weights.apply(value, cols, self.weight);
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

    /// Checks the elements of an input that have a weight, in the input's own type.
    #[inline(always)]
    fn check(
        &self,
        check: &Check<'_>,
        input: &Input<'_, '_>,
        tile: Tile,
        x: &[T],
        weights: Factor<'_>,
        exact: &mut Vec<f64>,
    ) -> Result<()> {
        let wider = input.view.dtype() == DType::F64 && T::DTYPE != DType::F64;
        if wider {
            let x = input.tile(self.grid, tile, exact)?;
            return if check.domain.all_hold(x) {
                Ok(())
            } else {
                self.wrong(check, tile, x, weights)
            };
        }
        if check.domain.all_hold(x) { Ok(()) } else { self.wrong(check, tile, x, weights) }
    }

    /// The error of the first element that has a weight and is not what it must be, if there is one.
    #[cold]
    #[inline(never)]
    fn wrong<X: Real>(
        &self,
        check: &Check<'_>,
        tile: Tile,
        x: &[X],
        weights: Factor<'_>,
    ) -> Result<()> {
        if check.domain == Domain::Weight {
            // No weight is exempt.
            return check.all();
        }
        let outside =
            |&(i, &x): &(usize, &X)| !check.domain.holds(x) && !weights.removes(i, tile.cols);
        let Some((i, _)) = x.iter().enumerate().find(outside) else { return Ok(()) };
        let (row, col) = (tile.row + i / tile.cols, tile.col + i % tile.cols);
        let position = row * self.grid.cols + col;
        Err(check.error(&self.order.element(position, check.given.shape())))
    }

    /// Adds up the values of a tile. The borders of the partial sums depend on the shape alone.
    #[inline(always)]
    fn sum<S: Isa>(
        &self,
        tile: Tile,
        value: &[T],
        weights: Factor<'_>,
        products: &mut Vec<f64>,
    ) -> Result<()> {
        let by_row = !self.per_block || self.block_rows == 1;
        let one = matches!(weights, Factor::One(_));
        if one || (by_row && self.factors.weighs_rows(self.grid)) {
            self.sum_blocks(tile, value, weights, sum_block_exactly::<S, T>);
            return Ok(());
        }
        let products = sized(products, tile.len())?;
        weights.products(value, tile.cols, products);
        // Products of f32 have room in an f64 for what their sum would round off.
        let sum = match T::DTYPE {
            DType::F32 => sum_block::<S, f64>,
            _ => sum_block_exactly::<S, f64>,
        };
        self.sum_blocks(tile, products, Factor::One(1.0), sum);
        Ok(())
    }

    /// Stores the sums of the blocks of a tile, each times the weight of its rows.
    #[inline(always)]
    fn sum_blocks<X>(
        &self,
        tile: Tile,
        value: &[X],
        weights: Factor<'_>,
        sum: impl Fn(&[X]) -> f64,
    ) {
        let store = |slot: usize, sum: f64| self.sums[slot].store(sum.to_bits(), Relaxed);
        let blocks = self.grid.cols.div_ceil(BLOCK);
        if blocks == 1 && self.per_block {
            for (i, block) in value.chunks(self.block_rows * tile.cols).enumerate() {
                let row = i * self.block_rows;
                let slot = (tile.row + row) / self.block_rows;
                store(slot, sum(block).weighted(weights.of_row(row, tile.cols)));
            }
            return;
        }
        for (r, run) in value.chunks_exact(tile.cols).enumerate() {
            let first = (tile.row + r) * blocks + tile.col / BLOCK;
            for (b, block) in run.chunks(BLOCK).enumerate() {
                store(first + b, sum(block).weighted(weights.of_row(r, tile.cols)));
            }
        }
    }

    /// Turns partial sums into the value.
    fn finish(
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
        if self.per_block {
            let by_rows = weighting.reduction == Reduction::BatchMean;
            let count = elements(if by_rows { &shape[..1] } else { shape });
            let result = if count == 0 && may_be_empty {
                weighting.empty
            } else {
                total(0..self.sums.len()) / divisor.row(0)
            };
            return value.fill::<T>(1, |_| T::from_f64(result));
        }
        let blocks = self.grid.cols.div_ceil(BLOCK);
        value.fill(self.grid.rows, |row| {
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

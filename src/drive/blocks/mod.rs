//! The driver of element by element work: tiles, weights, reduction and threads, once for every loss.
//!
//! A loss is erased to a [`BlockKernel`], a function over equally long slices. The driver lines all operands up as rows
//! (the batch axis first) and columns, cuts them into tiles that fit the first-level cache, and for every tile loads
//! the inputs, runs the kernel, applies weights and sums. The other families reuse it on their unreduced losses
//! through [`Identity`], so weighting and reduction exist only here. A few elements without weights are computed at once,
//! see [`Few`].

mod check;
mod compute;
mod samples;
mod sums;

use self::sums::Turned;
use crate::array::{Grid, Tile, ViewMut, elements};
use crate::buffer::Buffer;
use crate::drive::Reduction;
use crate::drive::block_kernel::{BlockKernel, BlockOutputs, MAX_OPERANDS, Outputs};
use crate::drive::domain::{Check, Order};
use crate::drive::extremes::Extremes;
use crate::drive::factor::{FactorBuffers, Factors};
use crate::drive::few::Few;
use crate::drive::operand::{Argument, GATHER_ROWS, Input, Operand, Output, gathered_rows, tiles};
use crate::drive::weight::Weighting;
use crate::error::{Error, Result};
use crate::math::Real;
use crate::memory;
use crate::simd::Level;
use crate::sum::{BLOCK, ColumnSums};
use crate::threads;
use smallvec::SmallVec;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

/// Elements of a tile of dense operands: two or three operands fit a first-level cache of 32 KiB.
const TILE: usize = 2 * BLOCK;

/// Elements of a small tile.
const SMALL_TILE: usize = 256;

/// Samples of a tile that are side by side in memory and have a sum in common, at least.
const SIDE_BY_SIDE: usize = 64;

/// Bytes of a tile whose rows are gathered, at most: more would leave the second-level cache.
const GATHERED: usize = 1 << 20;

/// Tiles of each thread, at least, before a tile has more than the least rows: threads wait for the last one.
const TILES: usize = 4;

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
pub(crate) struct BlockRun<'v, T> {
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
pub(crate) fn drive<'v, T: Real>(run: &BlockRun<'v, T>) -> Result<()> {
    let BlockRun { kernel, level, order, inputs, outputs, weighting } = *run;
    let shape = &order.batch_first()[..];
    let cols = elements(&shape[1..]);
    let reduction = weighting.reduction;
    // One element per sample is its own mean and sum, and the samples are the columns of a single row.
    let flat = cols == 1 && reduction != Reduction::SampleWeightedMean;
    let whole = reduction.keeps_elements(cols);
    if let Some(result) = at_once(run, shape) {
        return result;
    }
    let extremes = outputs.extremes.filter(|_| {
        // A result that is rounded once more may leave the range of its type.
        outputs.grads.iter().chain([&outputs.hess]).flatten().all(|out| out.dtype() == T::DTYPE)
    });
    if let Some(extremes) = extremes {
        extremes.look();
    }
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
    let mut factors = Factors::new(&mut grid, weighting, shape)?;
    grid.merge();

    let (rows, cols) = (grid.rows, grid.cols);
    let block_rows = (BLOCK / cols.clamp(1, BLOCK)).clamp(1, rows.max(1));
    let (partial, slots) = match &reduced {
        None => (Partial::Nothing, 0),
        Some(_) if reduction.is_total() => (Partial::Blocks, rows.div_ceil(block_rows)),
        Some(_) => (Partial::Samples, rows),
    };
    let slots = slots * cols.div_ceil(BLOCK);
    let weighs_rows = factors.weighs_rows(&grid);
    let operands = lined_up.iter().map(|(o, _): &(Input<'_, '_>, _)| o.k);
    let operands = operands.chain(grads.iter().flatten().map(|o| o.k));
    let turned = factors.divisor.is_one_for_all() && grid.most_prefer_rows(operands);
    if turned {
        grid.turn();
    }
    factors.read_rows(&grid)?;
    let job = BlockJob {
        kernel,
        level,
        order,
        inputs: lined_up,
        grads,
        hess,
        unreduced,
        partial,
        sums: memory::collect_small((0..slots).map(|_| AtomicU64::new(0)))?,
        factors,
        weighs_rows,
        weight: weighting.weight,
        extremes,
        first_wrong: Mutex::new(None),
        block_rows,
        grid: &grid,
        turned,
        rows,
        cols,
    };
    if rows > 0 && cols > 0 {
        job.run()?;
    }
    match reduced {
        Some(value) => job.finish(tiles(value), weighting, shape),
        None => Ok(()),
    }
}

/// A run of few elements without errors, computed at once.
fn at_once<T: Real>(run: &BlockRun<'_, T>, shape: &[usize]) -> Option<Result<()>> {
    let mut few = Few::new(run.kernel, run.level, run.weighting, shape)?;
    for argument in run.inputs {
        let input = argument.view.dense().filter(|_| !argument.overwritten)?;
        if argument.check.as_ref().is_some_and(|check| !check.domain.all_hold(run.level, input)) {
            return None;
        }
        few.push(input);
    }
    few.run(run.outputs)
}

struct BlockJob<'v, 'a, T> {
    kernel: &'v dyn BlockKernel<T>,
    level: Level,
    order: Order<'v>,
    grid: &'v Grid,
    /// Whether the rows of the grid are columns of E, because memory has samples side by side.
    turned: bool,
    /// Samples.
    rows: usize,
    /// Elements of a sample.
    cols: usize,
    inputs: SmallVec<[(Input<'v, 'a>, Option<&'v Check<'a>>); MAX_OPERANDS]>,
    grads: [Option<Output<'v, 'a>>; MAX_OPERANDS],
    hess: Option<Output<'v, 'a>>,
    /// Where the loss of every element goes, if it is wanted.
    unreduced: Option<Output<'v, 'a>>,
    /// What sums are wanted instead.
    partial: Partial,
    /// Partial sums: one for each block of columns of each row, or of each group of `block_rows` rows.
    sums: SmallVec<[AtomicU64; 16]>,
    block_rows: usize,
    factors: Factors<'v, 'a>,
    /// Whether no weight differs within a sample.
    weighs_rows: bool,
    weight: f64,
    extremes: Option<&'v Extremes>,
    /// The first element that is not what it must be, where tiles are not in the order of the elements.
    first_wrong: Mutex<Option<(usize, Error)>>,
}

/// What partial sums are of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Partial {
    /// There are none.
    Nothing,
    /// Elements of one sample.
    Samples,
    /// Elements of one sample or of several.
    Blocks,
}

/// Scratch for the operands of a tile that memory does not hold as a slice.
struct TileScratch<T> {
    inputs: [Buffer<T>; MAX_OPERANDS],
    grads: [Buffer<T>; MAX_OPERANDS],
    hess: Buffer<T>,
    value: Buffer<T>,
    factors: FactorBuffers,
    /// The values of a small tile, which shall not cost an allocation.
    few: [T; SMALL_TILE],
    rest: Rest<T>,
}

/// Scratch for what follows the kernel.
struct Rest<T> {
    /// Values times their weights.
    products: Buffer<f64>,
    /// The sums of samples side by side.
    samples: ColumnSums,
    /// Values with samples one behind another again.
    values: Turned<T>,
    /// Labels in their own type, for their check.
    exact: Buffer<f64>,
}

impl<T: Real> TileScratch<T> {
    fn new() -> Self {
        TileScratch {
            inputs: Default::default(),
            grads: Default::default(),
            hess: Buffer::new(),
            value: Buffer::new(),
            factors: FactorBuffers::default(),
            few: [T::ZERO; SMALL_TILE],
            rest: Rest {
                products: Buffer::new(),
                samples: ColumnSums::default(),
                values: Turned::default(),
                exact: Buffer::new(),
            },
        }
    }
}

impl<'v, 'a, T: Real> BlockJob<'v, 'a, T> {
    fn run(&self) -> Result<()> {
        if self.sums_samples() {
            self.run_stacks()?;
        } else {
            self.run_tiles()?;
        }
        let first_wrong = self.first_wrong.lock().unwrap_or_else(PoisonError::into_inner).take();
        first_wrong.map_or(Ok(()), |(_, error)| Err(error))
    }

    fn run_tiles(&self) -> Result<()> {
        let grid = self.grid;
        let (rows, cols) = self.tile_size();
        let (down, across) = (grid.rows.div_ceil(rows), grid.cols.div_ceil(cols));
        let task_ns = self.kernel.cost() * (rows.min(grid.rows) * cols) as f64;
        let work = |tasks: &mut threads::Tasks<'_>| {
            let mut scratch = TileScratch::new();
            for t in tasks {
                let (row, col) = (t / across * rows, t % across * cols);
                let (rows, cols) = (rows.min(grid.rows - row), cols.min(grid.cols - col));
                self.whole(Tile { row, rows, col, cols }, &mut scratch)?;
            }
            Ok(())
        };
        threads::run(down * across, task_ns, &work)
    }

    /// Whether some operand has its rows side by side in memory.
    fn gathers(&self) -> bool {
        let inputs = self.inputs.iter().map(|(o, _)| o.k);
        inputs.chain(self.outputs().map(|o| o.k)).any(|k| self.grid.prefers_rows(k))
    }

    /// Rows and columns of a tile.
    fn tile_size(&self) -> (usize, usize) {
        let (grid, gathers) = (self.grid, self.gathers());
        if self.turned && self.partial != Partial::Nothing {
            // Whole samples, and as many as have their sum in common.
            let cols = (TILE / grid.rows).max(SIDE_BY_SIDE).next_multiple_of(self.block_rows);
            return (grid.rows, cols.min(grid.cols));
        }
        // Weights of elements and products with them want room in the cache, too.
        let len = if self.factors.is_weighted() && !self.weighs_rows { TILE / 2 } else { TILE };
        let wanted = if gathers {
            let operands = self.inputs.len() + self.outputs().count() + 1;
            let most = gathered_rows(grid.cols.min(BLOCK) * operands, GATHERED / size_of::<T>());
            threads::part(grid.rows / TILES, GATHER_ROWS, GATHER_ROWS, most)
        } else {
            len / grid.cols.min(len)
        };
        let block_rows = if self.turned { 1 } else { self.block_rows };
        let rows = wanted.next_multiple_of(block_rows).min(grid.rows);
        (rows, grid.cols.min(if gathers { BLOCK } else { len }))
    }

    /// Whether each sample has sums of its own.
    fn sums_rows(&self) -> bool {
        match self.partial {
            Partial::Nothing => false,
            Partial::Samples => true,
            Partial::Blocks => self.block_rows == 1,
        }
    }

    /// Outputs of E's shape.
    fn outputs(&self) -> impl Iterator<Item = &Output<'v, 'a>> {
        self.grads.iter().flatten().chain(&self.hess).chain(&self.unreduced)
    }

    /// Whether results lie along the rows of the grid, and these have all factors in common, so that a tile is worked on
    /// line by line.
    fn has_lines(&self) -> bool {
        let runs = |o: &Output<'_, '_>| self.grid.has_runs(o.k, o.view.dtype().size());
        self.sums_samples() && self.weighs_rows && self.outputs().all(runs)
    }

    /// A tile in the way that suits it.
    fn tile(&self, tile: Tile, scratch: &mut TileScratch<T>) -> Result<()> {
        if self.has_lines() { self.lines(tile, scratch) } else { self.whole(tile, scratch) }
    }

    /// A tile line by line: a line of each input that lies along it is read as it is, and of the others all lines are
    /// gathered first.
    #[inline(never)]
    fn lines(&self, tile: Tile, scratch: &mut TileScratch<T>) -> Result<()> {
        let grid = self.grid;
        let TileScratch { inputs: rooms, grads, hess, value, factors, rest, .. } = scratch;
        let first = Tile { rows: 1, ..tile };
        let factors = self.factors.of_tile(self.level, grid, first, factors)?;
        let mut runs = [const { None }; MAX_OPERANDS];
        let mut lie_across = [false; MAX_OPERANDS];
        for (k, (o, _)) in self.inputs.iter().enumerate() {
            runs[k] = o.runs::<T>(grid, tile);
            lie_across[k] = !grid.has_runs(o.k, o.view.dtype().size());
            if lie_across[k] {
                grid.read(o.view, o.k, tile, rooms[k].sized(tile.len())?);
            }
        }
        let gradients = self.grads.iter().chain([&self.hess]);
        let rooms_of_gradients = grads.iter_mut().chain([&mut *hess]);
        let mut results = [const { None }; MAX_OPERANDS + 1];
        for (result, (o, room)) in results.iter_mut().zip(gradients.zip(rooms_of_gradients)) {
            let Some(o) = o else { continue };
            *result = Some((o, o.runs::<T>(grid, tile), room.sized(tile.cols)?));
        }
        let value = value.sized(tile.cols)?;
        for (r, row) in (tile.row..tile.row + tile.rows).enumerate() {
            let line = Tile { row, ..first };
            let mut inputs = [&[][..]; MAX_OPERANDS];
            for (k, ((o, _), room)) in self.inputs.iter().zip(&mut *rooms).enumerate() {
                inputs[k] = match &runs[k] {
                    Some(runs) => runs.row(row),
                    None if lie_across[k] => &room[r * tile.cols..][..tile.cols],
                    None => {
                        let room = room.sized(tile.cols)?;
                        grid.read(o.view, o.k, line, room);
                        room
                    }
                };
            }
            let mut lines = results.each_mut().map(|result| {
                let (_, runs, room) = result.as_mut()?;
                Some(runs.as_ref().map_or(&mut room[..], |runs| runs.row_mut(row)))
            });
            let [grads @ .., hess] = &mut lines;
            let outputs = BlockOutputs {
                value: Some(&mut *value),
                grads: grads.each_mut().map(Option::as_deref_mut),
                hess: hess.as_deref_mut(),
            };
            self.compute(line, &factors, &inputs[..self.inputs.len()], outputs, rest)?;
            for (o, runs, room) in results.iter().flatten() {
                if runs.is_none() {
                    grid.scatter(o.view, o.k, line, room);
                }
            }
        }
        Ok(())
    }

    /// A tile at once.
    #[inline(never)]
    fn whole(&self, tile: Tile, scratch: &mut TileScratch<T>) -> Result<()> {
        let (grid, len) = (self.grid, tile.len());
        let factors = self.factors.of_tile(self.level, grid, tile, &mut scratch.factors)?;
        let mut inputs = [&[][..]; MAX_OPERANDS];
        let operands = self.inputs.iter().zip(&mut scratch.inputs);
        for (input, ((o, _), buffer)) in inputs.iter_mut().zip(operands) {
            *input = o.tile(grid, tile, buffer)?;
        }
        let TileScratch { grads: buffers, hess: hess_buffer, value: value_buffer, few, .. } =
            scratch;
        let mut grads = [const { None }; MAX_OPERANDS];
        for ((grad, o), buffer) in grads.iter_mut().zip(&self.grads).zip(buffers) {
            *grad = o.as_ref().map(|o| o.tile(grid, tile, buffer)).transpose()?;
        }
        let hess = self.hess.as_ref().map(|o| o.tile(grid, tile, hess_buffer)).transpose()?;
        let value = match &self.unreduced {
            Some(o) => Some(o.tile(grid, tile, value_buffer)?),
            None if self.partial == Partial::Nothing => None,
            None if len <= SMALL_TILE => Some(&mut few[..len]),
            None => Some(value_buffer.sized(len)?),
        };

        let outputs = BlockOutputs { value, grads, hess };
        let inputs = &inputs[..self.inputs.len()];
        self.compute(tile, &factors, inputs, outputs, &mut scratch.rest)?;
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
}

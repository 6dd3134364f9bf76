//! The driver of row by row work: tiles and threads, once for every loss of the family.
//!
//! What a loss does is in [`super::row_kernel`]; it does it row by row, for several rows together or for rows side by side
//! in memory, where there is a form for them. Weights and reductions are the elementwise driver's, see [`super::reduced`].

mod forms;

use crate::array::{Grid, Tile, Tiles, ViewMut};
use crate::buffer::Buffer;
use crate::drive::columns::{CheckedInput, ColumnRoom, block_rows};
use crate::drive::domain::Check;
use crate::drive::operand::{
    Argument, MAX_NUMBERS, MAX_VECTORS, Operand, Output, gathered_rows, tiles,
};
use crate::drive::row_kernel::{LANES, TileKernel};
use crate::drive::scale::Scale;
use crate::error::Result;
use crate::math::Real;
use crate::num::DType;
use crate::simd::Level;
use crate::threads;
use std::any::Any;

/// Elements of a tile of rows, about: those of a vector of rows that are worked on together stay in the first-level cache.
const ROW_TILE: usize = 2048;

/// Elements of a tile of rows one by one, at most, as every tile costs time of its own; those of all vectors stay in the
/// second-level cache.
const LONG_TILE: usize = 8192;

/// Tiles of each thread, at least, before they become as long as that: threads wait for the last one.
const TILES: usize = 8;

/// Groups of rows side by side that are gathered together, at most: with fewer in a line of memory every page
/// of it would be come back to more often.
const GROUPS: usize = 8;

/// Elements that are gathered together: more of them would leave the second-level cache.
const GATHERED: usize = 1 << 18;

/// Columns up to which rows are worked on side by side.
const SHORT_ROW: usize = 32;

/// Columns up to which rows are worked on together.
const MEDIUM: usize = 1024;

/// Rows that are worked on together, at least: fewer have to wait for themselves.
const TOGETHER: usize = 8;

/// The arrays of a run. Vectors and their derivatives are of one shape; numbers have that of the rows.
pub struct Rows<'a, T> {
    /// The loss.
    pub kernel: &'a dyn TileKernel<T>,
    /// The instruction set.
    pub level: Level,
    /// The shape: first the axes of the rows, then those within a row.
    pub shape: &'a [usize],
    /// How many axes are the rows'.
    pub outer: usize,
    /// The vectors.
    pub vectors: &'a [Argument<'a>],
    /// The numbers.
    pub numbers: &'a [Argument<'a>],
    /// What an element of an input outside its domain leads to: an error, unless it has no weight.
    pub outside: &'a Outside<'a>,
    /// The gradients of the vectors.
    pub grads: [Option<&'a ViewMut<'a>>; MAX_VECTORS],
    /// The gradients of the numbers.
    pub number_grads: [Option<&'a ViewMut<'a>>; MAX_NUMBERS],
    /// The second derivative.
    pub hess: Option<&'a ViewMut<'a>>,
    /// The loss of each element.
    pub elements: Option<&'a ViewMut<'a>>,
    /// What the derivatives of each row are multiplied by.
    pub scale: &'a Scale,
    /// The loss of each row, if wanted.
    pub value: Option<&'a mut [T]>,
}

/// See [`Rows::outside`].
pub type Outside<'a> = dyn Fn(&Check<'_>, Place) -> Result<()> + Sync + 'a;

/// Where an input is not what it must be.
#[derive(Clone, Copy)]
pub enum Place {
    /// At an element of a vector.
    Element(usize),
    /// At the number of a row.
    Row(usize),
}

/// Runs a kernel over all rows.
pub fn drive<T: Real>(rows: Rows<'_, T>) -> Result<()> {
    let mut grid = Grid::new(rows.shape, rows.outer);
    let mut row_grid = Grid::new(&rows.shape[..rows.outer], rows.outer);
    let (vectors, numbers) = (rows.vectors, rows.numbers);
    let vectors: [_; MAX_VECTORS] = std::array::from_fn(|v| {
        let argument = vectors.get(v)?;
        Some((Operand::argument(&mut grid, argument), argument.check.as_deref()))
    });
    let numbers: [_; MAX_NUMBERS] = std::array::from_fn(|c| {
        let argument = numbers.get(c)?;
        Some((Operand::argument(&mut row_grid, argument), argument.check.as_deref()))
    });
    let grads = rows.grads.map(|v| v.map(|v| Operand::output(&mut grid, v)));
    let number_grads = rows.number_grads.map(|v| v.map(|v| Operand::output(&mut row_grid, v)));
    let hess = rows.hess.map(|v| Operand::output(&mut grid, v));
    let elements = rows.elements.map(|v| Operand::output(&mut grid, v));
    grid.merge();
    row_grid.merge();
    let values = rows.value.map(|v| {
        let n = v.len();
        ViewMut::from_slice(v, &[n])
    });
    // All in one line, so that a tile's values are a dense part of it.
    let value_grid = values.as_ref().map(|v| {
        let mut grid = Grid::new(v.shape(), 0);
        grid.add(v.strides());
        grid
    });
    let kernel = rows.kernel;
    let inputs = vectors.iter().flatten().map(|(o, _)| (o.k, o.view.dtype(), o.copied));
    let outputs = grads.iter().flatten().chain(&hess).chain(&elements);
    let mut operands = inputs.chain(outputs.map(|o| (o.k, o.view.dtype(), o.copied)));
    let has_room = |&(k, dtype, copied): &_| grid.prefers_rows(k) || dtype != T::DTYPE || copied;
    let gathered = operands.clone().filter(has_room).count() * grid.cols.max(1);
    let gathers = operands.any(|(k, ..)| grid.prefers_rows(k));
    let form = match kernel.is_grouped() {
        true if gathers || grid.cols <= SHORT_ROW => Form::Lanes,
        true if grid.cols <= MEDIUM => Form::Group,
        _ => Form::Row,
    };
    let fitting = |elements: usize| (elements / grid.cols.max(1)).clamp(1, LANES);
    let step = match (form, gathers) {
        (Form::Lanes, true) => (GATHERED / (LANES * grid.cols.max(1))).clamp(2, GROUPS) * LANES,
        (Form::Lanes, false) => LANES,
        (Form::Group, _) => fitting(ROW_TILE).max(TOGETHER),
        (Form::Row, true) => gathered_rows(gathered, GATHERED),
        (Form::Row, false) => {
            threads::part(grid.rows / TILES, 1, fitting(ROW_TILE), fitting(LONG_TILE))
        }
    };
    if grid.rows == 0 {
        return Ok(());
    }
    let has_others =
        hess.is_some() || elements.is_some() || number_grads.iter().any(Option::is_some);
    let side_by_side = if gathers && kernel.by_columns() && !has_others && grid.cols > 0 {
        let mut turned = grid.clone();
        turned.turn();
        let runs = |k, dtype: DType| turned.has_runs(k, dtype.size());
        let mut inputs = vectors.iter().flatten();
        let mut outputs = grads.iter().flatten();
        let lie = outputs.all(|o| runs(o.k, o.view.dtype()))
            && inputs.all(|(o, check)| {
                runs(o.k, o.view.dtype()) && (check.is_none() || !o.is_wider::<T>())
            });
        let converts = |o: &Output<'_, '_>| o.view.dtype() != T::DTYPE;
        let keeps =
            grads.iter().flatten().any(converts) || rows.vectors.iter().any(|v| v.overwritten);
        let block = block_rows(grid.rows, turned.run(), if keeps { grid.cols } else { 1 });
        block.filter(|_| lie).map(|block| (turned, block))
    } else {
        None
    };
    let turned = side_by_side.as_ref().map(|(turned, _)| turned);
    // Blocks of rows side by side end where these do.
    let (run, block) = match &side_by_side {
        Some((turned, block)) => (turned.run(), *block),
        None => (grid.rows, step),
    };
    let job = RowsJob {
        kernel,
        level: rows.level,
        grid: &grid,
        turned,
        row_grid: &row_grid,
        vectors,
        numbers,
        outside: rows.outside,
        grads,
        number_grads,
        hess,
        elements,
        scale: rows.scale,
        value: values.as_ref().map(tiles).zip(value_grid.as_ref()),
        form,
        step,
    };
    let block_ns = kernel.cost() * (block * grid.cols) as f64;
    let blocks = run.div_ceil(block);
    threads::run(grid.rows / run * blocks, block_ns, &|tasks| {
        let mut buffers = RowBuffers::default();
        let needs_scratch = matches!(form, Form::Row) || turned.is_some();
        let mut scratch = needs_scratch.then(|| kernel.scratch(grid.cols)).transpose()?;
        for task in tasks {
            let within = task % blocks * block;
            let (row, rows) = (task / blocks * run + within, block.min(run - within));
            let tile = Tile { row, rows, col: 0, cols: grid.cols };
            job.run(tile, &mut buffers, scratch.as_deref_mut())?;
        }
        Ok(())
    })
}

struct RowsJob<'a, T> {
    kernel: &'a dyn TileKernel<T>,
    level: Level,
    grid: &'a Grid,
    /// The same with columns for rows, if rows lie side by side and the loss has a form for that.
    turned: Option<&'a Grid>,
    /// The grid of what has one number for each row.
    row_grid: &'a Grid,
    vectors: [Option<CheckedInput<'a>>; MAX_VECTORS],
    numbers: [Option<CheckedInput<'a>>; MAX_NUMBERS],
    outside: &'a Outside<'a>,
    grads: [Option<Output<'a, 'a>>; MAX_VECTORS],
    number_grads: [Option<Output<'a, 'a>>; MAX_NUMBERS],
    hess: Option<Output<'a, 'a>>,
    elements: Option<Output<'a, 'a>>,
    scale: &'a Scale,
    value: Option<(Tiles<'a, 'a>, &'a Grid)>,
    form: Form,
    /// Rows that are worked on together in this form.
    step: usize,
}

/// How rows are worked on.
#[derive(Clone, Copy)]
enum Form {
    /// One by one.
    Row,
    /// Together, as they stand.
    Group,
    /// Together, side by side.
    Lanes,
}

/// Room for what memory does not hold as a slice.
#[derive(Default)]
struct RowBuffers<T> {
    vectors: [Buffer<T>; MAX_VECTORS],
    numbers: [Buffer<T>; MAX_NUMBERS],
    grads: [Buffer<T>; MAX_VECTORS],
    number_grads: [Buffer<T>; MAX_NUMBERS],
    hess: Buffer<T>,
    elements: Buffer<T>,
    value: Buffer<T>,
    /// Labels in their own type, for their check.
    exact: Buffer<f64>,
    /// What the derivatives of rows side by side are multiplied by.
    scale: Buffer<f64>,
    columns: ColumnRoom<T>,
}

impl<T: Real> RowsJob<'_, T> {
    /// A block of rows side by side, or else step by step.
    fn run(
        &self,
        tile: Tile,
        buffers: &mut RowBuffers<T>,
        mut scratch: Option<&mut dyn Any>,
    ) -> Result<()> {
        if let (Some(turned), Some(scratch)) = (self.turned, scratch.as_deref_mut())
            && self.columns(turned, tile, buffers, scratch)?
        {
            self.store(tile, &buffers.value);
            return Ok(());
        }
        let end = tile.row + tile.rows;
        for row in (tile.row..end).step_by(self.step) {
            let tile = Tile { row, rows: self.step.min(end - row), ..tile };
            buffers.value.sized(tile.rows)?;
            match (self.form, scratch.as_deref_mut()) {
                (Form::Row, Some(scratch)) => self.rows(tile, buffers, scratch)?,
                (Form::Lanes, _) => self.lanes(tile, buffers)?,
                _ => self.group(tile, buffers)?,
            }
            self.store(tile, &buffers.value);
        }
        Ok(())
    }
}

//! The driver of row by row work: tiles and threads, once for every loss of the family.
//!
//! What a loss does is in [`super::row_kernel`]; it does it row by row or for several rows together, where there is a form
//! for them. Weights and reductions are the elementwise driver's, see [`super::reduced`].

use crate::array::{Grid, Tile, Tiles, ViewMut};
use crate::drive::domain::Check;
use crate::drive::operand::{Argument, Input, Operand, Output, sized, tiles};
use crate::drive::row_kernel::{
    Group, LANES, MAX_NUMBERS, MAX_VECTORS, Placement, RowTile, TileKernel,
};
use crate::drive::scale::{Scale, split};
use crate::error::Result;
use crate::math::Real;
use crate::num::DType;
use crate::simd::{self, Isa, Kernel, Level};
use crate::threads;
use std::any::Any;

/// Rows that are gathered together where rows lie closer together than columns: a cache line of `f32`.
const GATHER_ROWS: usize = 16;

/// Elements of a tile of several rows.
const TILE: usize = 2048;

/// Groups of rows side by side that are gathered together, at most: with fewer in a line of memory every page
/// of it would be come back to more often.
const GROUPS: usize = 8;

/// Elements of these groups: with more of them a thousand classes would leave the second-level cache.
const GATHERED: usize = 1 << 18;

/// Columns up to which rows are worked on side by side.
const SHORT: usize = 32;

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
    let inputs = vectors.iter().flatten().map(|(o, _)| o.k);
    let outputs = grads.iter().flatten().chain(&hess).chain(&elements).map(|o| o.k);
    let gathers = inputs.chain(outputs).any(|k| grid.prefers_rows(k));
    let form = match kernel.is_grouped() {
        true if gathers || grid.cols <= SHORT => Form::Lanes,
        true if grid.cols <= MEDIUM => Form::Group,
        _ => Form::Row,
    };
    let fitting = (TILE / grid.cols.max(1)).clamp(1, LANES);
    let step = match (form, gathers) {
        (Form::Lanes, true) => (GATHERED / (LANES * grid.cols.max(1))).clamp(2, GROUPS) * LANES,
        (Form::Lanes, false) => LANES,
        (Form::Group, _) => fitting.max(TOGETHER),
        (Form::Row, true) => GATHER_ROWS,
        (Form::Row, false) => fitting,
    };
    if grid.rows == 0 {
        return Ok(());
    }
    let job = Job {
        kernel,
        level: rows.level,
        grid: &grid,
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
    };
    let step_ns = kernel.cost() * (step * grid.cols) as f64;
    threads::run(grid.rows.div_ceil(step), step_ns, &|tasks| {
        let mut buffers = Buffers::default();
        let mut scratch = match form {
            Form::Row => Some(kernel.scratch(grid.cols)?),
            _ => None,
        };
        for row in tasks.map(|task| task * step) {
            let tile = Tile { row, rows: step.min(grid.rows - row), col: 0, cols: grid.cols };
            let scratch = scratch.as_deref_mut();
            simd::dispatch(
                rows.level,
                RunTile { job: &job, tile, buffers: &mut buffers, scratch },
            )?;
        }
        Ok(())
    })
}

struct Job<'a, T> {
    kernel: &'a dyn TileKernel<T>,
    level: Level,
    grid: &'a Grid,
    /// The grid of what has one number for each row.
    row_grid: &'a Grid,
    vectors: [Option<(Input<'a, 'a>, Option<&'a Check<'a>>)>; MAX_VECTORS],
    numbers: [Option<(Input<'a, 'a>, Option<&'a Check<'a>>)>; MAX_NUMBERS],
    outside: &'a Outside<'a>,
    grads: [Option<Output<'a, 'a>>; MAX_VECTORS],
    number_grads: [Option<Output<'a, 'a>>; MAX_NUMBERS],
    hess: Option<Output<'a, 'a>>,
    elements: Option<Output<'a, 'a>>,
    scale: &'a Scale,
    value: Option<(Tiles<'a, 'a>, &'a Grid)>,
    form: Form,
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
struct Buffers<T> {
    vectors: [Vec<T>; MAX_VECTORS],
    numbers: [Vec<T>; MAX_NUMBERS],
    grads: [Vec<T>; MAX_VECTORS],
    number_grads: [Vec<T>; MAX_NUMBERS],
    hess: Vec<T>,
    elements: Vec<T>,
    value: Vec<T>,
    /// Labels in their own type, for their check.
    exact: Vec<f64>,
}

impl<T> std::default::Default for Buffers<T> {
    fn default() -> Self {
        Buffers {
            vectors: [const { Vec::new() }; MAX_VECTORS],
            numbers: [const { Vec::new() }; MAX_NUMBERS],
            grads: [const { Vec::new() }; MAX_VECTORS],
            number_grads: [const { Vec::new() }; MAX_NUMBERS],
            hess: Vec::new(),
            elements: Vec::new(),
            value: Vec::new(),
            exact: Vec::new(),
        }
    }
}

struct RunTile<'a, 'b, T> {
    job: &'a Job<'b, T>,
    tile: Tile,
    buffers: &'a mut Buffers<T>,
    scratch: Option<&'a mut dyn Any>,
}

impl<T: Real> Kernel for RunTile<'_, '_, T> {
    type Output = Result<()>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        let RunTile { job, tile, buffers, scratch } = self;
        sized(&mut buffers.value, tile.rows)?;
        match (job.form, scratch) {
            (Form::Row, Some(scratch)) => job.rows(tile, buffers, scratch)?,
            (Form::Lanes, _) => job.lanes(tile, buffers)?,
            _ => job.group(tile, buffers)?,
        }
        if let Some((view, grid)) = job.value {
            let values = Tile { row: 0, rows: 1, col: tile.row, cols: tile.rows };
            grid.scatter(view, 0, values, &buffers.value[..tile.rows]);
        }
        Ok(())
    }
}

impl<T: Real> Job<'_, T> {
    #[inline(always)]
    fn rows(&self, tile: Tile, buffers: &mut Buffers<T>, scratch: &mut dyn Any) -> Result<()> {
        let (grid, row_grid) = (self.grid, self.row_grid);
        let column = Tile { col: 0, cols: 1, ..tile };
        let (mut vectors, mut numbers) = ([&[][..]; MAX_VECTORS], [&[][..]; MAX_NUMBERS]);
        for ((x, input), buffer) in vectors.iter_mut().zip(&self.vectors).zip(&mut buffers.vectors)
        {
            if let Some((o, _)) = input {
                *x = o.tile(grid, tile, buffer)?;
            }
        }
        for ((x, input), buffer) in numbers.iter_mut().zip(&self.numbers).zip(&mut buffers.numbers)
        {
            if let Some((o, _)) = input {
                *x = o.tile(row_grid, column, buffer)?;
            }
        }
        let mut grads = [const { None }; MAX_VECTORS];
        for ((grad, o), buffer) in grads.iter_mut().zip(&self.grads).zip(&mut buffers.grads) {
            *grad = o.as_ref().map(|o| o.tile(grid, tile, buffer)).transpose()?;
        }
        let mut number_grads = [const { None }; MAX_NUMBERS];
        let outputs = self.number_grads.iter().zip(&mut buffers.number_grads);
        for (grad, (o, buffer)) in number_grads.iter_mut().zip(outputs) {
            *grad = o.as_ref().map(|o| o.tile(row_grid, column, buffer)).transpose()?;
        }
        let [mut hess, mut elements] = [None, None];
        for (out, o, buffer) in [
            (&mut hess, &self.hess, &mut buffers.hess),
            (&mut elements, &self.elements, &mut buffers.elements),
        ] {
            *out = o.as_ref().map(|o| o.tile(grid, tile, buffer)).transpose()?;
        }
        let rows = RowTile {
            row: tile.row,
            rows: tile.rows,
            cols: tile.cols,
            vectors,
            numbers,
            grads,
            number_grads,
            hess,
            elements,
            value: &mut buffers.value[..tile.rows],
            wants_value: self.value.is_some(),
            scale: self.scale,
        };
        self.kernel.rows(self.level, rows, scratch);
        // Only now: the kernel hides that it waits for memory, and leaves the tile in the cache.
        let vectors = vectors.iter().zip(&self.vectors).map(|x| (x, grid, tile));
        let numbers = numbers.iter().zip(&self.numbers).map(|x| (x, row_grid, column));
        for ((x, input), grid, tile) in vectors.chain(numbers) {
            let Some((o, Some(check))) = input else { continue };
            if o.view.dtype() == DType::F64 && T::DTYPE != DType::F64 {
                self.check(check, tile, o.tile::<f64>(grid, tile, &mut buffers.exact)?)?;
            } else {
                self.check(check, tile, x)?;
            }
        }
        let outputs = self.grads.iter().chain([&self.hess, &self.elements]);
        let filled = buffers.grads.iter().chain([&buffers.hess, &buffers.elements]);
        for (o, buffer) in outputs.zip(filled) {
            if let Some(o) = o {
                o.finish(grid, tile, buffer);
            }
        }
        for (o, buffer) in self.number_grads.iter().zip(&buffers.number_grads) {
            if let Some(o) = o {
                o.finish(row_grid, column, buffer);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn group(&self, tile: Tile, buffers: &mut Buffers<T>) -> Result<()> {
        let grid = self.grid;
        let Some((input, _)) = &self.vectors[0] else { return Ok(()) };
        let x = input.tile(grid, tile, &mut buffers.vectors[0])?;
        let grad = match &self.grads[0] {
            Some(o) => o.tile(grid, tile, &mut buffers.grads[0])?,
            None => sized(&mut buffers.grads[0], tile.len())?,
        };
        let hess = self.hess.as_ref().map(|o| o.tile(grid, tile, &mut buffers.hess)).transpose()?;
        let value = &mut buffers.value[..tile.rows];
        let scratch = sized(&mut buffers.elements, tile.len())?;
        self.together(Placement::Rows(tile.cols), tile.row, x, [grad, scratch], hess, value);
        for (o, buffer) in [(&self.grads[0], &buffers.grads[0]), (&self.hess, &buffers.hess)] {
            if let Some(o) = o {
                o.finish(grid, tile, buffer);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn lanes(&self, tile: Tile, buffers: &mut Buffers<T>) -> Result<()> {
        let (grid, group) = (self.grid, tile.cols * LANES);
        let Some((input, _)) = &self.vectors[0] else { return Ok(()) };
        let len = tile.rows.div_ceil(LANES) * group;
        let all = sized(&mut buffers.vectors[0], 2 * len + group)?;
        let (x, rest) = all.split_at_mut(len);
        let (grad, scratch) = rest.split_at_mut(len);
        grid.read_lanes(input.view, input.k, tile, LANES, x);
        let mut hess = self.hess.as_ref().map(|_| sized(&mut buffers.hess, len)).transpose()?;
        for (g, value) in buffers.value[..tile.rows].chunks_mut(LANES).enumerate() {
            let (row, run) = (tile.row + g * LANES, g * group..(g + 1) * group);
            let (x, grad) = (&x[run.clone()], &mut grad[run.clone()]);
            let hess = hess.as_deref_mut().map(|hess| &mut hess[run]);
            self.together(Placement::Lanes, row, x, [grad, &mut *scratch], hess, value);
        }
        for (o, buffer) in [(&self.grads[0], &*grad), (&self.hess, hess.as_deref().unwrap_or(&[]))]
        {
            if let Some(o) = o {
                grid.scatter_lanes(o.view, o.k, tile, LANES, buffer);
            }
        }
        Ok(())
    }

    /// Checks a tile of an input.
    #[inline(always)]
    fn check<X: Real>(&self, check: &Check<'_>, tile: Tile, x: &[X]) -> Result<()> {
        if check.domain.all_hold(x) {
            return Ok(());
        }
        let first = tile.row * tile.cols;
        let mut outside = x.iter().enumerate().filter(|(_, x)| !check.domain.holds(**x));
        let is_number =
            self.numbers.iter().flatten().any(|(_, c)| c.is_some_and(|c| std::ptr::eq(c, check)));
        outside.try_for_each(|(i, _)| {
            let at = first + i;
            (self.outside)(check, if is_number { Place::Row(at) } else { Place::Element(at) })
        })
    }

    /// The rows from `row` on, one for each value.
    #[inline(always)]
    fn together(
        &self,
        order: Placement,
        row: usize,
        x: &[T],
        [grad, scratch]: [&mut [T]; 2],
        mut hess: Option<&mut [T]>,
        value: &mut [T],
    ) {
        let (mut scale, mut rest, mut done) = ([0.0; LANES], [1.0; LANES], true);
        for l in 0..value.len() {
            [scale[l], rest[l]] = self.scale(row + l);
            done &= scale[l] != 0.0 && rest[l] == 1.0;
        }
        let classes = self.grid.cols;
        let wants_grad = self.grads[0].is_some();
        let group = Group {
            order,
            row,
            classes,
            x,
            grad,
            hess: hess.as_deref_mut(),
            scratch,
            scale: &scale,
            value,
            wants_grad,
        };
        self.kernel.group(self.level, group);
        if done {
            return;
        }
        for l in 0..value.len() {
            if self.kernel.skips(row + l) {
                value[l] = T::ZERO;
            }
            for out in [Some(&mut *grad).filter(|_| wants_grad), hess.as_deref_mut()] {
                let Some(out) = out else { continue };
                if scale[l] == 0.0 {
                    (0..classes).for_each(|class| out[order.at(l, class)] = T::ZERO);
                } else if rest[l] != 1.0 {
                    for class in 0..classes {
                        let x = &mut out[order.at(l, class)];
                        *x = T::from_f64(x.to_f64() * rest[l]);
                    }
                }
            }
        }
    }

    /// What the kernel multiplies the derivatives of a row by, 0 of one that is left out, and the rest.
    #[inline(always)]
    fn scale(&self, row: usize) -> [f64; 2] {
        if self.kernel.skips(row) { [0.0, 1.0] } else { split::<T>(self.scale.of(row)) }
    }
}

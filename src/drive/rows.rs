//! The driver of row by row work: tiles and threads, once for every loss of the family.
//!
//! A loss sees one row of each of its inputs and writes one row of each gradient, already multiplied by the row's scale;
//! what it returns is the row's loss. A row of scale 0 has zeros for derivatives, whatever it holds: the driver writes them
//! and asks for none. Scales that the type of computation cannot hold are the driver's, too. Weights and reductions are
//! the elementwise driver's, see [`super::reduced`].

use crate::array::ViewMut;
use crate::array::{Grid, Tile};
use crate::drive::domain::Check;
use crate::drive::operand::{Argument, Input, Operand, Output, sized};
use crate::drive::scale::{Scale, multiply, split};
use crate::error::Result;
use crate::math::Real;
use crate::num::DType;
use crate::simd::{self, Isa, Kernel, Level};
use crate::threads;
use std::ops::Range;

/// Rows that are worked on together, at most.
pub const LANES: usize = 32;

/// Where the elements of rows that are worked on together stand.
#[derive(Clone, Copy, Debug)]
pub enum Placement {
    /// Row after row, each of this many elements.
    Rows(usize),
    /// Side by side: first element 0 of [`LANES`] rows.
    Lanes,
}

impl Placement {
    /// The place of an element.
    #[inline(always)]
    pub fn at(self, row: usize, class: usize) -> usize {
        match self {
            Placement::Rows(classes) => row * classes + class,
            Placement::Lanes => class * LANES + row,
        }
    }
}

/// Rows that are gathered together where rows lie closer together than columns: a cache line of `f32`.
const GATHER_ROWS: usize = 16;

/// Elements of a tile of several rows.
const TILE: usize = 2048;

/// Groups of rows side by side that are gathered together: with several cache lines at a time memory keeps up, and with
/// more of them a thousand classes would leave the second-level cache.
const GROUPS: usize = 2;

/// Columns up to which rows are worked on side by side.
const SHORT: usize = 32;

/// Columns up to which rows are worked on together.
const MEDIUM: usize = 1024;

/// Rows that are worked on together, at least: fewer have to wait for themselves.
const TOGETHER: usize = 8;

/// What a row writes; what is `None` is not wanted.
pub struct RowOutputs<'a, T, const K: usize> {
    /// The derivative with respect to each input, times the scale.
    pub grads: [Option<&'a mut [T]>; K],
    /// The second derivative with respect to the first input, times the scale.
    pub hess: Option<&'a mut [T]>,
    /// The loss of each element, of losses that have one for each.
    pub elements: Option<&'a mut [T]>,
    /// Whether the row's loss is wanted.
    pub wants_value: bool,
    /// Scratch as long as the row.
    pub scratch: [&'a mut [T]; 2],
}

/// Rows that are worked on together, at most [`LANES`].
pub struct Group<'a, T> {
    /// Where their elements stand.
    pub order: Placement,
    /// The first row.
    pub row: usize,
    /// The elements of a row.
    pub classes: usize,
    /// The input.
    pub x: &'a [T],
    /// The derivative; scratch if it is not wanted.
    pub grad: &'a mut [T],
    /// The second derivative.
    pub hess: Option<&'a mut [T]>,
    /// The scale of each row, and 0 up to [`LANES`].
    pub scale: &'a [f64; LANES],
    /// The loss of each row.
    pub value: &'a mut [T],
    /// Whether the derivative is wanted.
    pub wants_grad: bool,
}

/// A loss of rows of `K` inputs.
pub trait RowKernel<T: Real, const K: usize>: Sync {
    /// Rough time for one element of the first input, in nanoseconds.
    const COST: f64;
    /// Whether there is a form for several rows.
    const GROUPED: bool = false;

    /// Whether a row is left out: its loss and derivatives are 0, whatever it holds.
    #[inline(always)]
    fn skips(&self, row: usize) -> bool {
        let _ = row;
        false
    }

    /// One row: returns its loss, or anything if that is not wanted. The scale is a normal number, or 0 where no derivative is wanted.
    fn row<S: Isa>(&self, row: usize, x: [&[T]; K], outputs: RowOutputs<'_, T, K>, scale: f64)
    -> T;

    /// Several rows, with the same bits. What is written of rows of scale 0, and the loss of rows left out, does not count.
    fn group<S: Isa>(&self, group: Group<'_, T>) {
        let _ = group;
    }
}

/// The arrays of a run, all of one shape.
pub struct Rows<'a, T, const K: usize> {
    /// The instruction set.
    pub level: Level,
    /// The shape: first the axes of the rows, then those within a row.
    pub shape: &'a [usize],
    /// How many axes are the rows'.
    pub outer: usize,
    /// The inputs.
    pub inputs: [&'a Argument<'a>; K],
    /// What an element of an input outside its domain leads to, given its position: an error, unless it has no weight.
    pub outside: &'a Outside<'a>,
    /// Their gradients.
    pub grads: [Option<&'a ViewMut<'a>>; K],
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
pub type Outside<'a> = dyn Fn(&Check<'_>, usize) -> Result<()> + Sync + 'a;

/// Runs `kernel` over all rows.
pub fn drive<T: Real, L: RowKernel<T, K>, const K: usize>(
    kernel: &L,
    rows: Rows<'_, T, K>,
) -> Result<()> {
    let mut grid = Grid::new(rows.shape, rows.outer);
    let inputs = rows.inputs.map(|v| (Operand::argument(&mut grid, v), v.check.as_deref()));
    let grads = rows.grads.map(|v| v.map(|v| Operand::output(&mut grid, v)));
    let hess = rows.hess.map(|v| Operand::output(&mut grid, v));
    let elements = rows.elements.map(|v| Operand::output(&mut grid, v));
    grid.merge();
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
    let outputs = grads.iter().flatten().chain(&hess).chain(&elements).map(|o| o.k);
    let gathers = inputs.iter().map(|(o, _)| o.k).chain(outputs).any(|k| grid.prefers_rows(k));
    let form = match L::GROUPED {
        true if gathers || grid.cols <= SHORT => Form::Lanes,
        true if grid.cols <= MEDIUM => Form::Group,
        _ => Form::Row,
    };
    let fitting = (TILE / grid.cols.max(1)).clamp(1, LANES);
    let step = match (form, gathers) {
        (Form::Lanes, true) => GROUPS * LANES,
        (Form::Lanes, false) => LANES,
        (Form::Group, _) => fitting.max(TOGETHER),
        (Form::Row, true) => GATHER_ROWS,
        (Form::Row, false) => fitting,
    };
    let job = Job {
        kernel,
        grid: &grid,
        inputs,
        outside: rows.outside,
        grads,
        hess,
        elements,
        scale: rows.scale,
        value: values.as_ref().zip(value_grid.as_ref()),
        form,
    };
    let step_ns = L::COST * (step * grid.cols) as f64;
    threads::run(grid.rows.div_ceil(step), step_ns, &|tasks| {
        let mut scratch = Scratch::new();
        for row in tasks.map(|task| task * step) {
            let tile = Tile { row, rows: step.min(grid.rows - row), col: 0, cols: grid.cols };
            simd::dispatch(rows.level, RunTile { job: &job, tile, scratch: &mut scratch })?;
        }
        Ok(())
    })
}

struct Job<'a, L, const K: usize> {
    kernel: &'a L,
    grid: &'a Grid,
    inputs: [(Input<'a, 'a>, Option<&'a Check<'a>>); K],
    outside: &'a Outside<'a>,
    grads: [Option<Output<'a, 'a>>; K],
    hess: Option<Output<'a, 'a>>,
    elements: Option<Output<'a, 'a>>,
    scale: &'a Scale,
    value: Option<(&'a ViewMut<'a>, &'a Grid)>,
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

struct Scratch<T, const K: usize> {
    inputs: [Vec<T>; K],
    grads: [Vec<T>; K],
    hess: Vec<T>,
    elements: Vec<T>,
    value: Vec<T>,
    /// Labels in their own type, for their check.
    exact: Vec<f64>,
    row: [Vec<T>; 2],
}

impl<T: Real, const K: usize> Scratch<T, K> {
    fn new() -> Self {
        Scratch {
            inputs: [const { Vec::new() }; K],
            grads: [const { Vec::new() }; K],
            hess: Vec::new(),
            elements: Vec::new(),
            value: Vec::new(),
            exact: Vec::new(),
            row: [const { Vec::new() }; 2],
        }
    }
}

struct RunTile<'a, 'b, L, T, const K: usize> {
    job: &'a Job<'b, L, K>,
    tile: Tile,
    scratch: &'a mut Scratch<T, K>,
}

impl<T: Real, L: RowKernel<T, K>, const K: usize> Kernel for RunTile<'_, '_, L, T, K> {
    type Output = Result<()>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        let RunTile { job, tile, scratch } = self;
        sized(&mut scratch.value, GROUPS * LANES)?;
        match job.form {
            Form::Row => job.rows::<S, T>(tile, scratch)?,
            Form::Group => job.group::<S, T>(tile, scratch)?,
            Form::Lanes => job.lanes::<S, T>(tile, scratch)?,
        }
        if let Some((view, grid)) = job.value {
            let values = Tile { row: 0, rows: 1, col: tile.row, cols: tile.rows };
            grid.scatter(view, 0, values, &scratch.value[..tile.rows]);
        }
        Ok(())
    }
}

impl<L, const K: usize> Job<'_, L, K> {
    #[inline(always)]
    fn rows<S: Isa, T: Real>(&self, tile: Tile, scratch: &mut Scratch<T, K>) -> Result<()>
    where
        L: RowKernel<T, K>,
    {
        let grid = self.grid;
        let mut inputs = [&[][..]; K];
        for ((x, (o, _)), buffer) in inputs.iter_mut().zip(&self.inputs).zip(&mut scratch.inputs) {
            *x = o.tile(grid, tile, buffer)?;
        }
        let mut grads = [const { None }; K];
        for ((grad, o), buffer) in grads.iter_mut().zip(&self.grads).zip(&mut scratch.grads) {
            *grad = o.as_ref().map(|o| o.tile(grid, tile, buffer)).transpose()?;
        }
        let [mut hess, mut elements] = [None, None];
        for (out, o, buffer) in [
            (&mut hess, &self.hess, &mut scratch.hess),
            (&mut elements, &self.elements, &mut scratch.elements),
        ] {
            *out = o.as_ref().map(|o| o.tile(grid, tile, buffer)).transpose()?;
        }
        let [first, second] = &mut scratch.row;
        let mut row_scratch = [sized(first, tile.cols)?, sized(second, tile.cols)?];
        for r in 0..tile.rows {
            let run = r * tile.cols..(r + 1) * tile.cols;
            let [scale, rest] = self.scale::<T>(tile.row + r);
            if scale == 0.0 {
                for out in grads.iter_mut().chain([&mut hess]).flatten() {
                    out[run.clone()].fill(T::ZERO);
                }
            }
            if self.kernel.skips(tile.row + r) {
                scratch.value[r] = T::ZERO;
                if let Some(elements) = &mut elements {
                    elements[run].fill(T::ZERO);
                }
                continue;
            }
            let outputs = RowOutputs {
                grads: grads.each_mut().map(|out| of_row(out, scale != 0.0, &run)),
                hess: of_row(&mut hess, scale != 0.0, &run),
                elements: of_row(&mut elements, true, &run),
                wants_value: self.value.is_some(),
                scratch: row_scratch.each_mut().map(|b| &mut **b),
            };
            let x = inputs.map(|x| &x[run.clone()]);
            scratch.value[r] = self.kernel.row::<S>(tile.row + r, x, outputs, scale);
            for out in grads.iter_mut().chain([&mut hess]).flatten() {
                multiply(&mut out[run.clone()], rest);
            }
        }
        // Only now: the kernel hides that it waits for memory, and leaves the tile in the cache.
        for (x, (o, check)) in inputs.iter().zip(&self.inputs) {
            let Some(check) = check else { continue };
            if o.view.dtype() == DType::F64 && T::DTYPE != DType::F64 {
                self.check(check, tile, o.tile::<f64>(grid, tile, &mut scratch.exact)?)?;
            } else {
                self.check(check, tile, x)?;
            }
        }
        let outputs = self.grads.iter().chain([&self.hess, &self.elements]);
        let buffers = scratch.grads.iter().chain([&scratch.hess, &scratch.elements]);
        for (o, buffer) in outputs.zip(buffers) {
            if let Some(o) = o {
                o.finish(grid, tile, buffer);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn group<S: Isa, T: Real>(&self, tile: Tile, scratch: &mut Scratch<T, K>) -> Result<()>
    where
        L: RowKernel<T, K>,
    {
        let grid = self.grid;
        let x = self.inputs[0].0.tile(grid, tile, &mut scratch.inputs[0])?;
        let grad = match &self.grads[0] {
            Some(o) => o.tile(grid, tile, &mut scratch.grads[0])?,
            None => sized(&mut scratch.grads[0], tile.len())?,
        };
        let hess = self.hess.as_ref().map(|o| o.tile(grid, tile, &mut scratch.hess)).transpose()?;
        let value = &mut scratch.value[..tile.rows];
        self.together::<S, T>(Placement::Rows(tile.cols), tile.row, x, grad, hess, value);
        for (o, buffer) in [(&self.grads[0], &scratch.grads[0]), (&self.hess, &scratch.hess)] {
            if let Some(o) = o {
                o.finish(grid, tile, buffer);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn lanes<S: Isa, T: Real>(&self, tile: Tile, scratch: &mut Scratch<T, K>) -> Result<()>
    where
        L: RowKernel<T, K>,
    {
        let (grid, group) = (self.grid, tile.cols * LANES);
        let len = tile.rows.div_ceil(LANES) * group;
        let x = sized(&mut scratch.inputs[0], len)?;
        grid.read_lanes(self.inputs[0].0.view, self.inputs[0].0.k, tile, LANES, x);
        let grad = sized(&mut scratch.grads[0], len)?;
        let mut hess = self.hess.as_ref().map(|_| sized(&mut scratch.hess, len)).transpose()?;
        for (g, value) in scratch.value[..tile.rows].chunks_mut(LANES).enumerate() {
            let (row, run) = (tile.row + g * LANES, g * group..(g + 1) * group);
            let (x, grad) = (&x[run.clone()], &mut grad[run.clone()]);
            let hess = hess.as_deref_mut().map(|hess| &mut hess[run]);
            self.together::<S, T>(Placement::Lanes, row, x, grad, hess, value);
        }
        for (o, buffer) in [(&self.grads[0], &scratch.grads[0]), (&self.hess, &scratch.hess)] {
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
        outside.try_for_each(|(i, _)| (self.outside)(check, first + i))
    }

    /// The rows from `row` on, one for each value.
    #[inline(always)]
    fn together<S: Isa, T: Real>(
        &self,
        order: Placement,
        row: usize,
        x: &[T],
        grad: &mut [T],
        mut hess: Option<&mut [T]>,
        value: &mut [T],
    ) where
        L: RowKernel<T, K>,
    {
        let (mut scale, mut rest, mut done) = ([0.0; LANES], [1.0; LANES], true);
        for l in 0..value.len() {
            [scale[l], rest[l]] = self.scale::<T>(row + l);
            done &= scale[l] != 0.0 && rest[l] == 1.0;
        }
        let classes = self.grid.cols;
        let wants_grad = self.grads[0].is_some();
        self.kernel.group::<S>(Group {
            order,
            row,
            classes,
            x,
            grad,
            hess: hess.as_deref_mut(),
            scale: &scale,
            value,
            wants_grad,
        });
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
    fn scale<T: Real>(&self, row: usize) -> [f64; 2]
    where
        L: RowKernel<T, K>,
    {
        if self.kernel.skips(row) { [0.0, 1.0] } else { split::<T>(self.scale.of(row)) }
    }
}

/// The row of an output, if it is wanted.
#[inline(always)]
fn of_row<'a, T>(
    out: &'a mut Option<&mut [T]>,
    wanted: bool,
    run: &Range<usize>,
) -> Option<&'a mut [T]> {
    out.as_deref_mut().filter(|_| wanted).map(|out| &mut out[run.clone()])
}

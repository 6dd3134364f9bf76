//! The driver of row by row work: tiles and threads, once for every loss of the family.
//!
//! A loss sees one row of each of its inputs and writes one row of each gradient, already multiplied by the row's scale;
//! what it returns is the row's loss. Weights and reductions are the elementwise driver's, see [`Reduced`].

use crate::block::{self, BlockKernel, Identity, Outputs};
use crate::error::Result;
use crate::grid::{Grid, Tile};
use crate::losses::call::Axes;
use crate::losses::rowwise::softmax_group::{LANES, Order};
use crate::memory;
use crate::operand::{Input, Operand, Output, sized};
use crate::real::Real;
use crate::simd::{self, Isa, Kernel, Level};
use crate::threads;
use crate::view::{View, ViewMut};
use crate::weight::Weighting;

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
    /// Scratch as long as the row.
    pub scratch: [&'a mut [T]; 2],
}

/// Rows that are worked on together, at most [`LANES`].
pub struct Group<'a, T> {
    /// Where their elements stand.
    pub order: Order,
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
    pub scale: &'a [f64],
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

    /// One row: returns its loss.
    fn row<S: Isa>(&self, row: usize, x: [&[T]; K], outputs: RowOutputs<'_, T, K>, scale: f64)
    -> T;

    /// Several rows, with the same bits.
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
    pub inputs: [&'a View<'a>; K],
    /// Their gradients.
    pub grads: [Option<&'a ViewMut<'a>>; K],
    /// The second derivative.
    pub hess: Option<&'a ViewMut<'a>>,
    /// What the derivatives of each row are multiplied by.
    pub scale: &'a Scale,
    /// The loss of each row, if wanted.
    pub value: Option<&'a mut [T]>,
}

/// A factor of all rows, or of each.
pub enum Scale {
    /// One for all.
    All(f64),
    /// One for each.
    Each(Vec<f64>),
}

impl Scale {
    /// The factor of a row.
    pub fn of(&self, row: usize) -> f64 {
        match self {
            Scale::All(scale) => *scale,
            Scale::Each(scales) => scales[row],
        }
    }
}

/// Runs `kernel` over all rows.
pub fn drive<T: Real, L: RowKernel<T, K>, const K: usize>(
    kernel: &L,
    rows: Rows<'_, T, K>,
) -> Result<()> {
    let mut grid = Grid::new(rows.shape, rows.outer);
    let inputs = rows.inputs.map(|v| Operand::input(&mut grid, v));
    let grads = rows.grads.map(|v| v.map(|v| Operand::output(&mut grid, v)));
    let hess = rows.hess.map(|v| Operand::output(&mut grid, v));
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
    let outputs = grads.iter().flatten().chain(&hess).map(|o| o.k);
    let gathers = inputs.iter().map(|o| o.k).chain(outputs).any(|k| grid.prefers_rows(k));
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
        grads,
        hess,
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
    inputs: [Input<'a, 'a>; K],
    grads: [Option<Output<'a, 'a>>; K],
    hess: Option<Output<'a, 'a>>,
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
    value: Vec<T>,
    scale: Vec<f64>,
    row: [Vec<T>; 2],
}

impl<T: Real, const K: usize> Scratch<T, K> {
    fn new() -> Self {
        Scratch {
            inputs: [const { Vec::new() }; K],
            grads: [const { Vec::new() }; K],
            hess: Vec::new(),
            value: Vec::new(),
            scale: Vec::new(),
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
        let (grid, len) = (self.grid, tile.len());
        let mut inputs = [&[][..]; K];
        for ((x, o), buffer) in inputs.iter_mut().zip(&self.inputs).zip(&mut scratch.inputs) {
            *x = o.tile(grid, tile, buffer)?;
        }
        let mut grads = [const { None }; K];
        for ((grad, o), buffer) in grads.iter_mut().zip(&self.grads).zip(&mut scratch.grads) {
            *grad = o.as_ref().map(|o| o.tile(grid, tile, buffer)).transpose()?;
        }
        let mut hess =
            self.hess.as_ref().map(|o| o.tile(grid, tile, &mut scratch.hess)).transpose()?;
        let [first, second] = &mut scratch.row;
        let mut row_scratch = [sized(first, tile.cols)?, sized(second, tile.cols)?];
        for r in 0..tile.rows {
            let run = r * tile.cols..(r + 1) * tile.cols;
            let scale = self.scale.of(tile.row + r);
            let mut outputs = RowOutputs {
                grads: grads.each_mut().map(|g| g.as_deref_mut().map(|g| &mut g[run.clone()])),
                hess: hess.as_deref_mut().map(|h| &mut h[run.clone()]),
                scratch: row_scratch.each_mut().map(|b| &mut **b),
            };
            if scale == 0.0 {
                for out in outputs.grads.iter_mut().chain([&mut outputs.hess]) {
                    if let Some(out) = out.take() {
                        out.fill(T::ZERO);
                    }
                }
            }
            let x = inputs.map(|x| &x[run.clone()]);
            scratch.value[r] = self.kernel.row::<S>(tile.row + r, x, outputs, scale);
        }
        for (o, buffer) in
            self.grads.iter().zip(&scratch.grads).chain([(&self.hess, &scratch.hess)])
        {
            if let Some(o) = o {
                o.finish(grid, tile, &buffer[..len.min(buffer.len())]);
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
        let x = self.inputs[0].tile(grid, tile, &mut scratch.inputs[0])?;
        let grad = match &self.grads[0] {
            Some(o) => o.tile(grid, tile, &mut scratch.grads[0])?,
            None => sized(&mut scratch.grads[0], tile.len())?,
        };
        let hess = self.hess.as_ref().map(|o| o.tile(grid, tile, &mut scratch.hess)).transpose()?;
        let value = &mut scratch.value[..tile.rows];
        self.scales(tile.row, tile.rows, &mut scratch.scale);
        self.kernel.group::<S>(Group {
            order: Order::Rows(tile.cols),
            row: tile.row,
            classes: tile.cols,
            x,
            grad,
            hess,
            scale: &scratch.scale,
            value,
            wants_grad: self.grads[0].is_some(),
        });
        for (o, buffer) in [(&self.grads[0], &scratch.grads[0]), (&self.hess, &scratch.hess)] {
            if let Some(o) = o {
                o.finish(grid, tile, &buffer[..tile.len().min(buffer.len())]);
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
        grid.read_lanes(self.inputs[0].view, self.inputs[0].k, tile, LANES, x);
        let grad = sized(&mut scratch.grads[0], len)?;
        let mut hess = self.hess.as_ref().map(|_| sized(&mut scratch.hess, len)).transpose()?;
        for (g, value) in scratch.value[..tile.rows].chunks_mut(LANES).enumerate() {
            let (row, run) = (tile.row + g * LANES, g * group..(g + 1) * group);
            self.scales(row, value.len(), &mut scratch.scale);
            self.kernel.group::<S>(Group {
                order: Order::Lanes,
                row,
                classes: tile.cols,
                x: &x[run.clone()],
                grad: &mut grad[run.clone()],
                hess: hess.as_deref_mut().map(|hess| &mut hess[run]),
                scale: &scratch.scale,
                value,
                wants_grad: self.grads[0].is_some(),
            });
        }
        for (o, buffer) in [(&self.grads[0], &scratch.grads[0]), (&self.hess, &scratch.hess)] {
            if let Some(o) = o {
                grid.scatter_lanes(o.view, o.k, tile, LANES, buffer);
            }
        }
        Ok(())
    }

    /// The scales of some rows, and 0 up to [`LANES`].
    fn scales(&self, row: usize, rows: usize, scale: &mut Vec<f64>) {
        scale.clear();
        scale.extend((row..row + rows).map(|row| self.scale.of(row)));
        scale.resize(LANES, 0.0);
    }
}

/// From E, one number for each row, to the result, by the elementwise driver.
pub struct Reduced<'a> {
    /// E's axes.
    pub axes: &'a Axes,
    /// Its weights.
    pub weighting: &'a Weighting<'a>,
    /// The instruction set.
    pub level: Level,
}

impl Reduced<'_> {
    /// The derivative of the result with respect to each element of E.
    pub fn scale(&self) -> Result<Scale> {
        let shape = self.axes.batch_first();
        if let Some(scale) = self.weighting.uniform_scale(&shape)? {
            return Ok(Scale::All(scale));
        }
        let mut scale = memory::filled(0.0, shape.iter().product())?;
        let zero = [0.0];
        let input = View::from_slice(&zero, &[]).broadcast_to(&shape);
        let outputs = Outputs {
            grads: [Some(ViewMut::from_slice(&mut scale, &shape)), None, None],
            ..Outputs::default()
        };
        let identity: &dyn BlockKernel<f64> = &Identity;
        block::drive(identity, self.level, &shape, input.as_slice(), &outputs, self.weighting)?;
        Ok(Scale::Each(scale))
    }

    /// The value, from E with the batch axis first.
    pub fn value<T: Real>(&self, unreduced: &[T], value: ViewMut<'_>) -> Result<()> {
        let shape = self.axes.batch_first();
        let inputs = [View::from_slice(unreduced, &shape)];
        let outputs = Outputs {
            value: self.axes.value(value, self.weighting.reduction),
            ..Outputs::default()
        };
        let identity: &dyn BlockKernel<T> = &Identity;
        block::drive(identity, self.level, &shape, &inputs, &outputs, self.weighting)
    }
}

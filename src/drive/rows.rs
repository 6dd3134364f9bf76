//! The driver of row by row work: tiles and threads, once for every loss of the family.
//!
//! A loss sees one row at a time: vectors of one length, and numbers that come one for each row. It writes the derivatives
//! of the row, already multiplied by the row's scale; what it returns is the row's loss. A row of scale 0 has zeros for
//! derivatives, whatever it holds: they are written here and nobody is asked for them. Scales that the type of computation
//! cannot hold are dealt with here, too. A loss is erased to a [`TileKernel`], so that the driver is compiled once for each
//! type of computation. Weights and reductions are the elementwise driver's, see [`super::reduced`].

use crate::array::{Grid, Tile, Tiles, ViewMut};
use crate::drive::domain::Check;
use crate::drive::operand::{Argument, Input, Operand, Output, sized, tiles};
use crate::drive::scale::{Scale, multiply, split};
use crate::error::Result;
use crate::math::Real;
use crate::num::DType;
use crate::simd::{self, Isa, Kernel, Level};
use crate::threads;
use std::any::Any;
use std::marker::PhantomData;
use std::ops::Range;

/// The most vectors of a row.
pub const MAX_VECTORS: usize = 3;

/// The most numbers of a row.
pub const MAX_NUMBERS: usize = 2;

/// Rows that are worked on together, at most.
pub const LANES: usize = 32;

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

    /// Replaces every element of rows of that many, given its row and its class, as it lies in memory.
    #[inline(always)]
    pub fn map<T: Real>(self, x: &mut [T], classes: usize, f: impl Fn(usize, usize, T) -> T) {
        match self {
            Placement::Rows(_) => {
                for (row, x) in x.chunks_exact_mut(classes).enumerate() {
                    for (class, x) in x.iter_mut().enumerate() {
                        *x = f(row, class, *x);
                    }
                }
            }
            Placement::Lanes => {
                for (class, x) in x.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                    for row in 0..LANES {
                        x[row] = f(row, class, x[row]);
                    }
                }
            }
        }
    }
}

/// What a row holds.
pub struct Row<'a, T, const V: usize, const C: usize> {
    /// Which it is, the batch axis first.
    pub index: usize,
    /// Its vectors, all of one length.
    pub vectors: [&'a [T]; V],
    /// Its numbers.
    pub numbers: [T; C],
}

/// What a row writes; what is `None` is not wanted.
pub struct RowOutputs<'a, T, const V: usize, const C: usize> {
    /// The derivative with respect to each vector, times the scale.
    pub grads: [Option<&'a mut [T]>; V],
    /// The derivative with respect to each number, times the scale.
    pub number_grads: [Option<&'a mut T>; C],
    /// The second derivative with respect to the first vector, times the scale.
    pub hess: Option<&'a mut [T]>,
    /// The loss of each element, of losses that have one for each.
    pub elements: Option<&'a mut [T]>,
    /// Whether the row's loss is wanted.
    pub wants_value: bool,
}

/// Rows that are worked on together, at most [`LANES`].
pub struct Group<'a, T> {
    /// Where their elements stand.
    pub order: Placement,
    /// The first row.
    pub row: usize,
    /// The elements of a row.
    pub classes: usize,
    /// The first vectors.
    pub x: &'a [T],
    /// Their derivatives; scratch if they are not wanted.
    pub grad: &'a mut [T],
    /// The second derivatives.
    pub hess: Option<&'a mut [T]>,
    /// As much room again.
    pub scratch: &'a mut [T],
    /// The scale of each row, and 0 up to [`LANES`].
    pub scale: &'a [f64; LANES],
    /// The loss of each row.
    pub value: &'a mut [T],
    /// Whether the derivative is wanted.
    pub wants_grad: bool,
}

/// What a loss needs beside inputs and outputs, once for each thread.
pub trait Scratch: std::default::Default + 'static {
    /// Makes room for rows of that many elements.
    ///
    /// # Errors
    /// If memory is refused.
    fn fit(&mut self, cols: usize) -> Result<()>;
}

impl Scratch for () {
    fn fit(&mut self, _: usize) -> Result<()> {
        Ok(())
    }
}

/// Vectors as long as a row.
pub struct Vectors<T, const N: usize>([Vec<T>; N]);

impl<T, const N: usize> std::default::Default for Vectors<T, N> {
    fn default() -> Self {
        Vectors([const { Vec::new() }; N])
    }
}

impl<T: Real, const N: usize> Scratch for Vectors<T, N> {
    fn fit(&mut self, cols: usize) -> Result<()> {
        self.0.iter_mut().try_for_each(|vector| sized(vector, cols).map(drop))
    }
}

impl<T, const N: usize> Vectors<T, N> {
    /// The vectors.
    #[inline(always)]
    pub fn each(&mut self) -> [&mut [T]; N] {
        self.0.each_mut().map(|vector| &mut vector[..])
    }
}

/// A loss of rows of `V` vectors and `C` numbers.
pub trait RowKernel<T: Real, const V: usize, const C: usize>: Sync {
    /// Rough time for one element of the first vector, in nanoseconds.
    const COST: f64;
    /// Whether there is a form for several rows.
    const GROUPED: bool = false;
    /// What the loss needs beside inputs and outputs.
    type Scratch: Scratch;

    /// Whether a row is left out: its loss and derivatives are 0, whatever it holds.
    #[inline(always)]
    fn skips(&self, row: usize) -> bool {
        let _ = row;
        false
    }

    /// One row: returns its loss, or anything if that is not wanted. The scale is a normal number, or 0 where no derivative is wanted.
    fn row<S: Isa>(
        &self,
        row: Row<'_, T, V, C>,
        outputs: RowOutputs<'_, T, V, C>,
        scratch: &mut Self::Scratch,
        scale: f64,
    ) -> T;

    /// Several rows, with the same bits. What is written of rows of scale 0, and the loss of rows left out, does not count.
    fn group<S: Isa>(&self, group: Group<'_, T>) {
        let _ = group;
    }

    /// How far a row is from each kink, with a sign that changes there.
    fn kinks(&self, row: Row<'_, f64, V, C>) -> Vec<f64> {
        let _ = row;
        Vec::new()
    }
}

/// Rows of a tile, one behind another.
pub struct RowTile<'a, T> {
    /// The first row.
    row: usize,
    rows: usize,
    cols: usize,
    vectors: [&'a [T]; MAX_VECTORS],
    numbers: [&'a [T]; MAX_NUMBERS],
    grads: [Option<&'a mut [T]>; MAX_VECTORS],
    number_grads: [Option<&'a mut [T]>; MAX_NUMBERS],
    hess: Option<&'a mut [T]>,
    elements: Option<&'a mut [T]>,
    /// The loss of each row.
    value: &'a mut [T],
    wants_value: bool,
    scale: &'a Scale,
}

/// A loss as the driver takes it.
pub trait TileKernel<T>: Sync {
    /// Rough time for one element of the first vector, in nanoseconds.
    fn cost(&self) -> f64;
    /// Whether there is a form for several rows.
    fn is_grouped(&self) -> bool;
    /// Whether a row is left out.
    fn skips(&self, row: usize) -> bool;
    /// Scratch for rows of that many elements.
    fn scratch(&self, cols: usize) -> Result<Box<dyn Any>>;
    /// The rows of a tile, one by one.
    fn rows(&self, level: Level, tile: RowTile<'_, T>, scratch: &mut dyn Any);
    /// Several rows together.
    fn group(&self, level: Level, group: Group<'_, T>);
}

/// A loss behind the driver's eyes.
pub struct Erased<'a, L, const V: usize, const C: usize>(pub &'a L);

impl<T: Real, L: RowKernel<T, V, C>, const V: usize, const C: usize> TileKernel<T>
    for Erased<'_, L, V, C>
{
    fn cost(&self) -> f64 {
        L::COST
    }
    fn is_grouped(&self) -> bool {
        L::GROUPED
    }
    fn skips(&self, row: usize) -> bool {
        self.0.skips(row)
    }
    fn scratch(&self, cols: usize) -> Result<Box<dyn Any>> {
        let mut scratch = L::Scratch::default();
        scratch.fit(cols)?;
        Ok(Box::new(scratch))
    }
    fn rows(&self, level: Level, tile: RowTile<'_, T>, scratch: &mut dyn Any) {
        let Some(scratch) = scratch.downcast_mut::<L::Scratch>() else { return };
        simd::dispatch(level, EachRow { kernel: self.0, tile, scratch });
    }
    fn group(&self, level: Level, group: Group<'_, T>) {
        simd::dispatch(
            level,
            Together { kernel: self.0, group, shape: PhantomData::<[[(); V]; C]> },
        );
    }
}

struct Together<'a, L, T, P> {
    kernel: &'a L,
    group: Group<'a, T>,
    shape: PhantomData<P>,
}

impl<T: Real, L: RowKernel<T, V, C>, const V: usize, const C: usize> Kernel
    for Together<'_, L, T, [[(); V]; C]>
{
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        self.kernel.group::<S>(self.group);
    }
}

struct EachRow<'a, L: RowKernel<T, V, C>, T: Real, const V: usize, const C: usize> {
    kernel: &'a L,
    tile: RowTile<'a, T>,
    scratch: &'a mut L::Scratch,
}

impl<T: Real, L: RowKernel<T, V, C>, const V: usize, const C: usize> Kernel
    for EachRow<'_, L, T, V, C>
{
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let EachRow { kernel, tile, scratch } = self;
        let RowTile { mut grads, mut number_grads, mut hess, mut elements, .. } = tile;
        for r in 0..tile.rows {
            let (index, run) = (tile.row + r, r * tile.cols..(r + 1) * tile.cols);
            let skips = kernel.skips(index);
            let [scale, rest] = if skips { [0.0, 1.0] } else { split::<T>(tile.scale.of(index)) };
            if scale == 0.0 {
                for out in grads.iter_mut().chain([&mut hess]).flatten() {
                    out[run.clone()].fill(T::ZERO);
                }
                for out in number_grads.iter_mut().flatten() {
                    out[r] = T::ZERO;
                }
            }
            if skips {
                tile.value[r] = T::ZERO;
                if let Some(elements) = &mut elements {
                    elements[run].fill(T::ZERO);
                }
                continue;
            }
            let derives = scale != 0.0;
            let (mut of_vectors, mut of_numbers) = (grads.iter_mut(), number_grads.iter_mut());
            let outputs = RowOutputs {
                grads: std::array::from_fn(|_| of_row(of_vectors.next()?, derives, &run)),
                number_grads: std::array::from_fn(|_| {
                    of_numbers.next()?.as_deref_mut().filter(|_| derives).map(|out| &mut out[r])
                }),
                hess: of_row(&mut hess, derives, &run),
                elements: of_row(&mut elements, true, &run),
                wants_value: tile.wants_value,
            };
            let row = Row {
                index,
                vectors: std::array::from_fn(|v| &tile.vectors[v][run.clone()]),
                numbers: std::array::from_fn(|c| tile.numbers[c][r]),
            };
            tile.value[r] = kernel.row::<S>(row, outputs, scratch, scale);
            for out in grads.iter_mut().chain([&mut hess]).flatten() {
                multiply(&mut out[run.clone()], rest);
            }
            for out in number_grads.iter_mut().flatten() {
                multiply(std::slice::from_mut(&mut out[r]), rest);
            }
        }
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
        (Form::Lanes, true) => GROUPS * LANES,
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
        sized(&mut buffers.value, GROUPS * LANES)?;
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
        let x = sized(&mut buffers.vectors[0], len)?;
        grid.read_lanes(input.view, input.k, tile, LANES, x);
        let grad = sized(&mut buffers.grads[0], len)?;
        let mut hess = self.hess.as_ref().map(|_| sized(&mut buffers.hess, len)).transpose()?;
        let scratch = sized(&mut buffers.elements, group)?;
        for (g, value) in buffers.value[..tile.rows].chunks_mut(LANES).enumerate() {
            let (row, run) = (tile.row + g * LANES, g * group..(g + 1) * group);
            let (x, grad) = (&x[run.clone()], &mut grad[run.clone()]);
            let hess = hess.as_deref_mut().map(|hess| &mut hess[run]);
            self.together(Placement::Lanes, row, x, [grad, &mut *scratch], hess, value);
        }
        for (o, buffer) in [(&self.grads[0], &buffers.grads[0]), (&self.hess, &buffers.hess)] {
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

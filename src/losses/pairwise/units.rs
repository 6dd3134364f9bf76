//! Vectors of length 1: the cosine of two vectors is the dot product of theirs.
//!
//! Each element is within 2 ulp. With u = x / |x| the gradient with respect to x is `(g - u (g u)) / |x|`,
//! where g is the one with respect to u.

use crate::array::{Grid, Tile, View, ViewMut};
use crate::buffer::Buffer;
use crate::drive::operand::{Operand, Output, tiles};
use crate::error::Result;
use crate::losses::rowwise::cosine_embedding::scale_for;
use crate::math::Real;
use crate::memory;
use crate::simd::{self, Isa, Kernel, Level};
use crate::sum::sum_exactly;
use crate::threads;
use std::marker::PhantomData;

/// Vectors in a task.
const VECTORS_IN_TASK: usize = 16;
/// Rough time for an element, in nanoseconds.
const VECTOR_COST: f64 = 1.0;

/// Lets `work` compute the gradients with respect to the vectors of both batches at length 1, from these, which stand in
/// `room`, and makes them those with respect to the batches, times `factor`.
pub fn by_units<T: Real>(
    level: Level,
    batches: &[View<'_>; 2],
    grads: [Option<ViewMut<'_>>; 2],
    factor: f64,
    room: &mut [Buffer<T>; 2],
    work: impl FnOnce([View<'_>; 2], [Option<ViewMut<'_>>; 2]) -> Result<()>,
) -> Result<()> {
    let [first, second] = room;
    let units = [Units::of(level, &batches[0], first)?, Units::of(level, &batches[1], second)?];
    let mut copies = [Buffer::new(), Buffer::new()];
    let [first, second] = &mut copies;
    let mut by_units = [
        memory_of(grads[0].as_ref(), first, units[0].x.len())?,
        memory_of(grads[1].as_ref(), second, units[1].x.len())?,
    ];
    let [first, second] = &mut by_units;
    let views = [(first, &units[0]), (second, &units[1])]
        .map(|(x, units)| Some(ViewMut::from_slice(x.as_deref_mut()?, &units.shape)));
    work(units.each_ref().map(Units::view), views)?;
    for (by_units, units) in by_units.into_iter().zip(units) {
        let Some(by_units) = by_units else { continue };
        let Units { x: units, shape, mut lengths } = units;
        by_vectors(level, by_units, &mut lengths, shape, &Across { units, factor })?;
    }
    for (copy, out) in copies.into_iter().zip(grads) {
        if let Some(out) = out.filter(|_| !copy.is_empty()) {
            out.copy_from(&copy);
        }
    }
    Ok(())
}

/// The memory of an output, or that of a copy if it has not all elements as `T` in C order.
fn memory_of<'s, T: Real>(
    out: Option<&'s ViewMut<'_>>,
    copy: &'s mut Buffer<T>,
    len: usize,
) -> Result<Option<&'s mut [T]>> {
    let dense = out.map(|out| tiles(out).dense().map_or_else(|| copy.sized(len), Ok));
    dense.transpose()
}

/// Vectors of length 1, or of length 0.
struct Units<'a, T> {
    x: &'a [T],
    shape: [usize; 2],
    /// The length of each vector times a power of two, and that.
    lengths: Vec<[f64; 2]>,
}

impl<'a, T: Real> Units<'a, T> {
    /// Of the rows of a matrix.
    fn of(level: Level, view: &View<'_>, x: &'a mut Buffer<T>) -> Result<Self> {
        let x = x.sized(view.len())?;
        let shape = [view.shape()[0], view.shape()[1]];
        let mut lengths = memory::filled([0.0, 1.0], shape[0])?;
        let grid = Grid::single(&shape, view.strides());
        by_vectors(level, x, &mut lengths, shape, &Normalise { view, grid })?;
        Ok(Units { x, shape, lengths })
    }

    /// The vectors.
    fn view(&self) -> View<'_> {
        View::from_slice(self.x, &self.shape)
    }
}

/// What is done with each vector of a batch.
trait VectorWork<T>: Sync {
    /// Fills in the vectors of a tile, if they are not there yet.
    fn load(&self, _tile: Tile, _x: &mut [T]) {}

    /// Changes a vector and what is kept of its length, with scratch that is as long.
    fn run<S: Isa>(&self, row: usize, x: &mut [T], length: &mut [f64; 2], scratch: [&mut [f64]; 2]);
}

/// Copies a vector at length 1.
struct Normalise<'a, 'b> {
    view: &'a View<'b>,
    grid: Grid,
}

impl<T: Real> VectorWork<T> for Normalise<'_, '_> {
    fn load(&self, tile: Tile, x: &mut [T]) {
        self.grid.read(self.view, 0, tile, x);
    }

    #[inline(always)]
    fn run<S: Isa>(
        &self,
        _: usize,
        unit: &mut [T],
        of: &mut [f64; 2],
        [x, squares]: [&mut [f64]; 2],
    ) {
        for (x, unit) in x.iter_mut().zip(&*unit) {
            *x = unit.to_f64();
        }
        let mut scale = 1.0;
        let square = loop {
            for (square, x) in squares.iter_mut().zip(&*x) {
                *square = (x * scale) * (x * scale);
            }
            let square = sum_exactly::<S, f64>(squares);
            if scale != 1.0 || scale_for(square) == 1.0 {
                break square;
            }
            scale = scale_for(square);
        };
        *of = [square.sqrt(), scale];
        // Of a vector of length 0 nothing is changed.
        let factor = if square == 0.0 { 1.0 } else { 1.0 / of[0] };
        for (unit, x) in unit.iter_mut().zip(&*x) {
            *unit = T::from_f64(x * scale * factor);
        }
    }
}

/// Makes the gradient with respect to a vector at length 1 that with respect to the vector, times `factor`.
struct Across<'a, T> {
    units: &'a [T],
    factor: f64,
}

impl<T: Real> VectorWork<T> for Across<'_, T> {
    #[inline(always)]
    fn run<S: Isa>(
        &self,
        row: usize,
        grad: &mut [T],
        &mut [length, scale]: &mut [f64; 2],
        [products, _]: [&mut [f64]; 2],
    ) {
        let unit = &self.units[row * grad.len()..][..grad.len()];
        for ((product, g), u) in products.iter_mut().zip(&*grad).zip(unit) {
            *product = g.to_f64() * u.to_f64();
        }
        // A vector that does not count may hold anything.
        let is_constant = length == 0.0 || grad.iter().all(|&g| g == T::ZERO);
        let along = sum_exactly::<S, f64>(products);
        for (g, u) in grad.iter_mut().zip(unit) {
            let across = (g.to_f64() - u.to_f64() * along) * self.factor / length * scale;
            *g = T::from_f64(if is_constant { 0.0 } else { across });
        }
    }
}

/// Does some work with the vectors of a matrix.
fn by_vectors<T: Real>(
    level: Level,
    x: &mut [T],
    lengths: &mut [[f64; 2]],
    shape: [usize; 2],
    work: &impl VectorWork<T>,
) -> Result<()> {
    let [n, d] = shape;
    let [x, lengths] =
        [ViewMut::from_slice(x, &shape), ViewMut::from_slice(lengths.as_flattened_mut(), &[n, 2])];
    let grids = [&x, &lengths].map(|view| Grid::single(view.shape(), view.strides()));
    let [x, lengths] =
        [&x, &lengths].map(|view| Operand::output(&mut Grid::new(view.shape(), 1), view));
    let job = VectorJob { x, lengths, grids, work, of: PhantomData };
    threads::run(
        n.div_ceil(VECTORS_IN_TASK),
        VECTOR_COST * (VECTORS_IN_TASK * d) as f64,
        &|tasks| {
            for row in tasks.map(|task| task * VECTORS_IN_TASK) {
                let tile = Tile { row, rows: VECTORS_IN_TASK.min(n - row), col: 0, cols: d };
                job.tile(level, tile)?;
            }
            Ok(())
        },
    )
}

struct VectorJob<'a, W, T> {
    x: Output<'a, 'a>,
    lengths: Output<'a, 'a>,
    grids: [Grid; 2],
    work: &'a W,
    of: PhantomData<fn() -> T>,
}

impl<T: Real, W: VectorWork<T>> VectorJob<'_, W, T> {
    /// Some vectors.
    fn tile(&self, level: Level, tile: Tile) -> Result<()> {
        let mut buffers: (Buffer<T>, Buffer<f64>) = Default::default();
        let x = self.x.tile::<T>(&self.grids[0], tile, &mut buffers.0)?;
        self.work.load(tile, x);
        let lengths = Tile { cols: 2, ..tile };
        let lengths = self.lengths.tile::<f64>(&self.grids[1], lengths, &mut buffers.1)?;
        let mut scratch = [memory::filled(0.0, tile.cols)?, memory::filled(0.0, tile.cols)?];
        let vectors = x.chunks_exact_mut(tile.cols.max(1)).zip(lengths.as_chunks_mut().0);
        for (row, (x, length)) in (tile.row..).zip(vectors) {
            let scratch = scratch.each_mut().map(|x| &mut x[..]);
            simd::dispatch(level, OneVector { work: self.work, row, x, length, scratch });
        }
        Ok(())
    }
}

/// [`VectorWork::run`].
struct OneVector<'v, W, T> {
    work: &'v W,
    row: usize,
    x: &'v mut [T],
    length: &'v mut [f64; 2],
    scratch: [&'v mut [f64]; 2],
}

impl<T: Real, W: VectorWork<T>> Kernel for OneVector<'_, W, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        self.work.run::<S>(self.row, self.x, self.length, self.scratch);
    }
}

//! What a loss of rows is: the row by row work that a loss does, and the driver's view of it.
//!
//! A loss sees one row at a time: vectors of one length, and numbers that come one for each row. It writes the derivatives
//! of the row, already multiplied by the row's scale; what it returns is the row's loss. A row of scale 0 has zeros for
//! derivatives, whatever it holds: they are written here and nobody is asked for them. Scales that the type of computation
//! cannot hold are dealt with here, too. A loss is erased to a [`TileKernel`], so that the driver is compiled once for each
//! type of computation.

use crate::buffer::Buffer;
use crate::drive::columns::{ColumnRows, Columns};
use crate::drive::operand::{MAX_NUMBERS, MAX_VECTORS, part};
use crate::drive::scale::{Scale, multiply, split};
use crate::error::Result;
use crate::math::Real;
use crate::simd::{self, Isa, Kernel, Level};
use std::any::Any;
use std::marker::PhantomData;

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

    /// The number of classes, where so many elements are.
    #[inline(always)]
    pub fn classes(self, elements: usize) -> usize {
        match self {
            Placement::Rows(classes) => classes,
            Placement::Lanes => elements / LANES,
        }
    }

    /// Replaces every element of rows of that many, given its row and the weight of its class, 1 without weights.
    #[inline(always)]
    pub fn map<T: Real>(
        self,
        x: &mut [T],
        classes: usize,
        weights: Option<&[f64]>,
        f: impl Fn(usize, T, T) -> T,
    ) {
        match (self, weights) {
            (Placement::Rows(_), None) => {
                for (row, x) in x.chunks_exact_mut(classes).enumerate() {
                    for x in x {
                        *x = f(row, T::ONE, *x);
                    }
                }
            }
            (Placement::Rows(_), Some(weights)) => {
                for (row, x) in x.chunks_exact_mut(classes).enumerate() {
                    for (x, &weight) in x.iter_mut().zip(weights) {
                        *x = f(row, T::from_f64(weight), *x);
                    }
                }
            }
            (Placement::Lanes, _) => {
                for (class, x) in x.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                    let weight = weights.map_or(T::ONE, |weights| T::from_f64(weights[class]));
                    for row in 0..LANES {
                        x[row] = f(row, weight, x[row]);
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
pub struct Vectors<T, const N: usize>([Buffer<T>; N]);

impl<T, const N: usize> std::default::Default for Vectors<T, N> {
    fn default() -> Self {
        Vectors([const { Buffer::new() }; N])
    }
}

impl<T: Real, const N: usize> Scratch for Vectors<T, N> {
    fn fit(&mut self, cols: usize) -> Result<()> {
        self.0.iter_mut().try_for_each(|vector| vector.sized(cols).map(drop))
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
    /// Whether there is a form for rows side by side in memory.
    const BY_COLUMNS: bool = false;
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

    /// Rows side by side in memory, with the same bits. Returns whether it could be done; if not, gradients may hold anything.
    fn columns<S: Isa>(
        &self,
        rows: ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
        scratch: &mut Self::Scratch,
    ) -> Result<bool> {
        let _ = (rows, columns, scratch);
        Ok(false)
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
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) vectors: [&'a [T]; MAX_VECTORS],
    pub(super) numbers: [&'a [T]; MAX_NUMBERS],
    pub(super) grads: [Option<&'a mut [T]>; MAX_VECTORS],
    pub(super) number_grads: [Option<&'a mut [T]>; MAX_NUMBERS],
    pub(super) hess: Option<&'a mut [T]>,
    pub(super) elements: Option<&'a mut [T]>,
    /// The loss of each row.
    pub(super) value: &'a mut [T],
    pub(super) wants_value: bool,
    pub(super) scale: &'a Scale,
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
    /// Whether there is a form for rows side by side in memory.
    fn by_columns(&self) -> bool;
    /// Rows side by side in memory, see [`RowKernel::columns`].
    fn columns(
        &self,
        level: Level,
        rows: ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
        scratch: &mut dyn Any,
    ) -> Result<bool>;
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
    fn by_columns(&self) -> bool {
        L::BY_COLUMNS
    }
    fn columns(
        &self,
        level: Level,
        rows: ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
        scratch: &mut dyn Any,
    ) -> Result<bool> {
        let Some(scratch) = scratch.downcast_mut::<L::Scratch>() else { return Ok(false) };
        simd::dispatch(level, ByColumns { kernel: self.0, rows, columns, scratch })
    }
}

struct ByColumns<'r, 'b, 'a, L: RowKernel<T, V, C>, T: Real, const V: usize, const C: usize> {
    kernel: &'r L,
    rows: ColumnRows<'r, T>,
    columns: &'r mut Columns<'b, 'a, T>,
    scratch: &'r mut L::Scratch,
}

impl<T: Real, L: RowKernel<T, V, C>, const V: usize, const C: usize> Kernel
    for ByColumns<'_, '_, '_, L, T, V, C>
{
    type Output = Result<bool>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Result<bool> {
        self.kernel.columns::<S>(self.rows, self.columns, self.scratch)
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
                grads: std::array::from_fn(|_| part(of_vectors.next()?, &run).filter(|_| derives)),
                number_grads: std::array::from_fn(|_| {
                    of_numbers.next()?.as_deref_mut().filter(|_| derives).map(|out| &mut out[r])
                }),
                hess: part(&mut hess, &run).filter(|_| derives),
                elements: part(&mut elements, &run),
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

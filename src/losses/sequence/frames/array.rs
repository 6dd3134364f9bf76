//! Frames of a batch: the rows of a strided array of samples, frames and elements, read and written in place.
//!
//! Rows are read and written as numbers of the type that is computed in. A row whose elements are of that type and lie
//! side by side is a slice, which is called *direct*; any other one is gathered and converted into a buffer. Loops over
//! direct rows become part of their callers; those over others are compiled once, for all kernels and instruction sets.

use super::layout::EmissionLayout;
use crate::array::{View, ViewMut, gather, scatter};
use crate::num::{DType, Element, Float};
use half::{bf16, f16};
use std::marker::PhantomData;
use std::ops::Range;
use std::slice;

/// Single elements that are converted at once.
const CONVERTED_TOGETHER: usize = 64;

/// Where the rows of an array stand.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    /// Bytes from one sample to the next, and from one frame to the next.
    strides: [isize; 2],
    /// How many samples, and how many frames each.
    counts: [usize; 2],
    form: RowForm,
}

/// How the elements of a row are stored.
#[derive(Clone, Copy, Debug)]
struct RowForm {
    dtype: DType,
    /// Bytes from one element to the next.
    step: isize,
    width: usize,
    /// Whether they lie side by side.
    dense: bool,
}

impl Geometry {
    /// `None` if there are not three axes, or if the elements are of a type that is not computed in `R`.
    fn new<R: Float>(dtype: DType, shape: &[usize], strides: &[isize]) -> Option<Self> {
        let (&[samples, frames, width], &[n, t, step]) = (shape, strides) else { return None };
        let dense = step == dtype.size() as isize || width <= 1;
        let form = RowForm { dtype, step, width, dense };
        let geometry = Geometry { strides: [n, t], counts: [samples, frames], form };
        let valid = dtype.is_float() && dtype.size().max(size_of::<f32>()) == size_of::<R>();
        valid.then_some(geometry)
    }

    /// Bytes from row (0, 0) to row `(n, t)`.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    fn offset(&self, n: usize, t: usize) -> isize {
        assert!(n < self.counts[0] && t < self.counts[1], "no row ({n}, {t})");
        // No checks for overflow: what an array reaches can be counted.
        let [sample, frame] = self.strides;
        (n as isize).wrapping_mul(sample).wrapping_add((t as isize).wrapping_mul(frame))
    }
}

impl RowForm {
    #[inline(always)]
    fn is_direct<R: Float>(self) -> bool {
        self.dense && self.dtype == R::DTYPE
    }

    /// Bytes from the first element to element k.
    ///
    /// # Panics
    /// If there is no such element.
    #[inline(always)]
    fn offset(self, k: usize) -> isize {
        assert!(k < self.width, "no element {k}");
        (k as isize).wrapping_mul(self.step)
    }

    #[inline(always)]
    fn check<E: Element>(self) {
        assert!(self.dtype == E::DTYPE, "elements of another type");
    }
}

/// Calls `$body` with the elements of a row in the type in which they are stored.
macro_rules! with_stored {
    ($row:expr, $stored:pat => $body:expr) => {
        match $row.form.dtype {
            DType::F16 if R::DTYPE == DType::F32 => {
                let $stored = $row.stored::<f16>();
                $body
            }
            DType::BF16 if R::DTYPE == DType::F32 => {
                let $stored = $row.stored::<bf16>();
                $body
            }
            _ => {
                let $stored = $row.stored::<R>();
                $body
            }
        }
    };
}

/// Rows to read, as numbers of type `R`.
#[derive(Debug)]
pub struct FrameArray<'a, R> {
    view: View<'a>,
    geometry: Geometry,
    numbers: PhantomData<R>,
}

impl<'a, R: Float> FrameArray<'a, R> {
    /// The rows of an array of samples, frames and elements; `None` if its elements are of a type that is not computed
    /// in `R`.
    pub fn new(view: View<'a>) -> Option<Self> {
        let geometry = Geometry::new::<R>(view.dtype(), view.shape(), view.strides())?;
        Some(FrameArray { view, geometry, numbers: PhantomData })
    }

    /// How many samples, and how many frames each.
    pub fn counts(&self) -> [usize; 2] {
        self.geometry.counts
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.geometry.form.width
    }

    /// How many numbers [`FrameRow::load`] needs as a buffer.
    pub(crate) fn buffer_len(&self) -> usize {
        if self.geometry.form.is_direct::<R>() { 0 } else { self.width() }
    }

    /// Row `(n, t)`.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub fn row(&self, n: usize, t: usize) -> FrameRow<'a, R> {
        let first = self.view.ptr.wrapping_offset(self.geometry.offset(n, t));
        FrameRow { first, form: self.geometry.form, life: PhantomData }
    }
}

/// A row to read.
#[derive(Clone, Copy, Debug)]
pub struct FrameRow<'a, R> {
    first: *const u8,
    form: RowForm,
    life: PhantomData<&'a [R]>,
}

impl<'a, R: Float> FrameRow<'a, R> {
    #[inline(always)]
    fn stored<E: Element>(self) -> StoredRow<'a, E> {
        self.form.check::<E>();
        StoredRow { first: self.first.cast(), form: self.form, life: PhantomData }
    }

    #[inline(always)]
    fn direct(self) -> Option<&'a [R]> {
        if self.form.is_direct::<R>() { self.stored::<R>().slice() } else { None }
    }

    /// Element k.
    ///
    /// # Panics
    /// If there is no such element.
    #[inline(always)]
    pub fn at(self, k: usize) -> R {
        with_stored!(self, stored => stored.at(k).to())
    }

    /// All elements: as they are, or in `buffer`, of at least [`FrameArray::buffer_len`].
    #[inline(always)]
    pub(crate) fn load<'s>(self, buffer: &'s mut [R]) -> &'s [R]
    where
        'a: 's,
    {
        if let Some(row) = self.direct() {
            return row;
        }
        let buffer = &mut buffer[..self.form.width];
        self.convert(buffer);
        buffer
    }

    #[inline(never)]
    fn convert(self, buffer: &mut [R]) {
        with_stored!(self, stored => match stored.slice() {
            Some(row) => Element::to_run(row, buffer),
            None => stored.convert(buffer),
        });
    }

    /// Fills an emission row with the element of each place's class, by means of a buffer as that of
    /// [`FrameRow::load`]. Returns the least of them.
    #[inline(always)]
    pub(crate) fn gather(self, layout: &EmissionLayout, buffer: &mut [R], out: &mut [f64]) -> f64 {
        // Elements that lie apart are a cache line each: only those that are needed are read.
        if !self.form.dense {
            return self.gather_apart(layout, out);
        }
        let row = self.load(buffer);
        layout.gather(|class| row[class].to_f64(), out)
    }

    #[inline(never)]
    fn gather_apart(self, layout: &EmissionLayout, out: &mut [f64]) -> f64 {
        with_stored!(self, stored => layout.gather(|class| stored.at(class).to(), out))
    }
}

/// The elements of a row to read, in the type in which they are stored.
struct StoredRow<'a, E> {
    first: *const E,
    form: RowForm,
    life: PhantomData<&'a [E]>,
}

impl<'a, E: Element> StoredRow<'a, E> {
    #[inline(always)]
    fn at(&self, k: usize) -> E {
        // SAFETY: an element of a row of this type, which was borrowed for 'a.
        unsafe { *self.first.wrapping_byte_offset(self.form.offset(k)) }
    }

    /// All elements, converted.
    fn convert<R: Float>(&self, numbers: &mut [R]) {
        assert!(numbers.len() <= self.form.width, "a short row");
        gather(numbers, |k| self.at(k));
    }

    /// All elements, if they lie side by side.
    #[inline(always)]
    fn slice(&self) -> Option<&'a [E]> {
        // SAFETY: as above, all elements.
        let row = || unsafe { slice::from_raw_parts(self.first, self.form.width) };
        self.form.dense.then(row)
    }
}

/// Rows to write as numbers of type `R`, from several threads at once.
#[derive(Debug)]
pub struct FrameArrayMut<'a, R> {
    view: ViewMut<'a>,
    geometry: Geometry,
    numbers: PhantomData<R>,
}

impl<'a, R: Float> FrameArrayMut<'a, R> {
    /// The rows of an output of samples, frames and elements; `None` if its elements are of a type that is not computed
    /// in `R`.
    pub fn new(view: ViewMut<'a>) -> Option<Self> {
        let geometry = Geometry::new::<R>(view.dtype(), view.shape(), view.strides())?;
        Some(FrameArrayMut { view, geometry, numbers: PhantomData })
    }

    /// How many samples, and how many frames each.
    pub fn counts(&self) -> [usize; 2] {
        self.geometry.counts
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.geometry.form.width
    }

    /// Whether rows are slices of `R`.
    pub(crate) fn is_direct(&self) -> bool {
        self.geometry.form.is_direct::<R>()
    }

    /// Row `(n, t)`.
    ///
    /// # Safety
    /// Nobody else may hold the same row.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub unsafe fn row(&self, n: usize, t: usize) -> FrameRowMut<'_, R> {
        let first = self.view.view.ptr.wrapping_offset(self.geometry.offset(n, t)).cast_mut();
        FrameRowMut { first, form: self.geometry.form, life: PhantomData }
    }
}

/// A row to write.
#[derive(Debug)]
pub struct FrameRowMut<'a, R> {
    first: *mut u8,
    form: RowForm,
    life: PhantomData<&'a mut [R]>,
}

impl<'a, R: Float> FrameRowMut<'a, R> {
    #[inline(always)]
    fn stored<E: Element>(self) -> StoredRowMut<'a, E> {
        self.form.check::<E>();
        StoredRowMut { first: self.first.cast(), form: self.form, life: PhantomData }
    }

    #[inline(always)]
    fn direct(self) -> Result<&'a mut [R], Self> {
        if !self.form.is_direct::<R>() {
            return Err(self);
        }
        self.stored::<R>().slice().map_err(|_| unreachable!("a direct row"))
    }

    /// All elements, to write: as they are, or `buffer`, to be handed to [`FrameRowMut::store`].
    #[inline(always)]
    pub(crate) fn buffer<'s>(self, buffer: &'s mut [R]) -> &'s mut [R]
    where
        'a: 's,
    {
        self.direct().unwrap_or(buffer)
    }

    /// Sets all elements.
    #[inline(never)]
    pub(crate) fn store(self, numbers: &[R]) {
        with_stored!(self, stored => match stored.slice() {
            Ok(row) => Element::of_run(numbers, row),
            Err(stored) => stored.store(numbers),
        });
    }

    /// Sets some elements to the same number.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn fill(self, range: Range<usize>, x: R) {
        with_stored!(self, stored => match stored.slice() {
            Ok(row) => row[range].fill(Element::of(x)),
            Err(mut stored) => {
                let x = Element::of(x);
                range.for_each(|k| stored.set(k, x));
            }
        });
    }

    /// Sets elements k to x, for pairs of both.
    ///
    /// # Panics
    /// If there is no such element.
    pub(crate) fn set_each(self, numbers: impl Iterator<Item = (usize, R)>) {
        with_stored!(self, mut stored => stored.set_each(numbers.map(|(k, x)| (k, Element::of(x)))));
    }

    /// Sets the element of each class that occurs to the number at the place where the class stands first.
    #[inline(always)]
    pub(crate) fn scatter(self, layout: &EmissionLayout, numbers: &[f64]) {
        match self.direct() {
            Ok(row) => layout.distinct.iter().for_each(|&[place, class]| {
                row[class as usize] = R::from_f64(numbers[place as usize]);
            }),
            Err(row) => row.scatter_converted(layout, numbers),
        }
    }

    #[inline(never)]
    fn scatter_converted(self, layout: &EmissionLayout, numbers: &[f64]) {
        with_stored!(self, stored => stored.scatter::<R>(&layout.distinct, numbers));
    }
}

/// The elements of a row to write, in the type in which they are stored.
struct StoredRowMut<'a, E> {
    first: *mut E,
    form: RowForm,
    life: PhantomData<&'a mut [E]>,
}

impl<'a, E: Element> StoredRowMut<'a, E> {
    #[inline(always)]
    fn set(&mut self, k: usize, x: E) {
        // SAFETY: an element of a row of this type that this alone holds.
        unsafe { *self.first.wrapping_byte_offset(self.form.offset(k)) = x };
    }

    /// All elements, if they lie side by side.
    #[inline(always)]
    fn slice(self) -> Result<&'a mut [E], Self> {
        if !self.form.dense {
            return Err(self);
        }
        // SAFETY: as above, all elements.
        Ok(unsafe { slice::from_raw_parts_mut(self.first, self.form.width) })
    }

    #[inline(always)]
    fn set_each(&mut self, elements: impl Iterator<Item = (usize, E)>) {
        match (StoredRowMut { life: PhantomData, ..*self }).slice() {
            Ok(row) => elements.for_each(|(k, x)| row[k] = x),
            Err(mut row) => elements.for_each(|(k, x)| row.set(k, x)),
        }
    }

    /// Sets all elements.
    fn store<R: Float>(mut self, numbers: &[R]) {
        assert!(numbers.len() <= self.form.width, "a short row");
        scatter(numbers, |k, x| self.set(k, x));
    }

    /// Sets elements to numbers of some places, for pairs of a place and an element.
    fn scatter<R: Float>(mut self, pairs: &[[u32; 2]], numbers: &[f64]) {
        let number = |place: u32| R::from_f64(numbers[place as usize]);
        if E::DTYPE == R::DTYPE {
            return pairs.iter().for_each(|&[place, k]| self.set(k as usize, E::of(number(place))));
        }
        for pairs in pairs.chunks(CONVERTED_TOGETHER) {
            let mut some = [R::ZERO; CONVERTED_TOGETHER];
            some.iter_mut().zip(pairs).for_each(|(x, &[place, _])| *x = number(place));
            self.convert(&some[..pairs.len()], pairs.iter().map(|&[_, k]| k as usize));
        }
    }

    /// Sets elements to some numbers, at most [`CONVERTED_TOGETHER`].
    #[inline(always)]
    fn convert<R: Float>(&mut self, numbers: &[R], places: impl Iterator<Item = usize>) {
        let mut converted = [E::of(R::ZERO); CONVERTED_TOGETHER];
        let converted = &mut converted[..numbers.len()];
        E::of_run(numbers, converted);
        self.set_each(places.zip(converted.iter().copied()));
    }
}

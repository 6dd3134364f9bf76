//! Frames of a batch: the rows of a strided array of samples, frames and elements, read and written in place. Where the
//! elements of a row lie side by side the row is a slice; otherwise it is gathered into scratch, one row at a time.

use crate::array::{View, ViewMut};
use crate::math::Real;
use crate::num;
use crate::num::DType;
use half::{bf16, f16};
use std::marker::PhantomData;
use std::ops::Range;
use std::{ptr, slice};

/// A floating-point type in which frames are stored.
pub trait FrameElement: num::Element + Send + Sync {
    /// The type in which the exponentials of a row are computed.
    type Real: Real;

    /// Whether `Real` is the type itself: then the functions below use no scratch.
    const DIRECT: bool;

    /// A row as numbers to compute with: itself, or converted into `scratch` of the same length.
    fn load<'a>(row: &'a [Self], scratch: &'a mut [Self::Real]) -> &'a [Self::Real];
    /// A row to write: itself, or `scratch`, to be handed to [`FrameElement::store`].
    fn buffer<'a>(row: &'a mut [Self], scratch: &'a mut [Self::Real]) -> &'a mut [Self::Real];
    /// Completes a row that was written through [`FrameElement::buffer`].
    fn store(row: &mut [Self], scratch: &[Self::Real]);
}

macro_rules! real_element {
    ($t:ident) => {
        impl FrameElement for $t {
            type Real = $t;
            const DIRECT: bool = true;

            #[inline(always)]
            fn load<'a>(row: &'a [$t], _: &'a mut [$t]) -> &'a [$t] {
                row
            }
            #[inline(always)]
            fn buffer<'a>(row: &'a mut [$t], _: &'a mut [$t]) -> &'a mut [$t] {
                row
            }
            #[inline(always)]
            fn store(_: &mut [$t], _: &[$t]) {}
        }
    };
}

macro_rules! half_element {
    ($t:ident) => {
        impl FrameElement for $t {
            type Real = f32;
            const DIRECT: bool = false;

            #[inline(always)]
            fn load<'a>(row: &'a [$t], scratch: &'a mut [f32]) -> &'a [f32] {
                num::Element::to_run(row, scratch);
                scratch
            }
            #[inline(always)]
            fn buffer<'a>(_: &'a mut [$t], scratch: &'a mut [f32]) -> &'a mut [f32] {
                scratch
            }
            #[inline(always)]
            fn store(row: &mut [$t], scratch: &[f32]) {
                num::Element::of_run(scratch, row);
            }
        }
    };
}

real_element!(f32);
real_element!(f64);
half_element!(f16);
half_element!(bf16);

/// The strides of an array of samples, frames and elements, in elements.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    /// From one sample to the next, and from one frame to the next.
    strides: [isize; 2],
    /// From one element of a row to the next.
    step: isize,
    /// How many samples, and how many frames each.
    counts: [usize; 2],
    /// Elements of a row.
    width: usize,
}

impl Geometry {
    /// `None` if there are not three axes, or if the elements are of another type or lie apart by fractions of one.
    fn new<E: num::Element>(dtype: DType, shape: &[usize], strides: &[isize]) -> Option<Self> {
        let (&[samples, frames, width], &[n, t, k]) = (shape, strides) else { return None };
        let unit = size_of::<E>() as isize;
        let whole = [n, t, k].iter().all(|stride| stride % unit == 0);
        let (strides, step) = ([n / unit, t / unit], k / unit);
        let valid = dtype == E::DTYPE && whole;
        valid.then_some(Geometry { strides, step, counts: [samples, frames], width })
    }

    /// From row (0, 0) to row `(n, t)`.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    fn offset(&self, n: usize, t: usize) -> isize {
        assert!(n < self.counts[0] && t < self.counts[1], "no row ({n}, {t})");
        n as isize * self.strides[0] + t as isize * self.strides[1]
    }

    /// Whether the elements of a row lie side by side.
    fn is_dense(&self) -> bool {
        self.step == 1 || self.width <= 1
    }
}

/// Rows to read.
#[derive(Clone, Copy, Debug)]
pub struct FrameArray<'a, E> {
    /// The first element of row (0, 0).
    first: *const E,
    geometry: Geometry,
    life: PhantomData<&'a [E]>,
}

// SAFETY: it only reads memory that is borrowed for its lifetime.
unsafe impl<E: Sync> Sync for FrameArray<'_, E> {}
// SAFETY: as above.
unsafe impl<E: Sync> Send for FrameArray<'_, E> {}

impl<'a, E: FrameElement> FrameArray<'a, E> {
    /// The rows of an array of samples, frames and elements; `None` if its elements are of another type.
    pub fn new(view: &View<'a>) -> Option<Self> {
        let geometry = Geometry::new::<E>(view.dtype(), view.shape(), view.strides())?;
        Some(FrameArray { first: view.ptr.cast(), geometry, life: PhantomData })
    }

    /// How many samples, and how many frames each.
    pub fn counts(&self) -> [usize; 2] {
        self.geometry.counts
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.geometry.width
    }

    /// How many numbers [`FrameRow::load`] needs as scratch.
    pub(crate) fn scratch_len(&self) -> usize {
        if E::DIRECT && self.geometry.is_dense() { 0 } else { self.geometry.width }
    }

    /// Row `(n, t)`.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub fn row(&self, n: usize, t: usize) -> FrameRow<'a, E> {
        let first = self.first.wrapping_offset(self.geometry.offset(n, t));
        FrameRow { first, step: self.geometry.step, width: self.geometry.width, life: PhantomData }
    }
}

/// A row to read.
#[derive(Clone, Copy, Debug)]
pub struct FrameRow<'a, E> {
    first: *const E,
    step: isize,
    width: usize,
    life: PhantomData<&'a [E]>,
}

impl<'a, E: FrameElement> FrameRow<'a, E> {
    /// An empty row.
    pub(crate) const EMPTY: Self =
        FrameRow { first: ptr::dangling(), step: 1, width: 0, life: PhantomData };

    /// Element k.
    ///
    /// # Panics
    /// If there is no such element.
    #[inline(always)]
    pub fn at(&self, k: usize) -> E {
        assert!(k < self.width, "no element {k}");
        // SAFETY: an element of a row, which was borrowed for 'a.
        unsafe { *self.first.wrapping_offset(k as isize * self.step) }
    }

    /// All elements as numbers to compute with: as they are, or in `scratch`, of [`FrameArray::scratch_len`].
    #[inline(always)]
    pub(crate) fn load<'s>(&self, scratch: &'s mut [E::Real]) -> &'s [E::Real]
    where
        'a: 's,
    {
        if self.step == 1 || self.width <= 1 {
            // SAFETY: the elements of a row, side by side, which were borrowed for 'a.
            let row = unsafe { slice::from_raw_parts(self.first, self.width) };
            return E::load(row, scratch);
        }
        for (k, x) in scratch.iter_mut().enumerate() {
            *x = self.at(k).to();
        }
        scratch
    }
}

/// Rows to write, from several threads at once.
#[derive(Debug)]
pub struct FrameArrayMut<'a, E> {
    /// The first element of row (0, 0).
    first: *mut E,
    geometry: Geometry,
    life: PhantomData<&'a mut [E]>,
}

// SAFETY: a row is reached through `row` only, whose callers promise to share none.
unsafe impl<E: Send> Sync for FrameArrayMut<'_, E> {}
// SAFETY: it stands for the exclusive borrow of a slice.
unsafe impl<E: Send> Send for FrameArrayMut<'_, E> {}

impl<'a, E: num::Element> FrameArrayMut<'a, E> {
    /// The rows of an output of samples, frames and elements; `None` if its elements are of another type.
    #[allow(clippy::needless_pass_by_value, reason = "the rows take over what may be written")]
    pub fn new(view: ViewMut<'a>) -> Option<Self> {
        let geometry = Geometry::new::<E>(view.dtype(), view.shape(), view.strides())?;
        Some(FrameArrayMut {
            first: view.view.ptr.cast::<E>().cast_mut(),
            geometry,
            life: PhantomData,
        })
    }

    /// How many samples, and how many frames each.
    pub fn counts(&self) -> [usize; 2] {
        self.geometry.counts
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.geometry.width
    }

    /// Whether rows are slices.
    #[inline(always)]
    pub(crate) fn is_dense(&self) -> bool {
        self.geometry.is_dense()
    }

    /// Row `(n, t)`.
    ///
    /// # Safety
    /// Nobody else may hold the same row.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub unsafe fn row(&self, n: usize, t: usize) -> FrameRowMut<'_, E> {
        let first = self.first.wrapping_offset(self.geometry.offset(n, t));
        FrameRowMut {
            first,
            step: self.geometry.step,
            width: self.geometry.width,
            life: PhantomData,
        }
    }
}

/// A row to write.
#[derive(Debug)]
pub struct FrameRowMut<'a, E> {
    first: *mut E,
    step: isize,
    width: usize,
    life: PhantomData<&'a mut [E]>,
}

impl<'a, E: num::Element> FrameRowMut<'a, E> {
    #[inline(always)]
    fn place(&self, k: usize) -> *mut E {
        assert!(k < self.width, "no element {k}");
        self.first.wrapping_offset(k as isize * self.step)
    }

    /// Element k.
    ///
    /// # Panics
    /// If there is no such element.
    #[inline(always)]
    pub fn at(&self, k: usize) -> E {
        // SAFETY: an element of a row that this alone holds.
        unsafe { *self.place(k) }
    }

    /// Sets element k.
    ///
    /// # Panics
    /// If there is no such element.
    #[inline(always)]
    pub fn set(&mut self, k: usize, x: E) {
        // SAFETY: an element of a row that this alone holds.
        unsafe { *self.place(k) = x };
    }

    /// All elements, if they lie side by side.
    #[inline(always)]
    fn slice(self) -> Result<&'a mut [E], Self> {
        if self.step == 1 || self.width <= 1 {
            // SAFETY: the elements of a row that this alone held, side by side.
            return Ok(unsafe { slice::from_raw_parts_mut(self.first, self.width) });
        }
        Err(self)
    }

    /// Sets elements k to x, for pairs of both.
    ///
    /// # Panics
    /// If there is no such element.
    #[inline(always)]
    pub(crate) fn set_each(&mut self, elements: impl Iterator<Item = (usize, E)>) {
        let row = FrameRowMut { life: PhantomData, ..*self };
        match row.slice() {
            Ok(row) => elements.for_each(|(k, x)| row[k] = x),
            Err(mut row) => elements.for_each(|(k, x)| row.set(k, x)),
        }
    }

    /// Sets some elements.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline(always)]
    pub fn fill(&mut self, range: Range<usize>, x: E) {
        let row = FrameRowMut { life: PhantomData, ..*self };
        match row.slice() {
            Ok(row) => row[range].fill(x),
            Err(mut row) => range.for_each(|k| row.set(k, x)),
        }
    }
}

impl<'a, E: FrameElement> FrameRowMut<'a, E> {
    /// All elements, to write: as they are, or `scratch`, to be handed to [`FrameRowMut::store`].
    #[inline(always)]
    pub(crate) fn buffer<'s>(self, scratch: &'s mut [E::Real]) -> &'s mut [E::Real]
    where
        'a: 's,
    {
        match self.slice() {
            Ok(row) => E::buffer(row, scratch),
            Err(_) => scratch,
        }
    }

    /// Completes a row that was written through [`FrameRowMut::buffer`].
    #[inline(always)]
    pub(crate) fn store(self, values: &[E::Real]) {
        match self.slice() {
            Ok(row) => E::store(row, values),
            Err(mut row) => values.iter().enumerate().for_each(|(k, &x)| row.set(k, E::of(x))),
        }
    }
}

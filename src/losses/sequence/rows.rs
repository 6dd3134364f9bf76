//! Frames of a batch: rows of classes anywhere in a strided array, read and written in place. Rows whose elements lie side
//! by side are slices; others are gathered, one at a time, into scratch.

use crate::array::{View, ViewMut};
use crate::math::Real;
use crate::num;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::marker::PhantomData;
use std::ops::Range;
use std::{ptr, slice};

/// A floating-point type that frames are stored in.
pub trait Element: num::Element + Send + Sync {
    /// The type that rows of many classes are computed in.
    type Real: Real;

    /// Whether that is the type itself: then no scratch is needed below.
    const DIRECT: bool;

    /// A row as numbers to compute with: itself, or converted into `scratch` of the same length.
    fn load<'a>(row: &'a [Self], scratch: &'a mut [Self::Real]) -> &'a [Self::Real];
    /// A row to write: itself, or `scratch`, to be handed to [`Element::store`].
    fn buffer<'a>(row: &'a mut [Self], scratch: &'a mut [Self::Real]) -> &'a mut [Self::Real];
    /// Completes a row that was written through [`Element::buffer`].
    fn store(row: &mut [Self], scratch: &[Self::Real]);
}

macro_rules! real_element {
    ($t:ident) => {
        impl Element for $t {
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
        impl Element for $t {
            type Real = f32;
            const DIRECT: bool = false;

            #[inline(always)]
            fn load<'a>(row: &'a [$t], scratch: &'a mut [f32]) -> &'a [f32] {
                row.convert_to_f32_slice(scratch);
                scratch
            }
            #[inline(always)]
            fn buffer<'a>(_: &'a mut [$t], scratch: &'a mut [f32]) -> &'a mut [f32] {
                scratch
            }
            #[inline(always)]
            fn store(row: &mut [$t], scratch: &[f32]) {
                row.convert_from_f32_slice(scratch);
            }
        }
    };
}

real_element!(f32);
real_element!(f64);
half_element!(f16);
half_element!(bf16);

/// Where element k of row `(n, t)` lies: `origin + n * strides[0] + t * strides[1] + k * step`, in elements.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The position of the first element of row (0, 0).
    pub origin: usize,
    /// From one sample to the next, and from one frame to the next.
    pub strides: [isize; 2],
    /// From one element of a row to the next.
    pub step: isize,
    /// How many samples, and how many frames each.
    pub counts: [usize; 2],
    /// Elements of a row.
    pub width: usize,
}

impl Layout {
    /// A C-ordered array of `samples` times `frames` rows.
    pub fn contiguous(samples: usize, frames: usize, width: usize) -> Self {
        let strides = [(frames * width) as isize, width as isize];
        Layout { origin: 0, strides, step: 1, counts: [samples, frames], width }
    }

    /// That of an array of samples, frames and elements, from its first element on; `None` if steps are no multiples of an
    /// element.
    fn of<E>(shape: &[usize], strides: &[isize]) -> Option<Self> {
        let (&[samples, frames, width], &[n, t, k]) = (shape, strides) else { return None };
        let unit = size_of::<E>() as isize;
        let whole = [n, t, k].iter().all(|stride| stride % unit == 0);
        let (strides, step) = ([n / unit, t / unit], k / unit);
        whole.then_some(Layout { origin: 0, strides, step, counts: [samples, frames], width })
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

    fn axes(&self) -> [(isize, usize); 3] {
        let ([n, t], [samples, frames]) = (self.strides, self.counts);
        [(n, samples), (t, frames), (self.step, self.width)]
    }

    /// Whether every row lies inside `len` elements.
    fn fits(&self, len: usize) -> bool {
        let axes = self.axes();
        if axes.iter().any(|&(_, count)| count == 0) {
            return true;
        }
        let (mut low, mut high) = (self.origin as i128, self.origin as i128 + 1);
        for (stride, count) in axes {
            let reach = stride as i128 * (count as i128 - 1);
            low += reach.min(0);
            high += reach.max(0);
        }
        low >= 0 && high <= len as i128
    }

    /// Whether no two elements are one: those of some axes fit between two steps of the next.
    fn is_disjoint(&self) -> bool {
        let mut axes = self.axes().map(|(stride, count)| (stride.unsigned_abs() as u128, count));
        if axes.iter().any(|&(_, count)| count == 0) {
            return true;
        }
        axes.sort_unstable();
        let mut reach = 1;
        for (stride, count) in axes.into_iter().filter(|axis| axis.1 > 1) {
            if stride < reach {
                return false;
            }
            reach += stride * (count as u128 - 1);
        }
        true
    }
}

/// Rows to read.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, E> {
    /// The first element of row (0, 0).
    first: *const E,
    layout: Layout,
    life: PhantomData<&'a [E]>,
}

// SAFETY: it only reads memory that is borrowed for its lifetime.
unsafe impl<E: Sync> Sync for Rows<'_, E> {}
// SAFETY: as above.
unsafe impl<E: Sync> Send for Rows<'_, E> {}

impl<'a, E: Element> Rows<'a, E> {
    /// The rows of `data`; `None` if the layout leaves it.
    #[cfg(test)]
    pub fn new(data: &'a [E], layout: Layout) -> Option<Self> {
        let first = data.as_ptr().wrapping_add(layout.origin);
        layout.fits(data.len()).then_some(Rows { first, layout, life: PhantomData })
    }

    /// The rows of an array of samples, frames and classes; `None` if its elements are of another type.
    pub(crate) fn of(view: &View<'a>) -> Option<Self> {
        let layout = Layout::of::<E>(view.shape(), view.strides())?;
        let same = view.dtype() == E::DTYPE;
        same.then_some(Rows { first: view.ptr.cast(), layout, life: PhantomData })
    }

    /// How many samples, and how many frames each.
    pub fn counts(&self) -> [usize; 2] {
        self.layout.counts
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.layout.width
    }

    /// How many numbers [`Row::load`] needs as scratch.
    pub(super) fn scratch_len(&self) -> usize {
        if E::DIRECT && self.layout.is_dense() { 0 } else { self.layout.width }
    }

    /// Row `(n, t)`.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub fn row(&self, n: usize, t: usize) -> Row<'a, E> {
        let first = self.first.wrapping_offset(self.layout.offset(n, t));
        Row { first, step: self.layout.step, width: self.layout.width, life: PhantomData }
    }
}

/// A row to read.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a, E> {
    first: *const E,
    step: isize,
    width: usize,
    life: PhantomData<&'a [E]>,
}

impl<'a, E: Element> Row<'a, E> {
    /// An empty row.
    pub(super) const EMPTY: Self =
        Row { first: ptr::dangling(), step: 1, width: 0, life: PhantomData };

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

    /// All elements as numbers to compute with: as they are, or in `scratch`, of [`Rows::scratch_len`].
    #[inline(always)]
    pub(super) fn load<'s>(&self, scratch: &'s mut [E::Real]) -> &'s [E::Real]
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
pub struct RowsMut<'a, E> {
    /// The first element of row (0, 0).
    first: *mut E,
    layout: Layout,
    life: PhantomData<&'a mut [E]>,
}

// SAFETY: a row is reached through `row` only, whose callers promise to share none.
unsafe impl<E: Send> Sync for RowsMut<'_, E> {}
// SAFETY: it stands for the exclusive borrow of a slice.
unsafe impl<E: Send> Send for RowsMut<'_, E> {}

impl<'a, E: num::Element> RowsMut<'a, E> {
    /// The rows of `data`; `None` if the layout leaves it or two elements overlap.
    pub fn new(data: &'a mut [E], layout: Layout) -> Option<Self> {
        let valid = layout.fits(data.len()) && layout.is_disjoint();
        let first = data.as_mut_ptr().wrapping_add(layout.origin);
        valid.then_some(RowsMut { first, layout, life: PhantomData })
    }

    /// The rows of an output of samples, frames and elements; `None` if its elements are of another type.
    pub(crate) fn of(view: &'a mut ViewMut<'_>) -> Option<Self> {
        let layout = Layout::of::<E>(view.shape(), view.strides())?;
        let first = view.view.ptr.cast::<E>().cast_mut();
        (view.dtype() == E::DTYPE).then_some(RowsMut { first, layout, life: PhantomData })
    }

    /// How many samples, and how many frames each.
    pub fn counts(&self) -> [usize; 2] {
        self.layout.counts
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.layout.width
    }

    /// Whether rows are slices.
    #[inline(always)]
    pub(super) fn is_dense(&self) -> bool {
        self.layout.is_dense()
    }

    /// Row `(n, t)`.
    ///
    /// # Safety
    /// Nobody else may hold the same row.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub unsafe fn row(&self, n: usize, t: usize) -> RowMut<'_, E> {
        let first = self.first.wrapping_offset(self.layout.offset(n, t));
        RowMut { first, step: self.layout.step, width: self.layout.width, life: PhantomData }
    }
}

/// A row to write.
#[derive(Debug)]
pub struct RowMut<'a, E> {
    first: *mut E,
    step: isize,
    width: usize,
    life: PhantomData<&'a mut [E]>,
}

impl<'a, E: num::Element> RowMut<'a, E> {
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
    pub(super) fn set_each(&mut self, elements: impl Iterator<Item = (usize, E)>) {
        let row = RowMut { life: PhantomData, ..*self };
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
        let row = RowMut { life: PhantomData, ..*self };
        match row.slice() {
            Ok(row) => row[range].fill(x),
            Err(mut row) => range.for_each(|k| row.set(k, x)),
        }
    }
}

impl<'a, E: Element> RowMut<'a, E> {
    /// All elements, to write: as they are, or `scratch`, to be handed to [`RowMut::store`].
    #[inline(always)]
    pub(super) fn buffer<'s>(self, scratch: &'s mut [E::Real]) -> &'s mut [E::Real]
    where
        'a: 's,
    {
        match self.slice() {
            Ok(row) => E::buffer(row, scratch),
            Err(_) => scratch,
        }
    }

    /// Completes a row that was written through [`RowMut::buffer`].
    #[inline(always)]
    pub(super) fn store(self, values: &[E::Real]) {
        match self.slice() {
            Ok(row) => E::store(row, values),
            Err(mut row) => values.iter().enumerate().for_each(|(k, &x)| row.set(k, E::of(x))),
        }
    }
}

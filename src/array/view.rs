//! Strided views of arrays of any element type: pointer, element type, shape, byte strides. They are what the array
//! boundary hands in.

use crate::error::Number;
use crate::num::{DType, Element, with_element};
use smallvec::SmallVec;
use std::marker::PhantomData;
use std::ops::Range;

/// A shape.
pub type Shape = SmallVec<[usize; 3]>;
/// Byte strides.
pub type Strides = SmallVec<[isize; 3]>;

/// A read-only strided array. Every element is aligned for its type and in native byte order.
#[derive(Debug)]
pub struct View<'a> {
    pub(crate) ptr: *const u8,
    dtype: DType,
    shape: Shape,
    strides: Strides,
    life: PhantomData<&'a [u8]>,
}

impl Clone for View<'_> {
    fn clone(&self) -> Self {
        // `SmallVec::clone` goes element by element.
        let (shape, strides) = (Shape::from_slice(&self.shape), Strides::from_slice(&self.strides));
        View { shape, strides, ..*self }
    }
}

// SAFETY: a view only reads memory that is borrowed for its lifetime.
unsafe impl Send for View<'_> {}
// SAFETY: as above.
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// A view of a slice in C order.
    ///
    /// # Panics
    /// If `shape` does not hold `data.len()` elements.
    pub fn from_slice<E: Element>(data: &'a [E], shape: &[usize]) -> Self {
        assert_eq!(elements(shape), data.len(), "shape and data differ in size");
        View {
            ptr: data.as_ptr().cast(),
            dtype: E::DTYPE,
            shape: Shape::from_slice(shape),
            strides: c_strides(shape, size_of::<E>() as isize),
            life: PhantomData,
        }
    }

    /// A view of foreign memory.
    ///
    /// # Safety
    /// For `'a`, every element that shape and strides reach must be readable, aligned for `dtype` and initialised.
    pub unsafe fn from_raw_parts(
        ptr: *const u8,
        dtype: DType,
        shape: Shape,
        strides: Strides,
    ) -> Self {
        View { ptr, dtype, shape, strides, life: PhantomData }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// The byte strides.
    pub fn strides(&self) -> &Strides {
        &self.strides
    }
    /// The number of elements.
    pub fn len(&self) -> usize {
        elements(&self.shape)
    }
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Broadcast to `shape` by NumPy's rule, if it can be.
    pub fn broadcast_to(mut self, shape: &[usize]) -> Option<Self> {
        if *self.shape == *shape {
            return Some(self);
        }
        let lead = shape.len().checked_sub(self.shape.len())?;
        let mut strides: Strides = smallvec::smallvec![0; shape.len()];
        for (i, (&have, &stride)) in self.shape.iter().zip(&self.strides).enumerate() {
            match (have, shape[lead + i]) {
                (have, want) if have == want => strides[lead + i] = stride,
                (1, _) => {}
                _ => return None,
            }
        }
        (self.shape, self.strides) = (Shape::from_slice(shape), strides);
        Some(self)
    }

    /// The same elements under another shape: unit axes come and go, and a one-dimensional array takes any shape of
    /// its size in C order. `None` for everything else.
    pub fn reshape(mut self, shape: &[usize]) -> Option<Self> {
        // Comparing slices is a call, for as long as the rest of this takes.
        if self.shape.iter().eq(shape) {
            return Some(self);
        }
        if self.shape.len() == 1 && self.len() == elements(shape) {
            self.strides = c_strides(shape, self.strides[0]);
        } else {
            let axes = self.shape.iter().zip(&self.strides);
            let mut real = axes.filter(|(d, _)| **d != 1).map(|(d, s)| (*d, *s));
            let mut strides = Strides::new();
            for &d in shape {
                let axis = if d == 1 { Some((1, 0)) } else { real.next() };
                strides.push(axis.filter(|(have, _)| *have == d)?.1);
            }
            if real.next().is_some() {
                return None;
            }
            self.strides = strides;
        }
        self.shape = Shape::from_slice(shape);
        Some(self)
    }

    /// One dimension laid along `axis` of `shape` and constant along the others.
    pub fn along(mut self, axis: usize, shape: &[usize]) -> Option<Self> {
        if *self.shape != [shape[axis]] {
            return None;
        }
        let mut strides: Strides = smallvec::smallvec![0; shape.len()];
        strides[axis] = self.strides[0];
        (self.shape, self.strides) = (Shape::from_slice(shape), strides);
        Some(self)
    }

    /// With `axis` moved to position `to`.
    pub fn move_axis(mut self, axis: usize, to: usize) -> Self {
        if axis != to {
            let (d, s) = (self.shape.remove(axis), self.strides.remove(axis));
            self.shape.insert(to, d);
            self.strides.insert(to, s);
        }
        self
    }

    /// The rows of a range alone.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn narrow(mut self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.shape[0], "rows of the view");
        self.ptr = self.ptr.wrapping_offset(rows.start as isize * self.strides[0]);
        self.shape[0] = rows.len();
        self
    }

    /// With the axes in another order.
    #[allow(clippy::disallowed_methods, reason = "as long as the rank")]
    pub fn permute(mut self, order: impl Iterator<Item = usize> + Clone) -> Self {
        let shape = order.clone().map(|axis| self.shape[axis]).collect();
        self.strides = order.map(|axis| self.strides[axis]).collect();
        self.shape = shape;
        self
    }

    /// With a new axis of size 1 before `axis`.
    pub fn insert_axis(mut self, axis: usize) -> Self {
        self.shape.insert(axis, 1);
        self.strides.insert(axis, 0);
        self
    }

    /// With `axis`, of size 1, taken away.
    pub fn remove_axis(mut self, axis: usize) -> Self {
        self.shape.remove(axis);
        self.strides.remove(axis);
        self
    }

    /// All elements as they lie in memory, if nothing else lies between them, and the place of the first one.
    pub fn dense<E: Element>(&self) -> Option<(&'a [E], usize)> {
        let (low, high) = extent(self.ptr as usize, size_of::<E>(), &self.shape, &self.strides);
        let dense = self.dtype == E::DTYPE && high - low == self.len() * size_of::<E>();
        let first = (self.ptr as usize - low) / size_of::<E>();
        // SAFETY: the bytes from `low` to `high` are the view's elements, each once.
        dense.then(|| unsafe {
            (std::slice::from_raw_parts(self.ptr.cast::<E>().sub(first), self.len()), first)
        })
    }

    /// The element at an index, as it stands there.
    ///
    /// # Panics
    /// If there is no such element.
    pub fn number(&self, index: &[usize]) -> Number {
        assert!(
            index.len() == self.shape.len() && index.iter().zip(&self.shape).all(|(i, d)| i < d)
        );
        let steps = index.iter().zip(&self.strides).map(|(&i, &s)| i as isize * s);
        with_element!(self.dtype, E => {
            // SAFETY: an element within the shape that the view may read.
            unsafe { *self.ptr.wrapping_offset(steps.sum()).cast::<E>() }.number()
        })
    }
}

/// A writable strided array. Elements that are disjoint may be written from several threads at once.
#[derive(Clone, Debug)]
pub struct ViewMut<'a> {
    pub(crate) view: View<'a>,
    life: PhantomData<&'a mut [u8]>,
}

impl<'a> ViewMut<'a> {
    /// A view of a slice in C order.
    ///
    /// # Panics
    /// If `shape` does not hold `data.len()` elements.
    pub fn from_slice<E: Element>(data: &'a mut [E], shape: &[usize]) -> Self {
        assert_eq!(elements(shape), data.len(), "shape and data differ in size");
        // SAFETY: the slice is borrowed exclusively for 'a and the strides stay within it.
        unsafe {
            Self::from_raw_parts(
                data.as_mut_ptr().cast(),
                E::DTYPE,
                Shape::from_slice(shape),
                c_strides(shape, size_of::<E>() as isize),
            )
        }
    }

    /// A view of foreign memory.
    ///
    /// # Safety
    /// As [`View::from_raw_parts`], and for `'a` nobody else reads or writes the elements, which are all distinct.
    pub unsafe fn from_raw_parts(
        ptr: *mut u8,
        dtype: DType,
        shape: Shape,
        strides: Strides,
    ) -> Self {
        // SAFETY: the caller's promise.
        let view = unsafe { View::from_raw_parts(ptr, dtype, shape, strides) };
        ViewMut { view, life: PhantomData }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.view.dtype
    }
    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.view.shape
    }
    /// The byte strides.
    pub fn strides(&self) -> &Strides {
        &self.view.strides
    }
    /// The same elements seen in another way.
    pub fn map(self, f: impl FnOnce(View<'a>) -> View<'a>) -> Self {
        ViewMut { view: f(self.view), life: PhantomData }
    }
    /// Under another shape, by the rule of [`View::reshape`].
    pub fn reshape(self, shape: &[usize]) -> Option<Self> {
        Some(ViewMut { view: self.view.reshape(shape)?, life: PhantomData })
    }

    /// As [`View::dense`], to write.
    ///
    /// # Safety
    /// While the slice lives nobody else may touch the view's elements.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn dense_mut<E: Element>(&self) -> Option<(&'a mut [E], usize)> {
        let (slice, first) = self.view.dense::<E>()?;
        let start = slice.as_ptr().cast_mut();
        // SAFETY: the elements may be written, and exclusiveness is the caller's promise.
        Some((unsafe { std::slice::from_raw_parts_mut(start, slice.len()) }, first))
    }
}

/// Whether an array of one shape broadcasts to another by NumPy's rule.
pub fn broadcasts(from: &[usize], to: &[usize]) -> bool {
    from.len() <= to.len()
        && from.iter().rev().zip(to.iter().rev()).all(|(have, want)| have == want || *have == 1)
}

/// Whether an array of one shape takes another by the rule of [`View::reshape`].
pub fn reshapes(from: &[usize], to: &[usize]) -> bool {
    let long = |shape: &&usize| **shape != 1;
    (from.len() == 1 && from[0] == elements(to))
        || from.iter().filter(long).eq(to.iter().filter(long))
}

/// The number of elements of a shape; `usize::MAX` for more than can be counted.
pub fn elements(shape: &[usize]) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    shape.iter().fold(1, |n: usize, &d| n.saturating_mul(d))
}

/// Strides of a C-ordered array whose last axis steps by `unit`.
pub fn c_strides(shape: &[usize], unit: isize) -> Strides {
    let mut strides: Strides = smallvec::smallvec![0; shape.len()];
    let mut stride = unit;
    for (s, &d) in strides.iter_mut().zip(shape).rev() {
        *s = stride;
        // Only a shape without elements may go beyond what there is of memory.
        stride = stride.wrapping_mul(d.max(1) as isize);
    }
    strides
}

/// The lowest and one past the highest address that an array reaches.
pub fn extent(ptr: usize, size: usize, shape: &[usize], strides: &[isize]) -> (usize, usize) {
    if shape.contains(&0) {
        return (ptr, ptr);
    }
    let (mut low, mut high) = (0, size as isize);
    for (&d, &s) in shape.iter().zip(strides) {
        let reach = s * (d as isize - 1);
        low += reach.min(0);
        high += reach.max(0);
    }
    (ptr.wrapping_add_signed(low), ptr.wrapping_add_signed(high))
}

/// The index of the element at position `at` in C order.
#[allow(clippy::disallowed_macros, reason = "as long as the rank")]
pub fn unravel(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, &d) in index.iter_mut().zip(shape).rev() {
        *i = at % d;
        at /= d;
    }
    index
}

//! Strided views of arrays of any element type: pointer, element type, shape, byte strides. They are what the array
//! boundary hands in.

use super::shape::{Shape, Strides, byte_strides, c_strides, elements, overlaps_itself, short};
use crate::error::Number;
use crate::num::{DType, Element, with_element};
use std::marker::PhantomData;
use std::ops::Range;

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
        // `SmallVec::clone` goes through an iterator.
        let (shape, strides) = (short(&self.shape), short(&self.strides));
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
            shape: short(shape),
            strides: c_strides(shape, size_of::<E>() as isize),
            life: PhantomData,
        }
    }

    /// A view of some elements of a slice: the first, and the step along each axis in elements. None if it would leave the
    /// slice, or has not one stride for each axis.
    pub fn strided<E: Element>(
        data: &'a [E],
        first: usize,
        shape: &[usize],
        strides: &[isize],
    ) -> Option<Self> {
        let strides = byte_strides(size_of::<E>(), data.len(), first, shape, strides)?;
        let ptr = data.as_ptr().wrapping_add(first).cast();
        let shape = short(shape);
        Some(View { ptr, dtype: E::DTYPE, shape, strides, life: PhantomData })
    }

    /// A view of foreign memory.
    ///
    /// # Safety
    /// For `'a`, the memory from the lowest to the highest element that shape and strides reach must be readable and
    /// initialised, and every element aligned for `dtype`.
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
        (self.shape, self.strides) = (short(shape), strides);
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
        self.shape = short(shape);
        Some(self)
    }

    /// One dimension laid along `axis` of `shape` and constant along the others.
    pub fn along(mut self, axis: usize, shape: &[usize]) -> Option<Self> {
        if *self.shape != [shape[axis]] {
            return None;
        }
        let mut strides: Strides = smallvec::smallvec![0; shape.len()];
        strides[axis] = self.strides[0];
        (self.shape, self.strides) = (short(shape), strides);
        Some(self)
    }

    /// With `axis` moved to position `to`.
    pub fn move_axis(self, axis: usize, to: usize) -> Self {
        self.arranged(|dims| dims.move_axis(axis, to))
    }

    /// With its axes in another order, or with more or less of those of size 1.
    fn arranged(self, f: impl FnOnce(Dims) -> Dims) -> Self {
        let Dims { shape, strides } = f(Dims { shape: self.shape, strides: self.strides });
        View { shape, strides, ..self }
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
    #[expect(clippy::disallowed_methods, reason = "as long as the rank")]
    pub fn permute(mut self, order: impl Iterator<Item = usize> + Clone) -> Self {
        let shape = order.clone().map(|axis| self.shape[axis]).collect();
        self.strides = order.map(|axis| self.strides[axis]).collect();
        self.shape = shape;
        self
    }

    /// With a new axis of size 1 before `axis`.
    pub fn insert_axis(self, axis: usize) -> Self {
        self.arranged(|dims| dims.insert_axis(axis))
    }

    /// With `axis`, of size 1, taken away.
    pub fn remove_axis(mut self, axis: usize) -> Self {
        self.shape.remove(axis);
        self.strides.remove(axis);
        self
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
            self.memory::<E>().expect("its own type").run(steps.sum(), 1)[0].number()
        })
    }
}

/// Shape and strides without the memory: all that [`ViewMut::map`] may change, so that elements stay distinct.
pub struct Dims {
    shape: Shape,
    strides: Strides,
}

impl Dims {
    /// With `axis` moved to position `to`.
    pub fn move_axis(mut self, axis: usize, to: usize) -> Self {
        if axis != to {
            let (d, s) = (self.shape.remove(axis), self.strides.remove(axis));
            self.shape.insert(to, d);
            self.strides.insert(to, s);
        }
        self
    }

    /// With a new axis of size 1 before `axis`.
    pub fn insert_axis(mut self, axis: usize) -> Self {
        self.shape.insert(axis, 1);
        self.strides.insert(axis, 0);
        self
    }
}

/// A writable strided array, whose elements are distinct.
#[derive(Debug)]
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
        // The pointer must come from the borrow that may write.
        let ptr = data.as_mut_ptr().cast_const().cast();
        ViewMut { view: View { ptr, ..View::from_slice(data, shape) }, life: PhantomData }
    }

    /// As [`View::strided`]. None, too, if two elements may be one: each axis must step over all that lies within it.
    pub fn strided<E: Element>(
        data: &'a mut [E],
        first: usize,
        shape: &[usize],
        strides: &[isize],
    ) -> Option<Self> {
        let ptr = data.as_mut_ptr().wrapping_add(first).cast_const().cast();
        let view = View::strided(data, first, shape, strides)?;
        let apart = !overlaps_itself(size_of::<E>(), view.shape(), view.strides());
        apart.then_some(ViewMut { view: View { ptr, ..view }, life: PhantomData })
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
        ViewMut { view: View { ptr, dtype, shape, strides, life: PhantomData }, life: PhantomData }
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
    /// The same elements with their axes in another order, or with more of those of size 1.
    pub fn map(self, f: impl FnOnce(Dims) -> Dims) -> Self {
        ViewMut { view: self.view.arranged(f), life: PhantomData }
    }
    /// Under another shape, by the rule of [`View::reshape`].
    pub fn reshape(self, shape: &[usize]) -> Option<Self> {
        Some(ViewMut { view: self.view.reshape(shape)?, life: PhantomData })
    }

    /// The rows of a range alone, for a while.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn narrow(&mut self, rows: Range<usize>) -> ViewMut<'_> {
        ViewMut { view: self.view.clone().narrow(rows), life: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_views_stay_within_their_slice() {
        let data = [1.0_f32; 24];
        let good: [(usize, &[usize], &[isize]); 8] = [
            (0, &[24], &[1]),
            (23, &[24], &[-1]),
            (0, &[2, 2], &[22, 1]),
            (23, &[], &[]),
            (23, &[1, 1], &[0, isize::MAX]),
            (99, &[0, usize::MAX], &[isize::MAX, isize::MIN]),
            (23, &[3, 4, 2], &[-8, -1, -4]),
            (0, &[usize::MAX], &[0]),
        ];
        for (first, shape, strides) in good {
            let view = View::strided(&data, first, shape, strides);
            assert!(view.is_some(), "{first}, {shape:?}, {strides:?}");
        }
        let bad: [(usize, &[usize], &[isize]); 8] = [
            (1, &[24], &[1]),
            (22, &[24], &[-1]),
            (24, &[], &[]),
            (0, &[2, 2], &[24, 0]),
            (0, &[3], &[isize::MAX]),
            (0, &[usize::MAX, usize::MAX], &[isize::MAX, isize::MIN]),
            (0, &[2], &[1, 1]),
            (usize::MAX, &[1], &[1]),
        ];
        for (first, shape, strides) in bad {
            let view = View::strided(&data, first, shape, strides);
            assert!(view.is_none(), "{first}, {shape:?}, {strides:?}");
        }
    }

    #[test]
    fn views_to_write_have_distinct_elements() {
        let mut data = [0.0_f64; 24];
        let mut strided = |shape: &[usize], strides: &[isize]| {
            ViewMut::strided(&mut data, 12, shape, strides).is_some()
        };
        assert!(strided(&[2, 3], &[-6, 2]));
        assert!(strided(&[1, 3], &[0, 1]));
        assert!(strided(&[0, 3], &[0, 0]));
        assert!(!strided(&[2, 3], &[2, 1]));
        assert!(!strided(&[3], &[0]));
        assert!(!strided(&[2, 6], &[1, 0]));
    }

    #[test]
    fn memory_ends_where_the_view_does() {
        let data = [1_i32, 2, 3, 4, 5, 6];
        let middle = View::strided(&data, 1, &[2, 2], &[2, 1]).unwrap();
        let memory = middle.memory::<i32>().unwrap();
        assert_eq!(memory.run(4, 3), [3, 4, 5]);
        let mut backwards = [0.0_f64; 4];
        memory.read(12, -4, &mut backwards);
        assert_eq!(backwards, [5.0, 4.0, 3.0, 2.0]);
        assert!(memory.run(1 << 40, 0).is_empty());
        assert!(middle.memory::<u32>().is_none());
        let outside: [(isize, isize, usize); 6] =
            [(-4, 4, 2), (0, 4, 5), (12, -4, 5), (16, 4, 1), (2, 4, 1), (0, 2, 2)];
        for (offset, step, len) in outside {
            let read = || memory.read(offset, step, &mut vec![0.0_f32; len]);
            assert!(std::panic::catch_unwind(read).is_err(), "{offset}, {step}, {len}");
        }
        let empty = View::from_slice::<i32>(&[], &[3, 0]);
        assert!(
            std::panic::catch_unwind(|| empty.memory::<i32>().unwrap().run(0, 1).len()).is_err()
        );
    }
}

//! The memory of a view as elements of their type, read and written in equal steps, by several threads at once if each
//! has tiles of its own.

use super::shape::{Strides, reach};
use super::view::{View, ViewMut};
use crate::num::{DType, Element, Float};
use std::marker::PhantomData;

/// Single elements of a half type that are converted at once.
const CONVERTED_TOGETHER: usize = 64;

impl<'a> View<'a> {
    /// The memory, if its elements are of that type.
    pub(super) fn memory<E: Element>(&self) -> Option<Memory<'a, E>> {
        let (low, high) = reach(size_of::<E>(), self.shape(), self.strides());
        let memory = Memory { ptr: self.ptr.cast(), low, high, life: PhantomData };
        (self.dtype() == E::DTYPE).then_some(memory)
    }
}

/// The memory of a view as elements of their type. A place outside of what the view reaches is refused, so that a wrong
/// tile reads wrong numbers of the same array at worst.
#[derive(Clone, Copy)]
pub(crate) struct Memory<'a, E> {
    ptr: *const E,
    /// The first byte and one past the last, from the pointer on.
    low: isize,
    high: isize,
    life: PhantomData<&'a [E]>,
}

impl<'a, E: Element> Memory<'a, E> {
    const UNIT: isize = size_of::<E>() as isize;

    /// Where `len` elements begin, one or more, `step` bytes apart.
    #[inline(always)]
    fn place(self, offset: isize, step: isize, len: usize) -> *const E {
        let reach = step.wrapping_mul(len as isize - 1);
        let (first, last) = (offset + reach.min(0), offset + reach.max(0));
        assert!(first >= self.low && last + Self::UNIT <= self.high, "outside of an array");
        let aligned = ((offset | step) as usize).is_multiple_of(align_of::<E>());
        assert!(aligned, "between two elements");
        self.ptr.wrapping_byte_offset(offset)
    }

    /// Adjacent elements.
    #[inline(always)]
    pub fn run(self, offset: isize, len: usize) -> &'a [E] {
        if len == 0 {
            return &[];
        }
        let first = self.place(offset, Self::UNIT, len);
        // SAFETY: adjacent elements, aligned and within what the view reaches, which is borrowed for 'a.
        unsafe { std::slice::from_raw_parts(first, len) }
    }

    /// Elements in equal steps, converted.
    pub fn read<T: Float>(self, offset: isize, step: isize, to: &mut [T]) {
        if step == Self::UNIT {
            return E::to_run(self.run(offset, to.len()), to);
        }
        let first = if to.is_empty() { return } else { self.place(offset, step, to.len()) };
        // SAFETY: as above, element by element.
        let at = |i: usize| unsafe { *first.wrapping_byte_offset(i as isize * step) };
        gather(to, at);
    }
}

impl<'a> ViewMut<'a> {
    /// The view for tiles to be written by several threads.
    ///
    /// # Safety
    /// No element is written by two threads at once, or is in two slices of [`MemoryMut::run`] that live at once.
    pub(crate) unsafe fn tiles(&self) -> Tiles<'_, 'a> {
        Tiles { view: self }
    }

    /// As [`ViewMut::tiles`], for the thread that has the view alone.
    pub(super) fn own_tiles(&mut self) -> Tiles<'_, 'a> {
        Tiles { view: self }
    }
}

/// A view whose elements are written, each by one thread at a time, as the maker of this has promised.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<'v, 'a> {
    view: &'v ViewMut<'a>,
}

impl<'v> Tiles<'v, '_> {
    /// The element type.
    pub fn dtype(self) -> DType {
        self.view.dtype()
    }

    /// The shape.
    pub fn shape(self) -> &'v [usize] {
        self.view.shape()
    }

    /// The byte strides.
    pub fn strides(self) -> &'v Strides {
        self.view.strides()
    }

    /// The memory, if its elements are of that type.
    pub(super) fn memory<E: Element>(self) -> Option<MemoryMut<'v, E>> {
        self.view.view.memory().map(MemoryMut)
    }
}

/// As [`Memory`], to write.
#[derive(Clone, Copy)]
pub(crate) struct MemoryMut<'v, E>(Memory<'v, E>);

impl<'v, E: Element> MemoryMut<'v, E> {
    /// Adjacent elements.
    #[inline(always)]
    pub fn run(self, offset: isize, len: usize) -> &'v mut [E] {
        if len == 0 {
            return &mut [];
        }
        let first = self.0.place(offset, Memory::<E>::UNIT, len).cast_mut();
        // SAFETY: adjacent elements within what the view reaches; that nobody else has them the maker of the tiles
        // promised.
        unsafe { std::slice::from_raw_parts_mut(first, len) }
    }

    /// Writes elements in equal steps, converted.
    pub fn write<T: Float>(self, offset: isize, step: isize, from: &[T]) {
        if step == Memory::<E>::UNIT {
            return E::of_run(from, self.run(offset, from.len()));
        }
        let len = from.len();
        let first = if len == 0 { return } else { self.0.place(offset, step, len) }.cast_mut();
        // SAFETY: as above, element by element.
        let set = |i: usize, x| unsafe { *first.wrapping_byte_offset(i as isize * step) = x };
        scatter(from, set);
    }
}

/// Converts single elements, those of half types by vectors.
pub(crate) fn gather<E: Element, T: Float>(to: &mut [T], at: impl Fn(usize) -> E) {
    if !E::DTYPE.is_half() {
        return to.iter_mut().enumerate().for_each(|(i, x)| *x = at(i).to());
    }
    for (chunk, to) in to.chunks_mut(CONVERTED_TOGETHER).enumerate() {
        let mut some = [E::of(T::ZERO); CONVERTED_TOGETHER];
        let some = &mut some[..to.len()];
        some.iter_mut().enumerate().for_each(|(i, x)| *x = at(chunk * CONVERTED_TOGETHER + i));
        E::to_run(some, to);
    }
}

/// The reverse of [`gather`].
pub(crate) fn scatter<E: Element, T: Float>(from: &[T], mut set: impl FnMut(usize, E)) {
    if !E::DTYPE.is_half() {
        return from.iter().enumerate().for_each(|(i, x)| set(i, E::of(*x)));
    }
    for (chunk, from) in from.chunks(CONVERTED_TOGETHER).enumerate() {
        let mut some = [E::of(T::ZERO); CONVERTED_TOGETHER];
        let some = &mut some[..from.len()];
        E::of_run(from, some);
        some.iter().enumerate().for_each(|(i, x)| set(chunk * CONVERTED_TOGETHER + i, *x));
    }
}

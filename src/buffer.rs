//! Scratch that begins on a cache line, used again from tile to tile and from sample to sample.
//!
//! Vectors of 64 bytes are loaded from one line then, and not from two.

use crate::error::Result;
use crate::memory;
use crate::scratch::Reusable;
use std::ops::{Deref, DerefMut};

/// Elements from the start of a cache line on.
pub struct Buffer<T> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

/// Bytes of a cache line.
const LINE: usize = 64;

impl<T> Buffer<T> {
    /// Without memory.
    pub const fn new() -> Self {
        Buffer { memory: Vec::new(), start: 0, len: 0 }
    }
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy + Default> Buffer<T> {
    /// Elements before the first that begins a line, at most; their size divides that of a line.
    const SLACK: usize = LINE / size_of::<T>() - 1;

    /// Makes it `len` elements long. What they hold is of no use.
    ///
    /// # Errors
    /// If memory is refused.
    #[inline]
    pub fn sized(&mut self, len: usize) -> Result<&mut [T]> {
        self.fit(len)?;
        Ok(&mut self.memory[self.start..][..len])
    }

    #[inline(never)]
    fn fit(&mut self, len: usize) -> Result<()> {
        if self.start.saturating_add(len) > self.memory.len() {
            let len = len.saturating_add(Self::SLACK);
            let grown = memory::grow(&mut self.memory, len, T::default());
            self.start = self.memory.as_ptr().align_offset(LINE).min(Self::SLACK);
            grown?;
        }
        self.len = len;
        Ok(())
    }
}

impl<T: Send + 'static> Reusable for Buffer<T> {
    fn bytes(&self) -> usize {
        self.memory.bytes()
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    /// The range is always within the memory; to get it instead of to index has no panic to compile.
    #[inline]
    fn deref(&self) -> &[T] {
        self.memory.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

impl<T> DerefMut for Buffer<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        self.memory.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }
}

/// Marks numbers that must be written before they are read, as they may be left from another use. With debug assertions
/// they become so large that no result survives them.
pub fn poison(buffer: &mut [f64]) {
    if cfg!(debug_assertions) {
        buffer.fill(1e300);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_on_a_cache_line_whatever_its_length() {
        fn of<T: Copy + Default + PartialEq>(element: T) {
            let mut buffer = Buffer::new();
            assert!(buffer.is_empty());
            for len in [3, 1000, 5, 1015, 1016, 0, 70_000] {
                buffer.sized(len).unwrap().fill(element);
                assert_eq!(buffer.len(), len);
                assert!(buffer.as_ptr().addr().is_multiple_of(LINE));
                assert!(buffer.iter().all(|&x| x == element));
            }
            assert!(buffer.sized(usize::MAX / 2).is_err());
            assert!(buffer.sized(usize::MAX).is_err());
            assert!(buffer.len() == 70_000 && buffer[69_999] == element);
        }
        of(1_u8);
        of(1.0_f32);
        of([1.0_f64; 2]);
    }
}

//! Room for what memory does not hold as a slice, used again from tile to tile.
//!
//! It begins on a cache line: vectors of 64 bytes are loaded from one line then, and not from two of them each time.

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
    const SLACK: usize = LINE / size_of::<T>() - 1;

    /// Makes it `len` elements long. They hold whatever was there before.
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
            memory::grow(&mut self.memory, len.saturating_add(Self::SLACK), T::default())?;
            self.start = self.memory.as_ptr().align_offset(LINE).min(Self::SLACK);
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
        let mut buffer = Buffer::<f32>::new();
        assert!(buffer.is_empty());
        for len in [3, 1000, 5, 1015, 1016, 0, 70_000] {
            buffer.sized(len).unwrap().fill(1.0);
            assert_eq!(buffer.len(), len);
            assert!(buffer.as_ptr().addr().is_multiple_of(LINE));
            assert!(buffer.iter().all(|&x| x == 1.0));
        }
        assert!(buffer.sized(usize::MAX / 8).is_err());
        assert!(buffer.sized(usize::MAX).is_err());
        assert_eq!(buffer[69_999], 1.0);
    }
}

//! Memory that is used again from sample to sample: it grows where a sample needs more, and is never cleared.

use crate::error::Result;
use crate::{memory, threads};
use std::ops::{Deref, DerefMut};

/// Numbers from the start of a cache line on, so that no group of states is split between two lines.
#[derive(Default)]
pub struct AlignedBuffer {
    memory: Vec<f64>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    const LINE: usize = 64;
    const SLACK: usize = Self::LINE / size_of::<f64>() - 1;

    /// Makes it `len` numbers long. They hold whatever an earlier sample has left.
    pub fn resized(&mut self, len: usize) -> Result<&mut [f64]> {
        resized(&mut self.memory, len.saturating_add(Self::SLACK))?;
        let start = self.memory.as_ptr().align_offset(Self::LINE).min(Self::SLACK);
        (self.start, self.len) = (start, len);
        Ok(self)
    }

    /// How many numbers its memory holds.
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }
}

impl Deref for AlignedBuffer {
    type Target = [f64];

    fn deref(&self) -> &[f64] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [f64] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// The first `len` elements of a buffer, which grows if it has fewer. They hold whatever an earlier sample has left.
pub fn resized<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> Result<&mut [T]> {
    // The system takes some milliseconds to give this much memory.
    const UNCHECKED: usize = 1 << 21;
    memory::reserve(buffer, len.saturating_sub(buffer.len()))?;
    while buffer.len() < len {
        threads::check()?;
        memory::grow(buffer, len.min(buffer.len() + UNCHECKED), T::default())?;
    }
    Ok(&mut buffer[..len])
}

/// Replaces what a buffer holds by some items, and makes room for `len`.
#[expect(clippy::disallowed_methods, reason = "room is reserved first")]
pub fn refill<T>(
    buffer: &mut Vec<T>,
    len: usize,
    items: impl IntoIterator<Item = T>,
) -> Result<()> {
    buffer.clear();
    memory::reserve(buffer, len)?;
    buffer.extend(items);
    Ok(())
}

/// Marks numbers that must be written before they are read, as they may be left from another sample. With debug
/// assertions they become so large that no result survives them.
pub fn poison(buffer: &mut [f64]) {
    if cfg!(debug_assertions) {
        buffer.fill(1e300);
    }
}

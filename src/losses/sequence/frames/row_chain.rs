//! State rows that follow from each other, frame by frame.

use super::Direction;
use super::blocks::Block;
use crate::error::Result;
use std::mem;
use std::slice::ChunksExactMut;

/// Rows each of which is made from the row before. In a buffer of many rows all of them stay; in a buffer of two rows,
/// the last two.
pub struct RowChain<'a, T> {
    /// The row that was made last.
    pub last: &'a mut [T],
    next: &'a mut [T],
    unused: ChunksExactMut<'a, T>,
}

impl<'a, T> RowChain<'a, T> {
    /// Rows of `len` elements in `buffer`, which holds at least two of them if more than one is to be made.
    pub fn new(buffer: &'a mut [T], len: usize) -> Self {
        let mut unused = buffer.chunks_exact_mut(len);
        RowChain { last: &mut [], next: unused.next().unwrap_or_default(), unused }
    }

    /// The last row, which is empty before the first one is made, and the row to be made.
    #[inline(always)]
    pub fn rows(&mut self) -> (&[T], &mut [T]) {
        (self.last, self.next)
    }

    /// The row is made: goes on to the next one.
    #[inline(always)]
    pub fn advance(&mut self) {
        mem::swap(&mut self.last, &mut self.next);
        if let Some(unused) = self.unused.next() {
            self.next = unused;
        }
    }
}

/// Makes the state rows of all frames of a block with `step(i, t, from, to)`, for frame t, the i-th in the direction.
/// The first row is made from `state`. Returns the last row.
#[inline(always)]
pub fn each_frame<'a>(
    direction: Direction,
    block: &Block,
    state: &[f64],
    buffer: &'a mut [f64],
    mut step: impl FnMut(usize, usize, &[f64], &mut [f64]) -> Result<()>,
) -> Result<&'a [f64]> {
    let mut chain = RowChain::new(buffer, state.len());
    for i in 0..block.frames.len() {
        let (from, to) = chain.rows();
        let from = if i == 0 { state } else { from };
        step(i, direction.nth(&block.frames, i), from, to)?;
        chain.advance();
    }
    Ok(chain.last)
}

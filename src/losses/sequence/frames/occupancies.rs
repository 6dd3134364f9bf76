//! Occupancies: how probable each state is at each frame, given that the path is one of the lattice's.

use super::Direction;
use crate::buffer::Buffer;
use crate::error::Result;
use std::ops::Range;

/// The occupancies of a block.
pub struct Occupancies<'a> {
    /// The rows, in the order of the direction that has stored them.
    store: &'a [f64],
    direction: Direction,
    frames: usize,
    /// From one row to the next.
    step: usize,
    /// Numbers of a row.
    len: usize,
}

impl<'a> Occupancies<'a> {
    pub fn new(
        store: &'a [f64],
        direction: Direction,
        frames: usize,
        [step, len]: [usize; 2],
    ) -> Self {
        Occupancies { store, direction, frames, step, len }
    }

    /// The row of the block's i-th frame, whichever direction has stored it.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [f64] {
        let i = self.direction.nth(&(0..self.frames), i);
        &self.store[i * self.step..][..self.len]
    }
}

/// Makes results of occupancies.
pub trait OccupancySink: Sync {
    /// Takes the occupancies of a block: row i is that of frame `frames.start + i`, and `totals[i]` has its sums over
    /// blanks and labels. `e` are the emission rows in [`EmissionForm::Linear`](super::emissions::EmissionForm), if
    /// they are at hand.
    fn take(
        &self,
        frames: Range<usize>,
        rows: &Occupancies<'_>,
        totals: &[[f64; 2]],
        e: Option<&[f64]>,
        scratch: &mut Buffer<f64>,
    ) -> Result<()>;
}

/// For a call that wants the likelihood alone, but has to know whether it can be trusted.
pub struct NullSink;

impl OccupancySink for NullSink {
    fn take(
        &self,
        _: Range<usize>,
        _: &Occupancies<'_>,
        _: &[[f64; 2]],
        _: Option<&[f64]>,
        _: &mut Buffer<f64>,
    ) -> Result<()> {
        Ok(())
    }
}

//! Which arithmetic a sample needs.
//!
//! 1. [`BlockFloat`], the fast one, where no emission is too small for it and where it says that it can be trusted.
//! 2. [`ExtendedFloat`], the robust one, otherwise.
//! 3. [`FixedPoint`], the exact one, where *far logits* may matter. These are logits so far below the largest of their
//!    frame that their emissions are taken to be 0. As a rule they are masks, and paths avoid them. A bound on the
//!    number of paths tells whether all paths through far logits together could change the result.

use super::block_float::BlockFloat;
use super::extended_float::ExtendedFloat;
use super::fixed_number::{LONG, SHORT_LIMIT, SHORT_NUMBER};
use super::fixed_point::FixedPoint;
use super::frames::blocks::DEEPEST;
use super::frames::midpoint::PathSum;
use super::frames::occupancies::{NullSink, OccupancySink};
use super::frames::pass::FrameStatus;
use super::step_buffers::{CtcLattice, CtcStorage};
use super::viterbi::best_path;
use crate::error::Result;
use std::f64::consts::LN_2;

/// The logarithm of the sum over all paths that avoid far logits.
pub fn solve(
    lattice: &CtcLattice<'_>,
    storage: &mut CtcStorage,
    sink: Option<&dyn OccupancySink>,
) -> Result<f64> {
    if lattice.frames.iter().all(|frame| frame.bits <= DEEPEST) {
        let mut outcome = lattice.run::<BlockFloat>(storage, sink)?;
        if !outcome.trusted && sink.is_none() {
            // Only the passes back tell how much of the likelihood was lost or added.
            outcome = lattice.run::<BlockFloat>(storage, Some(&NullSink))?;
        }
        if let PathSum { log_likelihood, trusted: true } = outcome {
            return Ok(log_likelihood);
        }
    }
    Ok(lattice.run::<ExtendedFloat>(storage, sink)?.log_likelihood)
}

/// The far logits of a sample.
pub struct FarLogits {
    /// No path through one of them has a logarithm above this; -inf if there are none.
    nearest: f64,
    /// The logarithm of the number of paths is at most this.
    paths: f64,
    /// Words of a [`FixedPoint`] number that holds the sum over any path.
    pub words: usize,
}

impl FarLogits {
    pub fn new(status: &FrameStatus, frames: usize) -> Self {
        // A path stays, advances or skips at each frame.
        let paths = frames as f64 * 3.0_f64.ln();
        let short = status.furthest * (frames as f64) < SHORT_LIMIT;
        let words = if short { SHORT_NUMBER } else { LONG };
        FarLogits { nearest: -status.nearest_far, paths, words }
    }

    /// Whether a path with this logarithm is better than any path through a far logit.
    pub fn are_outweighed_by(&self, log: f64) -> bool {
        self.nearest < log || self.nearest == f64::NEG_INFINITY
    }

    /// Whether the sum over all paths through far logits would vanish beside a sum with this logarithm.
    pub fn are_outweighed_in_sum_by(&self, log: f64) -> bool {
        const VANISHING: f64 = -60.0 * LN_2;
        self.are_outweighed_by(log + VANISHING - self.paths)
    }

    /// The logarithm of the sum over all paths.
    pub fn solve(
        &self,
        lattice: &CtcLattice<'_>,
        storage: &mut CtcStorage,
        sink: Option<&dyn OccupancySink>,
    ) -> Result<f64> {
        let outcome = match self.words {
            SHORT_NUMBER => lattice.run::<FixedPoint<SHORT_NUMBER>>(storage, sink),
            _ => lattice.run::<FixedPoint<LONG>>(storage, sink),
        };
        Ok(outcome?.log_likelihood)
    }

    /// The best of all paths, and its score.
    pub fn best_path(&self, lattice: &CtcLattice<'_>, states: &mut [u32]) -> Result<f64> {
        match self.words {
            SHORT_NUMBER => best_path::<FixedPoint<SHORT_NUMBER>>(lattice, states),
            _ => best_path::<FixedPoint<LONG>>(lattice, states),
        }
    }
}

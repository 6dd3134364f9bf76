//! Which arithmetic a sample needs: the fast one, the robust one, or exact sums for inputs that lie far apart.

use super::blocks::DEEPEST;
use super::fixed::{self, Fixed};
use super::frames::Status;
use super::linear::Linear;
use super::results::Nobody;
use super::sweep::{Lattice, Outcome, Sink, Storage};
use super::viterbi::best_path;
use super::wide::Wide;
use crate::error::Result;
use std::f64::consts::LN_2;

impl Lattice<'_> {
    /// The logarithm of the sum over all paths.
    pub fn solve(&self, storage: &mut Storage, sink: Option<&dyn Sink>) -> Result<f64> {
        if self.frames.iter().all(|frame| frame.bits <= DEEPEST) {
            let mut outcome = self.run::<Linear>(storage, sink)?;
            if !outcome.trusted && sink.is_none() {
                // What was dropped can be weighed only when the directions have passed through each other.
                outcome = self.run::<Linear>(storage, Some(&Nobody))?;
            }
            if let Outcome { log_likelihood, trusted: true } = outcome {
                return Ok(log_likelihood);
            }
        }
        Ok(self.run::<Wide>(storage, sink)?.log_likelihood)
    }
}

/// The emissions that were left out because they are far below the largest of their frames, and what is computed with
/// them where no path avoids them.
pub(super) struct Far {
    /// The logarithm that no path through one of them exceeds.
    nearest: f64,
    /// The logarithm of the number of paths is at most this.
    paths: f64,
    /// Words of a number that holds the sum over any path.
    pub words: usize,
}

impl Far {
    pub fn new(status: &Status, frames: usize) -> Self {
        let [nearest, furthest] = status.far;
        let paths = frames as f64 * 3.0_f64.ln();
        let short = furthest * (frames as f64) < fixed::SHORT_LIMIT;
        Far { nearest: -nearest, paths, words: if short { fixed::SHORT } else { fixed::LONG } }
    }

    /// Whether a path with this logarithm is better than all that were left out.
    pub fn is_outweighed_by(&self, log: f64) -> bool {
        self.nearest < log || self.nearest == f64::NEG_INFINITY
    }

    /// Whether the sum of all paths that were left out would vanish in this one.
    pub fn is_outweighed_in_sum_by(&self, log: f64) -> bool {
        const VANISHING: f64 = -60.0 * LN_2;
        self.is_outweighed_by(log + VANISHING - self.paths)
    }

    pub fn solve(
        &self,
        lattice: &Lattice<'_>,
        storage: &mut Storage,
        sink: Option<&dyn Sink>,
    ) -> Result<f64> {
        let outcome = match self.words {
            fixed::SHORT => lattice.run::<Fixed<{ fixed::SHORT }>>(storage, sink),
            _ => lattice.run::<Fixed<{ fixed::LONG }>>(storage, sink),
        };
        Ok(outcome?.log_likelihood)
    }

    pub fn best_path(&self, lattice: &Lattice<'_>, states: &mut [u32]) -> Result<f64> {
        let Lattice { level, target, source, budget, .. } = *lattice;
        match self.words {
            fixed::SHORT => {
                best_path::<Fixed<{ fixed::SHORT }>>(level, target, source, budget, states)
            }
            _ => best_path::<Fixed<{ fixed::LONG }>>(level, target, source, budget, states),
        }
    }
}

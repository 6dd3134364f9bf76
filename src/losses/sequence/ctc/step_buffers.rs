//! The buffers of a direction, and the lattice as the shared passes see it.

use super::frames::arithmetic::{StepBuffers, Topology};
use super::frames::half::SampleLattice;
use super::frames::midpoint::MidpointStorage;
use super::target::CtcTarget;
use super::transitions::TransitionWeights;
use crate::buffer::{Buffer, poison};
use crate::error::Result;
use crate::scratch::Reusable;

/// Buffers for the steps of a direction.
#[derive(Default)]
pub struct CtcBuffers {
    /// An exponent for each state.
    pub exponents: Buffer<f64>,
    /// Two state rows: the last one and the next.
    pub rows: Buffer<f64>,
    pub weights: TransitionWeights,
}

impl Reusable for CtcBuffers {
    fn bytes(&self) -> usize {
        self.exponents.bytes() + self.rows.bytes() + self.weights.bytes()
    }
}

impl StepBuffers<CtcTarget> for CtcBuffers {
    fn fit(&mut self, target: &CtcTarget, state_len: usize) -> Result<()> {
        poison(self.exponents.sized(2 * target.width())?);
        poison(self.rows.sized(2 * state_len)?);
        self.weights.fit(target)
    }
}

impl Topology for CtcTarget {
    type Buffers = CtcBuffers;

    fn frames(&self) -> usize {
        self.frames
    }

    fn emission_stride(&self) -> usize {
        self.emissions.stride()
    }

    fn occupancy_len(&self) -> usize {
        2 * self.width()
    }
}

/// The lattice of a sample.
pub type CtcLattice<'a> = SampleLattice<'a, CtcTarget>;

/// The memory of its two halves.
pub type CtcStorage = MidpointStorage<CtcBuffers>;

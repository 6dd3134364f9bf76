//! The buffers of a direction, and the lattice as the shared passes see it.

use super::frames::arithmetic::{StepBuffers, Topology};
use super::frames::buffer::{AlignedBuffer, poison};
use super::frames::half::SampleLattice;
use super::frames::midpoint::MidpointStorage;
use super::target::CtcTarget;
use super::transitions::TransitionWeights;
use crate::error::Result;
use crate::scratch::Reusable;

/// Buffers for the steps of a direction.
#[derive(Default)]
pub struct CtcBuffers {
    /// An exponent for each state.
    pub exponents: AlignedBuffer,
    /// Two state rows: the last one and the next.
    pub rows: AlignedBuffer,
    pub weights: TransitionWeights,
}

impl Reusable for CtcBuffers {
    fn bytes(&self) -> usize {
        let numbers = self.exponents.capacity() + self.rows.capacity();
        numbers * size_of::<f64>() + self.weights.bytes()
    }
}

impl StepBuffers<CtcTarget> for CtcBuffers {
    fn fit(&mut self, target: &CtcTarget, state_len: usize) -> Result<()> {
        poison(self.exponents.resized(2 * target.width())?);
        poison(self.rows.resized(2 * state_len)?);
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

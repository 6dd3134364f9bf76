//! The parts that all lattice losses share, whatever their states are.
//!
//! A lattice has a row of states for each frame of an utterance; a path takes one state of each row, and the loss is
//! minus the logarithm of the sum of the probabilities of all paths. The emission of a state at a frame is the
//! probability of its class there.
//!
//! | file | what it does |
//! |---|---|
//! | `array` | frames of a strided array, read and written in place |
//! | `layout` | which class stands at which place of a row of emissions |
//! | `pass` | the first pass over the frames: their softmax, emissions, unusual inputs |
//! | `emissions` | emissions computed again, in the form that an arithmetic asks for |
//! | `lanes`, `row_chain`, `exponents` | groups of states in registers, rows of states, exponents |
//! | `arithmetic` | the interface of a lattice: its states, and its sums over paths |
//! | `blocks`, `checkpoints` | frames that are computed in one go, and which of their rows are stored |
//! | `midpoint`, `half` | the forward and the backward pass of any lattice, which meet in the middle |
//! | `occupancies` | the results of the passes, and their sinks |
//!
//! A lattice implements [`arithmetic::Topology`] for its states and [`arithmetic::Arithmetic`] for each way in which it
//! adds up paths; nothing in this folder knows of a lattice.

pub mod arithmetic;
pub mod array;
pub mod blocks;
pub mod checkpoints;
pub mod emissions;
pub mod exponents;
pub mod half;
pub mod lanes;
pub mod layout;
pub mod midpoint;
pub mod occupancies;
pub mod pass;
pub mod row_chain;

use std::ops::Range;

/// A group has as many states as an [`F64x8`](crate::simd::F64x8) numbers.
pub use crate::simd::GROUP;

/// The time of a task for [`crate::threads::run`]: sharing pays wherever it is wanted, and never where it is not.
pub fn task_ns(shared: bool) -> f64 {
    if shared { f64::INFINITY } else { 0.0 }
}

/// The order in which a pass takes the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first frame on.
    Forward,
    /// From the last frame on.
    Backward,
}

impl Direction {
    pub fn opposite(self) -> Self {
        match self {
            Direction::Forward => Direction::Backward,
            Direction::Backward => Direction::Forward,
        }
    }

    /// The frame that comes i-th in this direction.
    #[inline(always)]
    pub fn nth(self, frames: &Range<usize>, i: usize) -> usize {
        match self {
            Direction::Forward => frames.start + i,
            Direction::Backward => frames.end - 1 - i,
        }
    }

    /// The frame after t in this direction, if there is one.
    pub fn after(self, t: usize, frames: usize) -> Option<usize> {
        match self {
            Direction::Forward => Some(t + 1).filter(|&t| t < frames),
            Direction::Backward => t.checked_sub(1),
        }
    }

    /// The frames up to the middle, which depends on the number of frames alone.
    pub fn half(self, frames: usize) -> Range<usize> {
        let middle = frames.div_ceil(2);
        match self {
            Direction::Forward => 0..middle,
            Direction::Backward => middle..frames,
        }
    }

    /// The first frame behind the middle.
    pub fn beyond_middle(self, frames: usize) -> usize {
        let middle = frames.div_ceil(2);
        match self {
            Direction::Forward => middle,
            Direction::Backward => middle - 1,
        }
    }
}

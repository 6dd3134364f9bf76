//! Losses over label sequences: connectionist temporal classification, its posteriors and its best path.
//!
//! | file | what it does |
//! |---|---|
//! | [`rows`] | frames of a strided array, read and written |
//! | `target` | the states of a label sequence and their reach |
//! | `frames`, `exponentials` | softmax of every frame, emissions of the classes that occur |
//! | `linear`, `wide`, `fixed` | sums over paths: fast with exponents shared by frames, robust with one for each number, exact |
//! | `far` | which of these a sample needs |
//! | `planes`, `weights` | rows of states, and the arrows between them |
//! | `sweep`, `blocks`, `checkpoints` | the two directions, their meeting, what is stored |
//! | `ctc`, `results`, `scratch` | a batch: validation, schedule, gradient; memory from call to call |
//! | `viterbi` | the best path |
//! | `loss`, `arguments` | the loss of the registry: results, and what a call gives, checked |

#[cfg(test)]
mod agreement;
mod arguments;
mod blocks;
mod checkpoints;
mod ctc;
mod exponentials;
mod far;
mod fixed;
mod frames;
mod linear;
mod loss;
mod planes;
mod results;
pub mod rows;
mod scratch;
mod sweep;
mod target;
mod viterbi;
mod weights;
mod wide;

pub use ctc::{Alignment, Batch, Gradient, NO_STATE, Options, Outputs, Posteriors, ctc};
pub use scratch::release_memory;
pub use target::Labels;

#[cfg(any(test, feature = "python"))]
use crate::registry::Spec;
pub(crate) use loss::typed;
use std::ops::Range;

/// The registry's rows.
#[cfg(any(test, feature = "python"))]
pub static LOSSES: &[Spec] = &[loss::SPEC];

/// Elements of a vector step along the states.
const LANES: usize = 8;

/// What a task of this family takes, for [`crate::threads::run`]: it pays to share wherever that is wanted.
fn task_ns(shared: bool) -> f64 {
    if shared { f64::INFINITY } else { 0.0 }
}

/// What the frames hold, and what the gradient is the derivative by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Numbers of any size; the softmax is part of the loss.
    Logits,
    /// Logarithms of probabilities, which need not add up to 1. The gradient is the derivative by them.
    LogProbs,
    /// The same, with the gradient by the logits of a softmax that is taken to have made them.
    LogProbsTorch,
}

/// The end of an utterance that a direction comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Start,
    End,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Side::Start => Side::End,
            Side::End => Side::Start,
        }
    }

    /// The frame that comes i-th in this direction.
    #[inline(always)]
    fn nth(self, frames: &Range<usize>, i: usize) -> usize {
        match self {
            Side::Start => frames.start + i,
            Side::End => frames.end - 1 - i,
        }
    }

    /// The frame after t in this direction, if there is one.
    fn after(self, t: usize, frames: usize) -> Option<usize> {
        match self {
            Side::Start => Some(t + 1).filter(|&t| t < frames),
            Side::End => t.checked_sub(1),
        }
    }
}

//! Losses over label sequences: sums over the paths through a lattice.
//!
//! | folder | what it holds |
//! |---|---|
//! | `frames` | what all lattices share: frames in memory, softmax, emissions, the forward and the backward pass |
//! | `ctc` | connectionist temporal classification, its posteriors and its best path |
//!
//! `ctc` uses `frames`, never the other way round, and a second lattice gets a folder beside `ctc`.

mod ctc;
mod frames;

pub(crate) use ctc::typed;
#[cfg(test)]
pub use ctc::{
    CtcBatch, CtcOptions, CtcOutputs, GradientRows, LabelSequences, NO_STATE, PathFrame,
    PosteriorRows, ctc,
};
#[cfg(test)]
pub use frames::array::{FrameArray, FrameArrayMut};
#[cfg(test)]
pub use frames::pass::InputKind;

#[cfg(any(test, feature = "python"))]
use crate::registry::Spec;

/// The rows of the registry.
#[cfg(any(test, feature = "python"))]
pub static LOSSES: &[Spec] = &[ctc::SPEC];

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

pub use ctc::{
    AlignmentRows, CtcBatch, CtcOptions, CtcOutputs, GradientRows, LabelSequences, NO_STATE,
    PosteriorRows, ctc, release_memory,
};
pub use frames::array::{FrameArray, FrameArrayMut, FrameElement, FrameRow, FrameRowMut};
pub use frames::pass::InputKind;

use crate::registry::Spec;

/// The rows of the registry.
pub static LOSSES: &[Spec] = &[ctc::SPEC];

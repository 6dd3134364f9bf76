//! A batch to compute, and the results that are wanted.

use super::frames::array::{FrameArray, FrameArrayMut};
use super::frames::pass::InputKind;
use super::labels::LabelSequences;
use crate::simd::Level;

/// A batch of utterances.
#[derive(Clone, Copy, Debug)]
pub struct CtcBatch<'a, E> {
    /// A row of classes for each sample and frame.
    pub frames: FrameArray<'a, E>,
    /// What the frames hold.
    pub input: InputKind,
    /// The class that stands for no label.
    pub blank: u32,
    /// How many frames each sample has; frames behind these are never read.
    pub lengths: &'a [usize],
    /// The label sequences.
    pub labels: &'a LabelSequences,
}

/// Where the gradient is written.
#[derive(Clone, Copy, Debug)]
pub struct GradientRows<'a, E> {
    /// Rows like those of the frames. Behind a sample's last frame, and where its loss is infinite, they become 0;
    /// where it is NaN, NaN.
    pub rows: &'a FrameArrayMut<'a, E>,
    /// What each sample's gradient is multiplied by; at 0 it is 0 in any case.
    pub scale: &'a [f64],
}

/// Where the probabilities of the states, given the label sequence, are written.
#[derive(Clone, Copy, Debug)]
pub struct PosteriorRows<'a, E> {
    /// A row of states for each sample and frame: 0 behind the last frame, behind the last state of the sample and
    /// where there is no path; NaN where the loss is.
    pub rows: &'a FrameArrayMut<'a, E>,
    /// Whether rows are blank 0, label 0, blank 1, … with a last blank, or labels alone.
    pub blanks: bool,
}

impl<E> PosteriorRows<'_, E> {
    /// Elements of a row that a label sequence takes.
    pub(super) fn width(&self, labels: usize) -> usize {
        if self.blanks { 2 * labels + 1 } else { labels }
    }
}

/// What is wanted beside the loss.
#[derive(Clone, Copy, Debug)]
pub struct CtcOutputs<'a, E> {
    /// The gradient.
    pub grad: Option<GradientRows<'a, E>>,
    /// The probability of each state at each frame.
    pub posteriors: Option<PosteriorRows<'a, E>>,
    /// The most probable path.
    pub alignment: Option<&'a AlignmentRows<'a>>,
}

/// Where the most probable path is written: rows of one element for each sample and frame.
#[derive(Debug)]
pub struct AlignmentRows<'a> {
    /// The state: 2u for blank u, 2u + 1 for label u. [`NO_STATE`] behind a sample's last frame and where there is no
    /// path.
    pub states: FrameArrayMut<'a, u32>,
    /// The logarithm of the probability of the state's class at that frame: 0 behind the last frame, -inf where there
    /// is no path.
    pub log_probs: FrameArrayMut<'a, f64>,
    /// The probability of the state, given the label sequence: 0 where there is none.
    pub posteriors: FrameArrayMut<'a, f64>,
}

/// The state of frames that have none.
pub const NO_STATE: u32 = u32::MAX;

impl<E> Default for CtcOutputs<'_, E> {
    fn default() -> Self {
        CtcOutputs { grad: None, posteriors: None, alignment: None }
    }
}

/// How to compute: it changes no bit of the results, but for the instruction set.
#[derive(Clone, Copy, Debug)]
pub struct CtcOptions {
    /// The instruction set.
    pub level: Level,
    /// Whether several threads may take part.
    pub parallel: bool,
    /// Bytes of scratch that a thread may use.
    pub memory_limit: usize,
}

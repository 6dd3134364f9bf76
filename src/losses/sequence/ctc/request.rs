//! A batch to compute, and the results that are wanted.

use super::frames::array::{FrameArray, FrameArrayMut};
use super::frames::pass::InputKind;
use super::labels::LabelSequences;
use crate::simd::Level;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A batch of utterances.
#[derive(Debug)]
pub struct CtcBatch<'a, R> {
    /// A row of classes for each sample and frame.
    pub frames: FrameArray<'a, R>,
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
pub struct GradientRows<'a, R> {
    /// Rows like those of the frames. Behind a sample's last frame, and where its loss is infinite, they become 0;
    /// where it is NaN, NaN.
    pub rows: &'a FrameArrayMut<'a, R>,
    /// What each sample's gradient is multiplied by; at 0 it is 0 in any case.
    pub scale: &'a [f64],
}

/// Where the probabilities of the states, given the label sequence, are written.
#[derive(Clone, Copy, Debug)]
pub struct PosteriorRows<'a, R> {
    /// A row of states for each sample and frame: 0 behind the last frame, behind the last state of the sample and
    /// where there is no path; NaN where the loss is.
    pub rows: &'a FrameArrayMut<'a, R>,
    /// Whether rows are blank 0, label 0, blank 1, … with a last blank, or labels alone.
    pub blanks: bool,
}

impl<R> PosteriorRows<'_, R> {
    /// Elements of a row that a label sequence takes.
    pub(super) fn width(&self, labels: usize) -> usize {
        if self.blanks { 2 * labels + 1 } else { labels }
    }
}

/// What is wanted beside the loss.
#[derive(Clone, Copy, Debug)]
pub struct CtcOutputs<'a, R> {
    /// The gradient.
    pub grad: Option<GradientRows<'a, R>>,
    /// The probability of each state at each frame.
    pub posteriors: Option<PosteriorRows<'a, R>>,
    /// The most probable path: sample by sample, all frames of each.
    pub alignment: Option<&'a [PathFrame]>,
}

/// The most probable path at a frame, which the threads that share a sample out write and read.
#[derive(Debug)]
pub struct PathFrame {
    state: AtomicU32,
    /// The bits of numbers.
    log_prob: AtomicU64,
    posterior: AtomicU64,
}

impl PathFrame {
    /// A frame without a state.
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        PathFrame { state: AtomicU32::new(NO_STATE), log_prob: zero(), posterior: zero() }
    }

    /// The state: 2u for blank u, 2u + 1 for label u. [`NO_STATE`] behind a sample's last frame and where there is no
    /// path.
    pub fn state(&self) -> u32 {
        self.state.load(Ordering::Relaxed)
    }

    /// The logarithm of the probability of the state's class at that frame: 0 behind the last frame, -inf where there
    /// is no path.
    pub fn log_prob(&self) -> f64 {
        f64::from_bits(self.log_prob.load(Ordering::Relaxed))
    }

    /// The probability of the state, given the label sequence: 0 where there is none.
    pub fn posterior(&self) -> f64 {
        f64::from_bits(self.posterior.load(Ordering::Relaxed))
    }

    /// Writes the state, and the logarithm of its probability.
    pub fn set_state(&self, state: u32, log_prob: f64) {
        self.state.store(state, Ordering::Relaxed);
        self.log_prob.store(log_prob.to_bits(), Ordering::Relaxed);
    }

    /// Writes the posterior.
    pub fn set_posterior(&self, posterior: f64) {
        self.posterior.store(posterior.to_bits(), Ordering::Relaxed);
    }
}

/// The state of frames that have none.
pub const NO_STATE: u32 = u32::MAX;

impl<R> Default for CtcOutputs<'_, R> {
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

//! Label sequences, and what a label may be.

use crate::error::{Error, Kind, Result};

/// The label sequences of a batch, one after another: those of sample n are `flat[offsets[n]..offsets[n + 1]]`.
#[derive(Clone, Debug, Default)]
pub struct LabelSequences {
    flat: Vec<u32>,
    offsets: Vec<usize>,
}

impl LabelSequences {
    /// Labels by offsets, of which there is one more than samples; `None` if they do not ascend from 0 to the number
    /// of labels.
    pub fn new(flat: Vec<u32>, offsets: Vec<usize>) -> Option<Self> {
        let valid = offsets.first() == Some(&0)
            && offsets.last() == Some(&flat.len())
            && offsets.is_sorted();
        valid.then_some(LabelSequences { flat, offsets })
    }

    /// How many samples.
    pub fn samples(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The labels of a sample.
    pub fn sample(&self, n: usize) -> &[u32] {
        &self.flat[self.offsets[n]..self.offsets[n + 1]]
    }

    /// How many labels the longest sequence has, if there is a sequence.
    pub fn longest(&self) -> Option<usize> {
        (0..self.samples()).map(|n| self.sample(n).len()).max()
    }

    /// How many frames a sample needs at least: one for each label, and one more for the blank between two equal ones.
    pub fn frames_needed(&self, n: usize) -> usize {
        let labels = self.sample(n);
        labels.len() + labels.windows(2).filter(|pair| pair[0] == pair[1]).count()
    }

    pub(super) fn check(&self, n: usize, classes: usize, blank: u32) -> Result<()> {
        let wrong = |label: &u32| *label as usize >= classes || *label == blank;
        let labels = self.sample(n);
        let Some(position) = labels.iter().position(wrong) else { return Ok(()) };
        let (index, label) = ([n, position], labels[position] as usize);
        Err(Error::element(Kind::Label, "label", &index, label, allowed_labels(classes, blank)))
    }
}

/// What a label may be, in words.
pub(super) fn allowed_labels(classes: usize, blank: u32) -> String {
    format!("an integer with 0 <= label < {classes} that is not the blank, {blank}")
}

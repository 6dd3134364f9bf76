//! Rows of emissions: one number for each label of a sequence, and the blank.
//!
//! ```text
//! e(label 0) ... e(label len-1)  blank ... blank | blank x GROUP
//! `-------------- width, whole groups ---------' `--- once more -'
//! ```
//!
//! The blank's emission stands in a group of its own so that it can be multiplied with a group of states as it is.

use super::GROUP;
use crate::error::Result;
use crate::memory;
use crate::num::Float;
use crate::simd::fold;
use std::ops::Range;

/// Which class stands at each place of an emission row.
#[derive(Debug, Default)]
pub struct EmissionLayout {
    /// How many labels.
    pub len: usize,
    /// Places of the labels, a multiple of [`GROUP`] and at least two more than labels.
    pub width: usize,
    /// The class of each place up to the width; behind the labels it is the blank.
    classes: Vec<u32>,
    /// The class of the blank.
    pub blank: u32,
    /// For each class that occurs, the place where it stands first, and the class; the blank last.
    pub distinct: Vec<[u32; 2]>,
    /// For each label whose class an earlier label has, too: the first place of the class, and the place of the label, in
    /// the order of the labels.
    repeats: Vec<[u32; 2]>,
    /// Classes and below them the places of their labels, to be sorted.
    sorted: Vec<u64>,
}

impl EmissionLayout {
    /// The width of the rows of so many labels.
    pub fn width_of(labels: usize) -> usize {
        (labels + 2).next_multiple_of(GROUP)
    }

    /// Makes it the layout of a label sequence.
    #[expect(clippy::disallowed_methods, reason = "room is reserved first")]
    pub fn set(&mut self, labels: &[u32], blank: u32) -> Result<()> {
        let (len, width) = (labels.len(), Self::width_of(labels.len()));
        (self.len, self.width, self.blank) = (len, width, blank);
        memory::refill(&mut self.classes, width, labels.iter().copied())?;
        self.classes.resize(width, blank);
        let keys = (0..).zip(labels).map(|(u, &class)| u64::from(class) << 32 | u);
        memory::refill(&mut self.sorted, len, keys)?;
        self.sorted.sort_unstable();
        let EmissionLayout { distinct, repeats, sorted, .. } = self;
        memory::refill(distinct, len + 1, [])?;
        memory::refill(repeats, len, [])?;
        for key in sorted {
            let (class, u) = ((*key >> 32) as u32, *key as u32);
            match distinct.last() {
                Some(&[first, last]) if last == class => repeats.push([first, u]),
                _ => distinct.push([u, class]),
            }
        }
        repeats.sort_unstable_by_key(|&[_, u]| u);
        distinct.push([width as u32, blank]);
        Ok(())
    }

    /// The repeats among some labels.
    pub fn repeats_within(&self, labels: &Range<usize>) -> &[[u32; 2]] {
        let before = |place| self.repeats.partition_point(|&[_, u]| (u as usize) < place);
        &self.repeats[before(labels.start)..before(labels.end)]
    }

    /// Numbers of an emission row.
    pub fn stride(&self) -> usize {
        self.width + GROUP
    }

    /// Fills an emission row with `of(class)` for the class of each place. Returns the least number.
    #[inline(always)]
    pub fn gather(&self, of: impl Fn(usize) -> f64, row: &mut [f64]) -> f64 {
        let blank = [of(self.blank as usize); GROUP];
        let mut least = blank;
        let (labels, blanks) = row.split_at_mut(self.width);
        let classes: &[[u32; GROUP]] = self.classes.as_chunks().0;
        for (out, classes) in labels.as_chunks_mut().0.iter_mut().zip(classes) {
            *out = classes.map(|class| of(class as usize));
            for (least, &x) in least.iter_mut().zip(&*out) {
                *least = Float::min(x, *least);
            }
        }
        blanks[..GROUP].copy_from_slice(&blank);
        fold(least, Float::min)
    }

    /// The bytes of its memory.
    pub fn bytes(&self) -> usize {
        let EmissionLayout { classes, distinct, repeats, sorted, .. } = self;
        let pairs = distinct.capacity() + repeats.capacity();
        (pairs + sorted.capacity()) * size_of::<u64>() + classes.capacity() * size_of::<u32>()
    }
}

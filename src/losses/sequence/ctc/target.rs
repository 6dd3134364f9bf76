//! The lattice of one label sequence: its states, and which of them are in reach at a frame.
//!
//! There are two rows of states, which are numbered alike: blank u stands before label u, and one more blank stands
//! behind the last label. Both rows are padded to one width. At a frame only some states are in reach: states that a
//! path can get to from the first frame, and from which it can get to the last one. They form a band across the
//! lattice, and all work is done on the groups of [`GROUP`] states that hold the band.
//!
//! ```text
//! labels a b, 4 frames      frame   0  1  2  3
//!                   blank 0         x  x  .  .
//!                   label 0 (a)     x  x  x  .
//!                   blank 1         .  x  x  .
//!                   label 1 (b)     .  x  x  x
//!                   blank 2         .  .  x  x      x in reach
//! ```

use super::frames::layout::EmissionLayout;
use super::frames::{Direction, GROUP};
use crate::error::Result;
use crate::memory;
use std::iter;
use std::ops::Range;

/// One label sequence, laid out for its lattice.
#[derive(Debug, Default)]
pub struct CtcTarget {
    /// The emission rows. Their places are those of the labels, so labels and blanks have the width of these rows.
    pub emissions: EmissionLayout,
    /// How many frames.
    pub frames: usize,
    /// For each label 1 if a path may skip the blank before it, which the first label and a label equal to the one
    /// before do not allow, else 0; then zeros up to a group behind the width.
    pub skip: Vec<f64>,
    /// For each frame the groups that hold the states in reach.
    band: Vec<[u32; 2]>,
}

impl CtcTarget {
    /// Makes it the target of `frames` frames, at least as many as the labels need.
    #[expect(clippy::disallowed_methods, reason = "room is reserved first")]
    pub fn set(&mut self, labels: &[u32], blank: u32, frames: usize) -> Result<()> {
        self.emissions.set(labels, blank)?;
        self.frames = frames;
        let padded = self.width() + GROUP;
        memory::refill(&mut self.skip, padded, [])?;
        self.skip.resize(padded, 0.0);
        for (skip, pair) in self.skip[1..].iter_mut().zip(labels.windows(2)) {
            *skip = f64::from(u8::from(pair[0] != pair[1]));
        }
        memory::refill(&mut self.band, frames, bands(&self.skip[..labels.len()], frames))
    }

    /// How many labels.
    #[inline(always)]
    pub fn label_count(&self) -> usize {
        self.emissions.len
    }

    /// States of a row of blanks, and of a row of labels: a multiple of [`GROUP`], with a zero behind the last state.
    #[inline(always)]
    pub fn width(&self) -> usize {
        self.emissions.width
    }

    /// Numbers of a state row: the blanks, the labels, and a group of zeros.
    #[inline(always)]
    pub fn row_len(&self) -> usize {
        2 * self.width() + GROUP
    }

    /// Where in a state row a direction starts: at the first blank, or at the last one.
    pub fn first_state(&self, direction: Direction) -> usize {
        match direction {
            Direction::Forward => 0,
            Direction::Backward => self.label_count(),
        }
    }

    /// The groups that hold the states in reach at frame t.
    #[inline(always)]
    pub fn groups(&self, t: usize) -> Range<usize> {
        let [start, end] = self.band[t];
        start as usize..end as usize
    }

    /// The groups that hold the states in reach at any of some frames, or at the frame before them in a direction.
    #[inline(always)]
    pub fn groups_of(&self, direction: Direction, frames: &Range<usize>) -> Range<usize> {
        let (first, last) = match direction {
            Direction::Forward => (frames.start.saturating_sub(1), frames.end - 1),
            Direction::Backward => (frames.start, frames.end.min(self.frames - 1)),
        };
        self.groups(first).start..self.groups(last).end
    }

    /// Some frames in the order of a direction, cut where the groups in reach change.
    #[inline(always)]
    pub fn spans<'a>(
        &'a self,
        direction: Direction,
        frames: &'a Range<usize>,
    ) -> impl Iterator<Item = BandSpan> + use<'a> {
        let groups = move |i: usize| self.groups(direction.nth(frames, i));
        let mut first = 0;
        iter::from_fn(move || {
            let own = (first < frames.len()).then(|| groups(first))?;
            let rest = (first..frames.len()).find(|&i| groups(i) != own);
            let span = first..rest.unwrap_or(frames.len());
            first = span.end;
            let after = direction.after(direction.nth(frames, span.end - 1), self.frames);
            let next = after.map_or(own.clone(), |t| self.groups(t));
            Some(BandSpan { frames: span, groups: own, next })
        })
    }

    /// The bytes of its memory.
    pub fn bytes(&self) -> usize {
        self.emissions.bytes() + (self.skip.capacity() + self.band.capacity()) * size_of::<u64>()
    }

    /// The bytes of its memory for so many labels and frames, roughly.
    pub fn bytes_for(labels: usize, frames: usize) -> usize {
        labels * 40 + frames * size_of::<[u32; 2]>()
    }
}

/// Consecutive frames with the same groups in reach.
pub struct BandSpan {
    /// Counted from the first frame of a block in the order of a direction.
    pub frames: Range<usize>,
    /// The groups in reach.
    pub groups: Range<usize>,
    /// The groups in reach at the frame after these.
    pub next: Range<usize>,
}

/// The groups in reach, frame by frame. A label is in reach at t if the labels up to it fit into the frames up to t,
/// and the labels behind it into the frames that are left. Blank u is in reach only where label u - 1 or label u is.
fn bands(skip: &[f64], frames: usize) -> impl Iterator<Item = [u32; 2]> {
    // A label takes two frames if a blank has to stand before it.
    let cost = |u: usize| if u > 0 && skip[u] == 0.0 { 2 } else { 1 };
    let needed: usize = (0..skip.len()).map(cost).sum();
    let slack = frames - needed;
    // The labels below `low` are out of reach at t already, the labels from `high` on still. Label `high - 1` comes
    // into reach when `first` frames are over; a label goes out of reach `slack` frames later, as `last` counts for
    // label `low`.
    let (mut first, mut last) = (0, slack);
    let (mut low, mut high) = (0, 0);
    (0..frames).map(move |t| {
        while high < skip.len() && first + cost(high) <= t + 1 {
            first += cost(high);
            high += 1;
        }
        while low < skip.len() && last + cost(low) < t + 1 {
            last += cost(low);
            low += 1;
        }
        [low / GROUP, high / GROUP + 1].map(|group| group as u32)
    })
}

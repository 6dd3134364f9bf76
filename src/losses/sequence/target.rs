//! What a label sequence asks of the frames: states, transitions, reach.

use super::{LANES, Side};
use crate::error::{Error, Kind, Result};
use crate::memory;
use std::iter;
use std::ops::Range;

/// The label sequences of a batch, one after another: those of sample n are `flat[offsets[n]..offsets[n + 1]]`.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    flat: Vec<u32>,
    offsets: Vec<usize>,
}

impl Labels {
    /// Labels by offsets, of which there is one more than samples; `None` if they do not ascend from 0 to the number
    /// of labels.
    pub fn new(flat: Vec<u32>, offsets: Vec<usize>) -> Option<Self> {
        let valid = offsets.first() == Some(&0)
            && offsets.last() == Some(&flat.len())
            && offsets.is_sorted();
        valid.then_some(Labels { flat, offsets })
    }

    /// How many samples.
    pub fn samples(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The labels of a sample.
    pub fn sample(&self, n: usize) -> &[u32] {
        &self.flat[self.offsets[n]..self.offsets[n + 1]]
    }

    /// How many labels the longest sequence has, if there is one.
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

/// One label sequence laid out for its lattice.
///
/// The states form two planes: blank u stands before label u, and the last blank behind all labels. Both planes are
/// padded to one width that leaves at least one zero behind each of them. An emission row is a plane of labels, and
/// behind it [`LANES`] times the blank.
#[derive(Debug, Default)]
pub(super) struct Target {
    /// How many labels.
    pub len: usize,
    /// Elements of a plane, a multiple of [`LANES`].
    pub width: usize,
    /// How many frames.
    pub frames: usize,
    /// The class of each label; that of the blank behind them.
    labels: Vec<u32>,
    /// The class of the blank.
    pub blank: u32,
    /// For each class that occurs, where it stands first in an emission row, and the class; the blank last.
    pub classes: Vec<[u32; 2]>,
    /// Labels of a class that an earlier one has, too: that one, and the label.
    pub repeats: Vec<[u32; 2]>,
    /// For each label 1 if it may follow the label before it directly, else 0; `LANES` zeros behind.
    pub skip: Vec<f64>,
    /// For each frame the groups of `LANES` elements that hold the states in reach of both ends.
    band: Vec<[u32; 2]>,
    /// Classes above labels, to be sorted.
    sorted: Vec<u64>,
}

impl Target {
    /// Makes it that of `frames` frames; they must be as many as the labels need.
    #[allow(clippy::disallowed_methods, reason = "room is reserved first")]
    pub fn set(&mut self, labels: &[u32], blank: u32, frames: usize) -> Result<()> {
        let len = labels.len();
        let width = (len + 2).next_multiple_of(LANES);
        (self.len, self.width, self.frames, self.blank) = (len, width, frames, blank);
        refill(&mut self.labels, width, labels.iter().copied())?;
        self.labels.resize(width, blank);
        let keys = (0..).zip(labels).map(|(u, &class)| u64::from(class) << 32 | u);
        refill(&mut self.sorted, len, keys)?;
        self.sorted.sort_unstable();
        let Target { classes, repeats, skip, band, sorted, .. } = self;
        refill(classes, len + 1, [])?;
        refill(repeats, len, [])?;
        for key in sorted {
            let (class, u) = ((*key >> 32) as u32, *key as u32);
            match classes.last() {
                Some(&[first, last]) if last == class => repeats.push([first, u]),
                _ => classes.push([u, class]),
            }
        }
        classes.push([width as u32, blank]);
        refill(skip, width + LANES, [])?;
        skip.resize(width + LANES, 0.0);
        for (skip, pair) in skip[1..].iter_mut().zip(labels.windows(2)) {
            *skip = f64::from(u8::from(pair[0] != pair[1]));
        }
        refill(band, frames, bands(&skip[..len], frames))
    }

    /// What it takes.
    pub fn capacity(&self) -> usize {
        let Target { labels, classes, repeats, skip, band, sorted, .. } = self;
        let pairs = [classes, repeats, band].map(Vec::capacity);
        (pairs.iter().sum::<usize>() + skip.capacity() + sorted.capacity()) * size_of::<u64>()
            + labels.capacity() * size_of::<u32>()
    }

    /// Elements of an emission row.
    pub fn stride(&self) -> usize {
        self.width + LANES
    }

    /// The classes of a plane of labels.
    #[inline(always)]
    pub fn labels(&self) -> &[[u32; LANES]] {
        self.labels.as_chunks().0
    }

    /// The groups that hold the states in reach at frame t.
    #[inline(always)]
    pub fn groups(&self, t: usize) -> Range<usize> {
        let [start, end] = self.band[t];
        start as usize..end as usize
    }

    /// Some frames, in the order of a side, by the groups in reach.
    #[inline(always)]
    pub fn runs<'a>(
        &'a self,
        side: Side,
        frames: &'a Range<usize>,
    ) -> impl Iterator<Item = Run> + use<'a> {
        let groups = move |i: usize| self.groups(side.nth(frames, i));
        let mut first = 0;
        iter::from_fn(move || {
            let own = (first < frames.len()).then(|| groups(first))?;
            let rest = (first..frames.len()).find(|&i| groups(i) != own);
            let run = first..rest.unwrap_or(frames.len());
            first = run.end;
            let after = side.after(side.nth(frames, run.end - 1), self.frames);
            let next = after.map_or(own.clone(), |t| self.groups(t));
            Some(Run { frames: run, groups: own, next })
        })
    }

    /// The groups that hold the states in reach at any of some frames, or at the one that `side` comes from.
    #[inline(always)]
    pub fn groups_of(&self, side: Side, frames: &Range<usize>) -> Range<usize> {
        let (first, last) = match side {
            Side::Start => (frames.start.saturating_sub(1), frames.end - 1),
            Side::End => (frames.start, frames.end.min(self.frames - 1)),
        };
        self.groups(first).start..self.groups(last).end
    }

    /// All elements of a row: two planes, and zeros behind them.
    pub fn row(&self) -> usize {
        2 * self.width + LANES
    }

    /// The frames of a side, up to the middle. The middle depends on the number of frames alone.
    pub fn half(&self, side: Side) -> Range<usize> {
        let middle = self.frames.div_ceil(2);
        match side {
            Side::Start => 0..middle,
            Side::End => middle..self.frames,
        }
    }

    /// Bytes for `frames` frames.
    pub fn bytes(labels: usize, frames: usize) -> usize {
        labels * 40 + frames * size_of::<[u32; 2]>()
    }
}

/// Frames in a row that have the same groups in reach.
pub(super) struct Run {
    /// Counted from where a direction enters the frames that it is a part of.
    pub frames: Range<usize>,
    /// What they have in reach.
    pub groups: Range<usize>,
    /// What the frame after them has.
    pub next: Range<usize>,
}

/// A label is in reach at t if the ones up to it fit into the frames up to t, and the ones behind it into the rest. Blank
/// u is in reach only where label u - 1 or label u is.
fn bands(skip: &[f64], frames: usize) -> impl Iterator<Item = [u32; 2]> {
    let cost = |u: usize| if u > 0 && skip[u] == 0.0 { 2 } else { 1 };
    let needed: usize = (0..skip.len()).map(cost).sum();
    let slack = frames - needed;
    // The first frame of label u, and of the next one; in between, `slack` frames later, its last.
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
        [low / LANES, high / LANES + 1].map(|group| group as u32)
    })
}

/// Replaces what a buffer holds by some items, and makes room for `len`.
#[allow(clippy::disallowed_methods, reason = "room is reserved first")]
fn refill<T>(buffer: &mut Vec<T>, len: usize, items: impl IntoIterator<Item = T>) -> Result<()> {
    buffer.clear();
    memory::reserve(buffer, len)?;
    buffer.extend(items);
    Ok(())
}

impl Side {
    /// The first frame of the other side's half.
    pub(super) fn beyond_middle(self, target: &Target) -> usize {
        let middle = target.half(Side::Start).end;
        match self {
            Side::Start => middle,
            Side::End => middle - 1,
        }
    }
}

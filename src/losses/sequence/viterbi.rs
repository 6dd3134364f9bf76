//! The most probable path.
//!
//! Scores are sums of logarithms relative to the largest of their frame, in `f64`: over a million frames they stay exact
//! enough to tell paths apart. Of two equal scores, staying comes before advancing, advancing before skipping a blank,
//! and at the end the last label before the last blank.
//!
//! A byte for each label and frame says where the label and the blank before it come from. Where these do not fit, only
//! the scores at every so many frames are kept, and the bytes between two of them are computed again on the way back.

use super::blocks::FRAMES;
use super::frames::{Form, Source};
use super::planes::sized;
use super::target::Target;
use super::{Error, LANES};
use crate::simd::{Isa, Kernel, Level, dispatch};
use std::ops::Range;

/// How a label was entered: not at all, from the blank before it, or from the label before it. The bit behind says
/// whether the blank before it was entered from a label.
const ADVANCE: u8 = 1;
const SKIP: u8 = 2;
const MOVES: u8 = 3;
const BLANK_ADVANCE: u8 = 4;

/// Finds the state of every frame: blank u is 2u, label u is 2u + 1. False if all paths are impossible.
pub(super) fn best_path(
    level: Level,
    target: &Target,
    source: &dyn Source,
    budget: usize,
    states: &mut [u32],
) -> Result<bool, Error> {
    let (frames, len) = (target.frames, target.row());
    let span = span(target.width, frames, budget);
    let (mut rows, mut moves) = (Vec::new(), Vec::new());
    let rows = sized(&mut rows, frames.div_ceil(span) * len)?;
    let moves = sized(&mut moves, span * target.width)?;
    let mut search = Search {
        level,
        target,
        source,
        row: vec![f64::NEG_INFINITY; len],
        next: vec![f64::NEG_INFINITY; len],
        window: vec![0.0; FRAMES * target.stride()],
    };
    search.row[0] = 0.0;
    let mut pieces = rows.chunks_exact_mut(len).zip((0..).step_by(span)).collect::<Vec<_>>();
    let last = pieces.len() - 1;
    for (i, (row, first)) in pieces.iter_mut().enumerate() {
        row.copy_from_slice(&search.row);
        let piece = *first..frames.min(*first + span);
        search.advance(piece, (i == last).then_some(&mut *moves));
    }
    let (blank, label) = search.row.split_at(target.width);
    let at_label = target.len > 0 && label[target.len - 1] >= blank[target.len];
    let mut state = 2 * target.len - usize::from(at_label);
    if search.row[if at_label { target.width + target.len - 1 } else { target.len }]
        == f64::NEG_INFINITY
    {
        return Ok(false);
    }
    for (i, (row, first)) in pieces.iter().enumerate().rev() {
        let piece = *first..frames.min(*first + span);
        if i < last {
            search.row.copy_from_slice(row);
            search.advance(piece.clone(), Some(&mut *moves));
        }
        for (t, moves) in piece.zip(moves.chunks_exact(target.width)).rev() {
            states[t] = state as u32;
            let come = moves[state / 2];
            state -= match state % 2 {
                0 => usize::from(come & BLANK_ADVANCE != 0),
                _ => usize::from(come & MOVES),
            };
        }
    }
    Ok(true)
}

/// How many frames' bytes are kept: all, or as many as make them and the scores at every so many frames smallest.
fn span(width: usize, frames: usize, budget: usize) -> usize {
    if frames.saturating_mul(width) <= budget {
        return frames;
    }
    ((frames * row_bytes(width) / width.max(1)).isqrt() + 1).min(frames)
}

fn row_bytes(width: usize) -> usize {
    (2 * width + LANES) * size_of::<f64>()
}

/// The least that [`best_path`] takes, in bytes.
pub(super) fn least_bytes(labels: usize, frames: usize) -> usize {
    let width = (labels + 2).next_multiple_of(LANES);
    let span = span(width, frames, 0).max(1);
    let window = FRAMES * (width + LANES) * size_of::<f64>();
    span * width + (frames.div_ceil(span) + 3) * row_bytes(width) + window
}

struct Search<'a> {
    level: Level,
    target: &'a Target,
    source: &'a dyn Source,
    row: Vec<f64>,
    next: Vec<f64>,
    window: Vec<f64>,
}

impl Search<'_> {
    /// Goes through some frames; `moves` takes a row of bytes for each.
    fn advance(&mut self, frames: Range<usize>, mut moves: Option<&mut [u8]>) {
        let width = self.target.width;
        for first in frames.clone().step_by(FRAMES) {
            let part = first..frames.end.min(first + FRAMES);
            let window = &mut self.window[..part.len() * self.target.stride()];
            self.source.fill(Form::Log, part.clone(), window);
            for (t, e) in part.zip(self.window.chunks_exact(self.target.stride())) {
                let at = (t - frames.start) * width;
                let moves = moves.as_deref_mut().map(|moves| &mut moves[at..at + width]);
                let (row, next) = (&self.row, &mut self.next);
                dispatch(self.level, Step { target: self.target, t, e, row, next, moves });
                std::mem::swap(&mut self.row, &mut self.next);
            }
        }
    }
}

struct Step<'a> {
    target: &'a Target,
    t: usize,
    e: &'a [f64],
    row: &'a [f64],
    next: &'a mut [f64],
    moves: Option<&'a mut [u8]>,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self) {
        let Step { target, t, e, row, next, moves } = self;
        let groups = target.groups(t);
        let (start, end) = (groups.start * LANES, groups.end * LANES);
        next.fill(f64::NEG_INFINITY);
        let (next_blank, next_label) = next.split_at_mut(target.width);
        let (label_e, blank_e) = (&e[start..end], e[target.width]);
        let blank = &row[start..end];
        let label = &row[target.width + start..target.width + end];
        let before = &row[target.width + start - 1..target.width + end - 1];
        let skip = &target.skip[start..end];
        let next_blank = &mut next_blank[start..end];
        let next_label = &mut next_label[start..end];
        for u in 0..end - start {
            let (stay, advance) = (blank[u], before[u]);
            next_blank[u] = blank_e + if advance > stay { advance } else { stay };
        }
        for u in 0..end - start {
            let skipped = if skip[u] > 0.0 { before[u] } else { f64::NEG_INFINITY };
            let best = if blank[u] > label[u] { blank[u] } else { label[u] };
            next_label[u] = label_e[u] + if skipped > best { skipped } else { best };
        }
        let Some(moves) = moves else { return };
        for (u, moves) in moves[start..end].iter_mut().enumerate() {
            let skipped = if skip[u] > 0.0 { before[u] } else { f64::NEG_INFINITY };
            let best = if blank[u] > label[u] { blank[u] } else { label[u] };
            let advance = if blank[u] > label[u] { ADVANCE } else { 0 };
            let label_move = if skipped > best { SKIP } else { advance };
            let blank_move = if before[u] > blank[u] { BLANK_ADVANCE } else { 0 };
            *moves = label_move | blank_move;
        }
    }
}

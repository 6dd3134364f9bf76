//! The most probable path, by Viterbi's algorithm.
//!
//! The score of a state is the sum of the logarithms of the emissions along the best path to it. Emissions are relative
//! to the largest of their frame and scores are `f64`: over a million frames they stay exact enough to tell paths
//! apart. Of two equal scores, staying comes before advancing, advancing before skipping a blank, and at the end the
//! last label before the last blank.
//!
//! A byte for each label and frame says from where the best paths come to the label and to the blank before it. Where
//! these bytes do not fit into memory, only the scores at every so many frames are kept, and the bytes of the frames in
//! between are computed again on the way back.

use super::frames::GROUP;
use super::frames::blocks::BLOCK_FRAMES;
use super::frames::emissions::{EmissionForm, EmissionSource};
use super::frames::layout::EmissionLayout;
use super::step_buffers::CtcLattice;
use super::target::CtcTarget;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::simd::{Isa, Kernel, Level, dispatch};
use crate::{memory, threads};
use std::mem;
use std::ops::Range;

/// The lower two bits of a move: how many states back the best path to a label comes from. 0 is the label itself, 1 the
/// blank before it, 2 the label before it.
pub const ADVANCE: u8 = 1;
pub const SKIP: u8 = 2;
const LABEL_MOVE: u8 = 3;
/// The bit above: whether the best path to the blank before the label comes from the label before that.
pub const BLANK_ADVANCE: u8 = 4;

/// How scores are represented.
pub trait ViterbiScores {
    /// The form of the emissions.
    const FORM: EmissionForm;

    /// Numbers of a row of scores, of the blanks and of the labels.
    fn row_len(target: &CtcTarget) -> usize;
    /// The scores before any frame.
    fn start(target: &CtcTarget, row: &mut [f64]);
    /// Makes the scores at frame t, `next`, from those at the frame before, `row`; `moves` takes a byte for each label.
    fn step(
        level: Level,
        at: (&CtcTarget, usize),
        e: &[f64],
        row: &[f64],
        next: &mut [f64],
        moves: Option<&mut [u8]>,
    );
    /// Whether the best path ends at the last label, and its score.
    fn last(target: &CtcTarget, row: &[f64]) -> (bool, f64);
}

/// Finds the state of every frame: blank u is 2u, label u is 2u + 1. Returns the score, -inf if all paths are
/// impossible.
pub fn best_path<A: ViterbiScores>(lattice: &CtcLattice<'_>, states: &mut [u32]) -> Result<f64> {
    let CtcLattice { level, target, source, budget, .. } = *lattice;
    let (frames, len) = (target.frames, A::row_len(target));
    let span = span(target.width(), frames, len * size_of::<f64>(), budget);
    let (mut rows, mut moves) = (Buffer::<f64>::new(), Buffer::<u8>::new());
    let rows = rows.sized(frames.div_ceil(span) * len)?;
    let moves = moves.sized(span * target.width())?;
    let mut search = ViterbiSearch {
        level,
        target,
        source,
        row: memory::filled(0.0, len)?,
        next: memory::filled(0.0, len)?,
        window: Buffer::new(),
    };
    A::start(target, &mut search.row);
    let last = frames.div_ceil(span) - 1;
    let piece = |i: usize| i * span..frames.min((i + 1) * span);
    for (i, row) in rows.chunks_exact_mut(len).enumerate() {
        row.copy_from_slice(&search.row);
        search.advance::<A>(piece(i), (i == last).then_some(&mut *moves))?;
    }
    let (at_label, score) = A::last(target, &search.row);
    if score == f64::NEG_INFINITY {
        return Ok(score);
    }
    let mut state = 2 * target.label_count() - usize::from(at_label);
    for (i, row) in rows.chunks_exact(len).enumerate().rev() {
        if i < last {
            search.row.copy_from_slice(row);
            search.advance::<A>(piece(i), Some(&mut *moves))?;
        }
        for (t, moves) in piece(i).zip(moves.chunks_exact(target.width())).rev() {
            states[t] = state as u32;
            let come = moves[state / 2];
            state -= match state % 2 {
                0 => usize::from(come & BLANK_ADVANCE != 0),
                _ => usize::from(come & LABEL_MOVE),
            };
        }
    }
    Ok(score)
}

/// For how many frames the bytes are kept at a time: for all, or for as many as make these bytes and the kept scores
/// take the least memory.
fn span(width: usize, frames: usize, row_bytes: usize, budget: usize) -> usize {
    if frames.saturating_mul(width) <= budget {
        return frames;
    }
    ((frames * row_bytes / width.max(1)).isqrt() + 1).min(frames)
}

/// The least that [`best_path`] takes, in bytes, with scores of so many `f64` each.
pub fn least_bytes(labels: usize, frames: usize, elements: usize) -> usize {
    let width = EmissionLayout::width_of(labels);
    let row_bytes = (2 * width + GROUP) * elements * size_of::<f64>();
    let span = span(width, frames, row_bytes, 0).max(1);
    let window = BLOCK_FRAMES * elements.min(2) * (width + GROUP) * size_of::<f64>();
    span * width + (frames.div_ceil(span) + 3) * row_bytes + window
}

struct ViterbiSearch<'a> {
    level: Level,
    target: &'a CtcTarget,
    source: &'a dyn EmissionSource,
    row: Vec<f64>,
    next: Vec<f64>,
    window: Buffer<f64>,
}

impl ViterbiSearch<'_> {
    /// Goes through some frames; `moves` takes a row of bytes for each.
    fn advance<A: ViterbiScores>(
        &mut self,
        frames: Range<usize>,
        mut moves: Option<&mut [u8]>,
    ) -> Result<()> {
        let ViterbiSearch { level, target, source, row, next, window } = self;
        let (width, stride) = (target.width(), A::FORM.rows() * target.emissions.stride());
        for first in frames.clone().step_by(BLOCK_FRAMES) {
            let part = first..frames.end.min(first + BLOCK_FRAMES);
            let window = window.sized(part.len() * stride)?;
            source.fill(A::FORM, part.clone(), window)?;
            for (t, e) in part.zip(window.chunks_exact(stride)) {
                threads::check()?;
                let at = (t - frames.start) * width;
                let moves = moves.as_deref_mut().map(|moves| &mut moves[at..at + width]);
                A::step(*level, (target, t), e, row, next, moves);
                mem::swap(row, next);
            }
        }
        Ok(())
    }
}

/// Scores that are `f64`.
pub struct FloatScores;

impl ViterbiScores for FloatScores {
    const FORM: EmissionForm = EmissionForm::Log;

    fn row_len(target: &CtcTarget) -> usize {
        target.row_len()
    }

    fn start(_: &CtcTarget, row: &mut [f64]) {
        row.fill(f64::NEG_INFINITY);
        row[0] = 0.0;
    }

    fn step(
        level: Level,
        (target, t): (&CtcTarget, usize),
        e: &[f64],
        row: &[f64],
        next: &mut [f64],
        moves: Option<&mut [u8]>,
    ) {
        dispatch(level, ViterbiStep { target, t, e, row, next, moves });
    }

    fn last(target: &CtcTarget, row: &[f64]) -> (bool, f64) {
        let (blank, label) = row.split_at(target.width());
        let blank = blank[target.label_count()];
        match target.label_count().checked_sub(1).map(|u| label[u]) {
            Some(label) if label >= blank => (true, label),
            _ => (false, blank),
        }
    }
}

struct ViterbiStep<'a> {
    target: &'a CtcTarget,
    t: usize,
    e: &'a [f64],
    row: &'a [f64],
    next: &'a mut [f64],
    moves: Option<&'a mut [u8]>,
}

impl Kernel for ViterbiStep<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self) {
        let ViterbiStep { target, t, e, row, next, moves } = self;
        let groups = target.groups(t);
        let (start, end) = (groups.start * GROUP, groups.end * GROUP);
        next.fill(f64::NEG_INFINITY);
        let (next_blank, next_label) = next.split_at_mut(target.width());
        let (label_e, blank_e) = (&e[start..end], e[target.width()]);
        let blank = &row[start..end];
        let label = &row[target.width() + start..target.width() + end];
        let before = &row[target.width() + start - 1..target.width() + end - 1];
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

//! Sums over paths as extended floating point: plain numbers, each with an exponent of its own.
//!
//! Nothing overflows or underflows, and every result can be trusted: the terms of a sum are brought to the exponent of
//! the largest one, and a term that vanishes there weighs less than rounding does. Exponents are whole numbers, far
//! below 2^53 for emissions within [`FAR_LOGIT`](super::frames::emissions::FAR_LOGIT). The relative precision is that
//! of `f64`; sums of logarithms, which would serve the same purpose, lose digits as the logarithm grows, and take a
//! logarithm and exponentials a state. This is some three times slower than [`super::block_float`], and only used where
//! that one fails: for emissions that lie hundreds of bits apart.

use super::frames::arithmetic::{
    AdvanceArgs, Arithmetic, MeetArgs, MidpointLikelihood, PassBackArgs, Precision,
};
use super::frames::blocks::Block;
use super::frames::emissions::EmissionForm;
use super::frames::exponents::{power_of_two, split};
use super::frames::lanes::as_groups;
use super::frames::row_chain::each_frame;
use super::frames::{Direction, GROUP};
use super::state_rows::{self, blanks_and_labels_mut, copy_groups, state_len};
use super::target::CtcTarget;
use crate::error::Result;
use crate::simd::{F64x8, Isa, Kernel, Level, dispatch, fold};
use std::ops::{Add, Range};

/// The exponent of 0, below all others.
const EXPONENT_OF_0: f64 = -1e306;

/// See the module.
pub struct ExtendedFloat;

/// A group of numbers `m * 2^k`.
#[derive(Clone, Copy)]
struct Extended {
    m: F64x8,
    k: F64x8,
}

impl Extended {
    /// Numbers as they are stored, where a 0 may have any exponent.
    #[inline(always)]
    fn at(m: &F64x8, k: &F64x8) -> Self {
        let mut out = Extended { m: *m, k: *k };
        for i in 0..GROUP {
            out.k[i] = if m[i] > 0.0 { k[i] } else { EXPONENT_OF_0 };
        }
        out
    }

    /// Without the elements where `keep` is 0.
    #[inline(always)]
    fn only(mut self, keep: &F64x8) -> Self {
        for i in 0..GROUP {
            self.m[i] *= keep[i];
            self.k[i] = if keep[i] > 0.0 { self.k[i] } else { EXPONENT_OF_0 };
        }
        self
    }

    /// The sum of several groups, number by number, with mantissas in [1, 2) or 0.
    #[inline(always)]
    fn sum<const N: usize>(terms: [Extended; N]) -> Self {
        let mut out = Extended { m: [0.0; GROUP], k: [0.0; GROUP] };
        for i in 0..GROUP {
            let top = terms
                .iter()
                .fold(EXPONENT_OF_0, |top, term| if term.k[i] > top { term.k[i] } else { top });
            let total =
                terms.iter().fold(0.0, |sum, term| sum + term.m[i] * power_of_two(term.k[i] - top));
            let (m, k) = split(total);
            out.m[i] = if total > 0.0 { m } else { 0.0 };
            out.k[i] = if total > 0.0 { top + k } else { EXPONENT_OF_0 };
        }
        out
    }

    #[inline(always)]
    fn times(mut self, m: &F64x8, k: &F64x8) -> Self {
        for i in 0..GROUP {
            self.m[i] *= m[i];
            self.k[i] += k[i];
        }
        self
    }
}

/// Writes zeros next to the groups of a row: the step to the next row may read one group further.
#[inline(always)]
fn zero_borders(row: &mut [f64], target: &CtcTarget, groups: &Range<usize>) {
    let width = target.width();
    for first in [0, width] {
        if groups.start > 0 {
            row[first + (groups.start - 1) * GROUP..][..GROUP].fill(0.0);
        }
        if groups.end * GROUP < width {
            row[first + groups.end * GROUP..][..GROUP].fill(0.0);
        }
    }
    // The rows of blanks and labels touch: before the first label stands the last padding of the blanks, and behind
    // that padding the first label.
    row[width - 1] = 0.0;
    if groups.start > 0 {
        row[width] = 0.0;
    }
    row[2 * width..2 * width + GROUP].fill(0.0);
}

/// The numbers of a state row from place `from` on, group by group.
#[inline(always)]
fn numbers<'a>(
    state: &'a [f64],
    target: &CtcTarget,
    from: usize,
) -> impl Fn(usize) -> Extended + use<'a> {
    let (m, k) = (as_groups(&state[from..]), as_groups(&state[target.row_len() + from..]));
    move |g| Extended::at(&m[g], &k[g])
}

/// One step along the transitions: calls `each` with the number of a group and the sums for its blanks and its labels.
#[inline(always)]
fn propagate(
    direction: Direction,
    target: &CtcTarget,
    state: &[f64],
    groups: &Range<usize>,
    mut each: impl FnMut(usize, [Extended; 2]),
) {
    let (start, n) = (groups.start * GROUP, groups.len());
    let at = |from: usize| numbers(state, target, from);
    let label = target.width() + start;
    let (blanks, labels) = (at(start), at(label));
    // The labels that lead to the blanks, and the blanks and the labels that lead to the labels.
    let (to_blank, by_blank, by_label, skip) = match direction {
        Direction::Forward => (at(label - 1), at(start), at(label - 1), start),
        Direction::Backward => (at(label), at(start + 1), at(label + 1), start + 1),
    };
    let skip = as_groups(&target.skip[skip..]);
    for g in 0..n {
        let blanks = Extended::sum([blanks(g), to_blank(g)]);
        let labels = Extended::sum([labels(g), by_blank(g), by_label(g).only(&skip[g])]);
        each(g, [blanks, labels]);
    }
}

/// Some groups of the blanks and of the labels of a state row, to write: the mantissas and the exponents of each.
#[inline(always)]
fn numbers_mut<'a>(
    state: &'a mut [f64],
    target: &CtcTarget,
    groups: &Range<usize>,
) -> [[&'a mut [F64x8]; 2]; 2] {
    let (row, exponents) = state.split_at_mut(target.row_len());
    let [blank, label] = blanks_and_labels_mut(row.as_chunks_mut().0, target, groups);
    let [blank_k, label_k] = blanks_and_labels_mut(exponents.as_chunks_mut().0, target, groups);
    [[blank, blank_k], [label, label_k]]
}

#[inline(always)]
fn put(states: &mut [[&mut [F64x8]; 2]; 2], g: usize, values: [Extended; 2]) {
    for ([m, k], value) in states.iter_mut().zip(values) {
        (m[g], k[g]) = (value.m, value.k);
    }
}

/// The emissions of a frame: mantissas and exponents, each as a group of the blank's and some groups of the labels'.
struct FrameExtended<'a>([(&'a F64x8, &'a [F64x8]); 2]);

impl<'a> FrameExtended<'a> {
    #[inline(always)]
    fn new(
        target: &CtcTarget,
        block: &Block,
        e: &'a [f64],
        t: usize,
        groups: &Range<usize>,
    ) -> Self {
        let stride = target.emissions.stride();
        let at = (t - block.frames.start) * 2 * stride;
        FrameExtended([at, at + stride].map(|at| {
            let row = as_groups(&e[at..]);
            (&row[target.width() / GROUP], &row[groups.clone()])
        }))
    }

    /// The sums for the blanks and the labels of group g, with the emissions.
    #[inline(always)]
    fn emit(&self, sums: [Extended; 2], g: usize) -> [Extended; 2] {
        let [m, k] = &self.0;
        [sums[0].times(m.0, k.0), sums[1].times(&m.1[g], &k.1[g])]
    }
}

struct ExtendedAdvance<'a>(AdvanceArgs<'a, CtcTarget>);

impl Kernel for ExtendedAdvance<'_> {
    type Output = Result<Precision>;

    #[inline(always)]
    fn run<S: Isa>(self) -> Result<Precision> {
        let AdvanceArgs { direction, target, block, e, state, buffers, store } = self.0;
        let rows = store.unwrap_or(&mut buffers.rows);
        let row = each_frame(direction, block, state, rows, |_, t, from, to| {
            let groups = target.groups(t);
            let e = FrameExtended::new(target, block, e, t, &groups);
            zero_borders(to, target, &groups);
            let mut states = numbers_mut(to, target, &groups);
            propagate(direction, target, from, &groups, |g, sums| {
                put(&mut states, g, e.emit(sums, g));
            });
            Ok(())
        })?;
        let groups = target.groups(direction.nth(&block.frames, block.frames.len() - 1));
        let (row, exponents) = row.split_at(target.row_len());
        let (state, state_exponents) = state.split_at_mut(target.row_len());
        copy_groups(row, state, target, &groups);
        copy_groups(exponents, state_exponents, target, &groups);
        Ok(Precision::Full)
    }
}

struct ExtendedPassBack<'a>(PassBackArgs<'a, CtcTarget>);

impl Kernel for ExtendedPassBack<'_> {
    type Output = Result<bool>;

    #[inline(always)]
    fn run<S: Isa>(self) -> Result<bool> {
        let PassBackArgs {
            direction, target, block, e, state, scale, buffers, store, totals, ..
        } = self.0;
        let (len, frames) = (state_len(target), block.frames.len());
        let row = each_frame(direction, block, state, &mut buffers.rows, |i, t, from, to| {
            let groups = target.groups(t);
            let e = FrameExtended::new(target, block, e, t, &groups);
            let stored = &mut store[(frames - 1 - i) * len..][..len];
            let stored = numbers_mut(stored, target, &groups);
            zero_borders(to, target, &groups);
            let passed = numbers_mut(to, target, &groups);
            let totals_by_place = [[0.0; GROUP]; 2];
            let mut step = ExtendedOccupancyStep { stored, passed, scale, totals_by_place };
            if i == 0 {
                let start = groups.start * GROUP;
                let [blank, label] =
                    [start, target.width() + start].map(|at| numbers(from, target, at));
                for g in 0..groups.len() {
                    step.group(g, [blank(g), label(g)], &e);
                }
            } else {
                propagate(direction, target, from, &groups, |g, sums| {
                    step.group(g, sums, &e);
                });
            }
            totals[t - block.frames.start] =
                step.totals_by_place.map(|total| fold(total, Add::add));
            Ok(())
        })?;
        let last = direction.nth(&block.frames, frames - 1);
        if let Some(next) = direction.after(last, target.frames) {
            step(direction, target, row, &target.groups(next), state);
        }
        Ok(true)
    }
}

/// One frame of a pass back: the stored row, and the row that the passing direction makes for its next step.
struct ExtendedOccupancyStep<'a> {
    stored: [[&'a mut [F64x8]; 2]; 2],
    passed: [[&'a mut [F64x8]; 2]; 2],
    scale: f64,
    /// The sums of the occupancies over blanks and labels, by their place in a group.
    totals_by_place: [F64x8; 2],
}

impl ExtendedOccupancyStep<'_> {
    /// Takes the sums of the passing direction for a group.
    #[inline(always)]
    fn group(&mut self, g: usize, sums: [Extended; 2], e: &FrameExtended<'_>) {
        let totals = &mut self.totals_by_place;
        for (([m, k], sum), total) in self.stored.iter_mut().zip(&sums).zip(totals) {
            let product = Extended::at(&m[g], &k[g]).times(&sum.m, &sum.k);
            for i in 0..GROUP {
                m[g][i] = product.m[i] * power_of_two(product.k[i] - self.scale);
                total[i] += m[g][i];
            }
        }
        put(&mut self.passed, g, e.emit(sums, g));
    }
}

/// One step without emissions; the row becomes 0 outside the groups.
#[inline(always)]
pub fn step(
    direction: Direction,
    target: &CtcTarget,
    from: &[f64],
    groups: &Range<usize>,
    to: &mut [f64],
) {
    to.fill(0.0);
    let mut states = numbers_mut(to, target, groups);
    propagate(direction, target, from, groups, |g, sums| put(&mut states, g, sums));
}

struct ExtendedMeet<'a>(MeetArgs<'a, CtcTarget>);

impl Kernel for ExtendedMeet<'_> {
    type Output = MidpointLikelihood;

    #[inline(always)]
    fn run<S: Isa>(self) -> MidpointLikelihood {
        let MeetArgs { direction, target, opposite, state, buffers, scale, .. } = self.0;
        let groups = target.groups(direction.beyond_middle(target.frames));
        let to = &mut buffers.rows[..state_len(target)];
        step(direction, target, state, &groups, to);
        state.copy_from_slice(to);
        let state = &*state;
        let products = || {
            let starts = [groups.start * GROUP, target.width() + groups.start * GROUP];
            starts.into_iter().flat_map(|from| {
                let [here, there] = [state, opposite].map(|s| numbers(s, target, from));
                (0..groups.len()).flat_map(move |g| {
                    let Extended { m, k } = there(g);
                    let Extended { m, k } = here(g).times(&m, &k);
                    (0..GROUP).map(move |i| (m[i], k[i]))
                })
            })
        };
        let top = |max: f64, (m, k): (f64, f64)| if m > 0.0 { max.max(k) } else { max };
        let scale = scale.unwrap_or_else(|| products().fold(2.0 * EXPONENT_OF_0, top));
        let total = products().map(|(m, k)| m * power_of_two(k - scale)).sum();
        MidpointLikelihood::new(scale, total)
    }
}

impl Arithmetic for ExtendedFloat {
    type Target = CtcTarget;

    const FORM: EmissionForm = EmissionForm::Extended;

    fn state_len(target: &CtcTarget) -> usize {
        state_len(target)
    }

    fn start(direction: Direction, target: &CtcTarget, state: &mut [f64]) {
        state_rows::start(state, target.first_state(direction));
    }

    fn advance(level: Level, args: AdvanceArgs<'_, CtcTarget>) -> Result<Precision> {
        dispatch(level, ExtendedAdvance(args))
    }

    fn meet(level: Level, args: MeetArgs<'_, CtcTarget>) -> MidpointLikelihood {
        dispatch(level, ExtendedMeet(args))
    }

    fn pass_back(level: Level, args: PassBackArgs<'_, CtcTarget>) -> Result<bool> {
        dispatch(level, ExtendedPassBack(args))
    }
}

//! Sums over paths in logarithms, as fixed-point numbers long enough for any sum of the inputs.
//!
//! Of two paths through logits of -1e30, each sum is right to 1e14 in `f64`, while the paths may differ by a few units
//! elsewhere, and these decide between them. Here sums of inputs are exact to 2^-64, however far apart the inputs lie,
//! and so are differences of sums. This is some hundred times slower than [`super::block_float`], and only used where
//! no path avoids the far logits that the other arithmetics leave out; see [`super::far_logits`].

use super::fixed_number::FixedNumber;
use super::frames::arithmetic::{
    AdvanceArgs, Arithmetic, MeetArgs, MidpointLikelihood, PassBackArgs, Precision,
};
use super::frames::blocks::Block;
use super::frames::emissions::EmissionForm;
use super::frames::row_chain::each_frame;
use super::frames::{Direction, GROUP};
use super::target::CtcTarget;
use super::viterbi::{ADVANCE, BLANK_ADVANCE, SKIP, ViterbiScores};
use crate::error::Result;
use crate::simd::Level;
use crate::threads;
use std::ops::Range;

/// See the module; numbers have K words.
pub struct FixedPoint<const K: usize>;

/// The numbers of the states that lead to a state: of itself, of the state beside it, and of the label from which a
/// blank is skipped.
type Predecessors<const K: usize> = [FixedNumber<K>; 3];

/// The predecessors of blank u and of label u.
fn predecessors<const K: usize>(
    direction: Direction,
    target: &CtcTarget,
    row: &[f64],
    u: usize,
) -> [Predecessors<K>; 2] {
    let (width, skip) = (target.width(), &target.skip);
    let none = FixedNumber::NEG_INFINITY;
    let blank = |u: usize| if u < width { FixedNumber::read(row, u) } else { none };
    let label = |u: usize| if u < width { FixedNumber::read(row, width + u) } else { none };
    let skipped = |u: usize, allowed: f64| if allowed > 0.0 { label(u) } else { none };
    match direction {
        Direction::Forward => {
            let before = u.wrapping_sub(1);
            [[blank(u), label(before), none], [label(u), blank(u), skipped(before, skip[u])]]
        }
        Direction::Backward => {
            [[blank(u), label(u), none], [label(u), blank(u + 1), skipped(u + 1, skip[u + 1])]]
        }
    }
}

/// The states in reach at a frame, of a row of blanks and of a row of labels.
fn reach(target: &CtcTarget, groups: &Range<usize>) -> Range<usize> {
    groups.start * GROUP..(groups.end * GROUP).min(target.width())
}

/// Makes a state row with `each(i, predecessors)` for the i-th number; nothing leads to states out of reach.
fn propagate<const K: usize>(
    direction: Direction,
    target: &CtcTarget,
    from: &[f64],
    to: &mut [f64],
    t: usize,
    each: impl Fn(usize, Predecessors<K>) -> FixedNumber<K>,
) {
    clear::<K>(target, to);
    for u in reach(target, &target.groups(t)) {
        let [blank, label] = predecessors(direction, target, from, u);
        each(u, blank).write(to, u);
        each(target.width() + u, label).write(to, target.width() + u);
    }
}

/// The sum over the predecessors, as a function for [`propagate`].
fn sum<const K: usize>(_: usize, predecessors: Predecessors<K>) -> FixedNumber<K> {
    FixedNumber::sum(predecessors.into_iter())
}

fn clear<const K: usize>(target: &CtcTarget, row: &mut [f64]) {
    (0..2 * target.width()).for_each(|i| FixedNumber::<K>::NEG_INFINITY.write(row, i));
}

fn start<const K: usize>(target: &CtcTarget, row: &mut [f64], first: usize) {
    clear::<K>(target, row);
    FixedNumber::<K>::ZERO.write(row, first);
}

fn row_len<const K: usize>(target: &CtcTarget) -> usize {
    2 * target.width() * K
}

/// The emissions of a frame in [`EmissionForm::Exact`]: two rows that add up to half of each logarithm.
struct FrameExact<'a> {
    target: &'a CtcTarget,
    rows: [&'a [f64]; 2],
}

impl<'a> FrameExact<'a> {
    fn new(target: &'a CtcTarget, e: &'a [f64]) -> Self {
        let (high, low) = e.split_at(target.emissions.stride());
        FrameExact { target, rows: [high, low] }
    }

    fn of_block(target: &'a CtcTarget, block: &Block, e: &'a [f64], t: usize) -> Self {
        let len = EmissionForm::Exact.rows() * target.emissions.stride();
        Self::new(target, &e[(t - block.frames.start) * len..][..len])
    }

    /// The emission of the i-th number of a state row.
    fn at<const K: usize>(&self, i: usize) -> FixedNumber<K> {
        let width = self.target.width();
        let [high, low] = self.rows.map(|e| e[if i < width { width } else { i - width }]);
        let high = FixedNumber::of(high, 1);
        // Where the logarithm is -inf the lower part is not a number.
        if high == FixedNumber::NEG_INFINITY { high } else { high.plus(FixedNumber::of(low, 1)) }
    }
}

impl<const K: usize> Arithmetic for FixedPoint<K> {
    type Target = CtcTarget;

    const FORM: EmissionForm = EmissionForm::Exact;

    fn state_len(target: &CtcTarget) -> usize {
        row_len::<K>(target)
    }

    fn start(direction: Direction, target: &CtcTarget, state: &mut [f64]) {
        start::<K>(target, state, target.first_state(direction));
    }

    fn advance(_: Level, args: AdvanceArgs<'_, CtcTarget>) -> Result<Precision> {
        let AdvanceArgs { direction, target, block, e, state, buffers, store } = args;
        let rows = store.unwrap_or(&mut buffers.rows);
        let row = each_frame(direction, block, state, rows, |_, t, from, to| {
            threads::check()?;
            let e = FrameExact::of_block(target, block, e, t);
            propagate::<K>(direction, target, from, to, t, |i, predecessors| {
                sum(i, predecessors).times(e.at(i))
            });
            Ok(())
        })?;
        state.copy_from_slice(row);
        Ok(Precision::Full)
    }

    fn meet(_: Level, args: MeetArgs<'_, CtcTarget>) -> MidpointLikelihood {
        let MeetArgs { direction, target, opposite, state, buffers, .. } = args;
        let next = &mut buffers.rows[..row_len::<K>(target)];
        let t = direction.beyond_middle(target.frames);
        propagate(direction, target, state, next, t, sum::<K>);
        let states = 0..2 * target.width();
        let product = |i| FixedNumber::<K>::read(next, i).times(FixedNumber::read(opposite, i));
        let total = FixedNumber::sum(states.clone().map(product));
        // Relative to the likelihood, so that products are occupancies.
        for i in states {
            let x = FixedNumber::<K>::read(next, i);
            let relative = if x == FixedNumber::NEG_INFINITY { x } else { x.minus(total) };
            relative.write(state, i);
        }
        let possible = if total == FixedNumber::NEG_INFINITY { 0.0 } else { 1.0 };
        MidpointLikelihood { scale: 0.0, total: possible, log: total.to_f64() }
    }

    fn pass_back(_: Level, args: PassBackArgs<'_, CtcTarget>) -> Result<bool> {
        let PassBackArgs { direction, target, block, e, state, buffers, store, totals, .. } = args;
        let (len, frames) = (row_len::<K>(target), block.frames.len());
        let row = each_frame(direction, block, state, &mut buffers.rows, |i, t, from, to| {
            threads::check()?;
            let e = FrameExact::of_block(target, block, e, t);
            if i == 0 {
                to.copy_from_slice(from);
            } else {
                propagate(direction, target, from, to, t, sum::<K>);
            }
            let stored = &mut store[(frames - 1 - i) * len..][..len];
            let total = &mut totals[t - block.frames.start];
            *total = [0.0; 2];
            // The place of an occupancy lies before all numbers that are still to be read.
            for i in 0..2 * target.width() {
                let passing = FixedNumber::<K>::read(to, i);
                let occupancy = FixedNumber::read(stored, i).times(passing).to_f64().exp();
                stored[i] = occupancy;
                total[i / target.width()] += occupancy;
                passing.times(e.at(i)).write(to, i);
            }
            Ok(())
        })?;
        let last = direction.nth(&block.frames, frames - 1);
        if let Some(next) = direction.after(last, target.frames) {
            propagate(direction, target, row, state, next, sum::<K>);
        }
        Ok(true)
    }
}

impl<const K: usize> ViterbiScores for FixedPoint<K> {
    const FORM: EmissionForm = EmissionForm::Exact;

    fn row_len(target: &CtcTarget) -> usize {
        row_len::<K>(target)
    }

    fn start(target: &CtcTarget, row: &mut [f64]) {
        start::<K>(target, row, 0);
    }

    fn step(
        _: Level,
        (target, t): (&CtcTarget, usize),
        e: &[f64],
        row: &[f64],
        next: &mut [f64],
        moves: Option<&mut [u8]>,
    ) {
        let e = FrameExact::new(target, e);
        propagate::<K>(Direction::Forward, target, row, next, t, |i, [stay, advance, skip]| {
            stay.max(advance).max(skip).times(e.at(i))
        });
        let Some(moves) = moves else { return };
        for u in reach(target, &target.groups(t)) {
            let [[stay, advance, _], [own, blank, label]] =
                predecessors::<K>(Direction::Forward, target, row, u);
            let move_on = if blank > own { ADVANCE } else { 0 };
            let label_move = if label > own.max(blank) { SKIP } else { move_on };
            moves[u] = label_move | if advance > stay { BLANK_ADVANCE } else { 0 };
        }
    }

    fn last(target: &CtcTarget, row: &[f64]) -> (bool, f64) {
        let last = target.label_count();
        let blank = FixedNumber::<K>::read(row, last);
        let label = last.checked_sub(1).map(|u| FixedNumber::read(row, target.width() + u));
        let at_label = label.is_some_and(|label| label >= blank);
        (at_label, label.filter(|_| at_label).unwrap_or(blank).to_f64())
    }
}

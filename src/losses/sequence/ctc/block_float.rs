//! Sums over paths as block floating point: plain numbers, whose exponents are set once a block.
//!
//! The sum over the paths that reach a state is `m * 2^k`. The exponent k belongs to the state and holds for a block of
//! frames, so that a frame costs three multiplications and additions a state, and no exponential or logarithm:
//!
//! ```text
//! blank'[u] = (blank[u] + enter[u] label[u-1]) e(blank)
//! label'[u] = (label[u] + leave[u] blank[u] + jump[u] label[u-1]) e(label u)
//! ```
//!
//! where a weight is 2 to the difference of two exponents, and `jump` is 0 where two equal labels meet. (Backward, the
//! arrows are followed the other way; see [`super::transitions`].)
//!
//! **Start of a block.** Every mantissa is brought to [1, 2), and its exponent changed to match. But no exponent may
//! lie more than [`Block::growth`] below the exponent of a state that leads to it, or its mantissa might overflow
//! before the block ends. Such an exponent is raised to that limit and its mantissa lowered; a mantissa that would fall
//! below `2^-floor` is raised to that, and the direction's precision becomes [`Precision::Raised`].
//!
//! **Passing back.** The direction that passes back through stored rows takes over their exponents, with the sign
//! changed: the product of its mantissa and the stored one is then an occupancy. An occupancy that underflows has no
//! weight, and neither has any path through its state.
//!
//! **Trust.** A raised mantissa adds to the likelihood at most `2^-floor` times the mantissa of the passing direction
//! at that state, for the sum over paths is linear in each mantissa. So the passing mantissas tell whether it matters,
//! provided that they are right where there is a path: a mantissa is 0 only where there is no path, or else the
//! direction's precision is [`Precision::Lossy`].

use super::extended_float;
use super::frames::arithmetic::{
    AdvanceArgs, Arithmetic, MeetArgs, MidpointLikelihood, PassBackArgs, Precision,
};
use super::frames::blocks::Block;
use super::frames::emissions::{EmissionForm, Frame};
use super::frames::exponents::{power_of_two, split};
use super::frames::lanes::{as_groups, keep_groups_apart};
use super::frames::row_chain::RowChain;
use super::frames::{Direction, GROUP};
use super::state_rows::{self, blanks_and_labels_mut, copy_groups, places, state_len};
use super::step_buffers::CtcBuffers;
use super::target::{BandSpan, CtcTarget};
use super::transitions::{StateGroups, Stored, TransitionWeights, Transitions, UNREACHED};
use crate::error::Result;
use crate::num::Float;
use crate::simd::{F64x8, Isa, Kernel, Level, dispatch};
use std::ops::Range;

/// Where a weight underflowed, no mantissa of the passing direction may exceed 2 to this. An underflow loses 2^-1022 of
/// a mantissa of at most 2^506, and at a later frame of the block that may weigh 2^256 times as much as the passing
/// mantissa at the block's start says. With this limit that is 2^-110 of the likelihood.
const PEAK: f64 = 150.0;
/// Where mantissas were raised to the floor, the mantissas of the passing direction have to stay so many bits below the
/// inverse of the floor.
const RAISED: f64 = 110.0;

/// See the module.
pub struct BlockFloat;

/// A state row of mantissas, and the exponents that belong to them.
struct BlockState<'a> {
    row: &'a mut [f64],
    exponents: &'a mut [f64],
}

impl<'a> BlockState<'a> {
    fn new(state: &'a mut [f64], target: &CtcTarget) -> Self {
        let (row, exponents) = state.split_at_mut(target.row_len());
        BlockState { row, exponents: &mut exponents[..2 * target.width()] }
    }
}

struct BlockAdvance<'a>(AdvanceArgs<'a, CtcTarget>);

impl Kernel for BlockAdvance<'_> {
    type Output = Precision;

    #[inline(always)]
    fn run<S: Isa>(self) -> Precision {
        let AdvanceArgs { direction, target, block, e, state, buffers, store } = self.0;
        let CtcBuffers { exponents: own, rows, weights } = buffers;
        let mut state = BlockState::new(state, target);
        let all = target.groups_of(direction, &block.frames);
        let raised = renormalise(direction, target, block, &all, &mut state, own);
        let lossy =
            TransitionWeights::are_lossy(direction, target, state.exponents, state.row, &all);
        weights.set(direction, target, state.exponents, all);
        let (precision, peak) = match (raised, lossy) {
            (false, false) => (Precision::Full, f64::INFINITY),
            (true, false) => (Precision::Raised, block.floor() - RAISED),
            (_, true) => (Precision::Lossy, PEAK),
        };
        let rows = match store {
            Some(store) => {
                let (head, rows) = store.split_at_mut(head_len(target));
                head[..2 * target.width()].copy_from_slice(state.exponents);
                head[2 * target.width()] = peak;
                rows
            }
            None => &mut rows[..2 * target.row_len()],
        };
        let len = target.row_len() / GROUP;
        let mut chain = RowChain::new(rows.as_chunks_mut().0, len);
        let e = BlockEmissions::new(direction, target, block, e);
        for BandSpan { frames, groups, next } in target.spans(direction, &block.frames) {
            let transitions = Transitions::new(direction, target, weights, &groups);
            for i in frames.clone() {
                let (blank_e, label_e) = e.of(i, &groups);
                let (from, to) = chain.rows();
                let incoming = transitions.from(if i == 0 { as_groups(state.row) } else { from });
                transitions.zero_borders((i + 1 == frames.end).then_some(&next), to);
                let [blank, label] = blanks_and_labels_mut(to, target, &groups);
                for g in 0..groups.len() {
                    keep_groups_apart();
                    let sums = incoming.group::<S>(g);
                    [blank[g], label[g]] =
                        [S::mul(&sums[0], blank_e), S::mul(&sums[1], &label_e[g])];
                }
                chain.advance();
            }
        }
        let last = target.groups(direction.nth(&block.frames, block.frames.len() - 1));
        copy_groups(chain.last.as_flattened(), state.row, target, &last);
        precision
    }
}

/// The emission rows of a block, in the order of a direction.
struct BlockEmissions<'a> {
    direction: Direction,
    rows: &'a [F64x8],
    /// Groups of labels in a row; one more holds the blank.
    width: usize,
    frames: usize,
}

impl<'a> BlockEmissions<'a> {
    fn new(direction: Direction, target: &CtcTarget, block: &Block, e: &'a [f64]) -> Self {
        let (width, frames) = (target.width() / GROUP, block.frames.len());
        BlockEmissions { direction, rows: as_groups(e), width, frames }
    }

    /// The emissions at the i-th frame: a group of the blank's, and some groups of the labels'.
    #[inline(always)]
    fn of(&self, i: usize, groups: &Range<usize>) -> (&'a F64x8, &'a [F64x8]) {
        let at = self.direction.nth(&(0..self.frames), i);
        let row = &self.rows[at * (self.width + 1)..][..=self.width];
        (&row[self.width], &row[groups.start..][..groups.len()])
    }
}

/// Sets the exponents for a block, and brings the mantissas to [1, 2) as far as the exponents' limit allows. Whether a
/// mantissa was raised to the floor: none becomes 0, for the passing direction has to show its weight wherever there is
/// a path.
// A lazy operator is a branch, which would keep the loops from being vectorised.
#[allow(clippy::needless_bitwise_bool)]
#[inline(always)]
fn renormalise(
    direction: Direction,
    target: &CtcTarget,
    block: &Block,
    groups: &Range<usize>,
    state: &mut BlockState<'_>,
    own: &mut [f64],
) -> bool {
    let width = target.width();
    let mut raised = false;
    // The exponents with which all mantissas would lie in [1, 2).
    for places in places(target, groups) {
        let (row, exponents) = (&mut state.row[places.clone()], &state.exponents[places.clone()]);
        for ((x, exponent), own) in row.iter_mut().zip(exponents).zip(&mut own[places]) {
            raised |= (*x > 0.0) & (*x < f64::MIN_POSITIVE);
            let (m, k) = split(Float::max(*x, f64::MIN_POSITIVE));
            *own = if *x > 0.0 { exponent + k } else { UNREACHED };
            *x = if *x > 0.0 { m } else { 0.0 };
        }
    }
    // The exponents that are not too far below those of the states that lead to them.
    let growth = block.growth();
    {
        let (blank_own, label_own) = own.split_at(width);
        let (blank, label) = state.exponents.split_at_mut(width);
        let mut last_label = UNREACHED;
        match direction {
            Direction::Forward => {
                for u in groups.start * GROUP..groups.end * GROUP {
                    let least = last_label - growth;
                    blank[u] = Float::max(blank_own[u], least);
                    last_label = Float::max(Float::max(label_own[u], blank_own[u] - growth), least);
                    label[u] = last_label;
                }
            }
            Direction::Backward => {
                let mut last_blank = UNREACHED;
                for u in (groups.start * GROUP..groups.end * GROUP).rev() {
                    last_label = Float::max(
                        Float::max(label_own[u], last_blank - growth),
                        last_label - growth,
                    );
                    label[u] = last_label;
                    blank[u] = Float::max(blank_own[u], last_label - growth);
                    last_blank = blank_own[u];
                }
            }
        }
    }
    // No transition crosses the lower end of the groups: below it is a label out of reach, or the padding of the
    // blanks.
    state.exponents[width + groups.start * GROUP - 1] = UNREACHED;
    // The mantissas that belong to these exponents.
    let floor = -block.floor();
    let least = power_of_two(floor);
    for places in places(target, groups) {
        let (row, exponents) = (&mut state.row[places.clone()], &state.exponents[places.clone()]);
        for ((x, exponent), own) in row.iter_mut().zip(exponents).zip(&own[places]) {
            let above = own - exponent >= floor;
            raised |= (*x > 0.0) & !above;
            let least = if *x > 0.0 { least } else { 0.0 };
            *x = if above { *x * power_of_two(own - exponent) } else { least };
        }
    }
    raised
}

/// Numbers that are stored of a block before its rows: the exponents, and then the most bits that the mantissas of the
/// passing direction may have.
fn head_len(target: &CtcTarget) -> usize {
    2 * target.width() + GROUP
}

struct BlockPassBack<'a>(PassBackArgs<'a, CtcTarget>);

impl Kernel for BlockPassBack<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Isa>(self) -> bool {
        let PassBackArgs { direction, target, block, e, state, buffers, store, .. } = self.0;
        let (stored_precision, totals) = (self.0.stored_precision, self.0.totals);
        let CtcBuffers { rows, weights, .. } = buffers;
        let state = BlockState::new(state, target);
        let (len, frames) = (target.row_len() / GROUP, block.frames.len());
        let (head, stored) = store.split_at_mut(head_len(target));
        let exponents = &head[..2 * target.width()];
        let all = target.groups_of(direction.opposite(), &block.frames);
        weights.set(direction.opposite(), target, exponents, all);
        let mut stored = stored.as_chunks_mut().0.chunks_exact_mut(len).rev();
        let mut chain = RowChain::new(&mut rows.as_chunks_mut().0[..2 * len], len);
        let e = BlockEmissions::new(direction, target, block, e);
        // The sums of the last frames, group by group, whose elements are added up for several frames at a time.
        let mut sums = [[[0.0; GROUP]; GROUP]; 2];
        for BandSpan { frames: span, groups, next } in target.spans(direction, &block.frames) {
            let transitions = Transitions::new(direction, target, weights, &groups);
            for (i, stored) in span.clone().zip(stored.by_ref()) {
                let stored = blanks_and_labels_mut(stored, target, &groups);
                let (from, to) = chain.rows();
                if i == 0 {
                    let exponents = [&*state.exponents, exponents];
                    adopt(target, &groups, state.row, exponents, &stored, stored_precision);
                }
                transitions.zero_borders((i + 1 == span.end).then_some(&next), to);
                let passed = blanks_and_labels_mut(to, target, &groups);
                let step = BlockOccupancyStep { stored, passed };
                let e = e.of(i, &groups);
                let total = if i == 0 {
                    step.run::<S>(&Stored::new(as_groups(state.row), target, &groups), e)
                } else {
                    step.run::<S>(&transitions.from(from), e)
                };
                [sums[0][i % GROUP], sums[1][i % GROUP]] = total;
                if (i + 1) % GROUP == 0 || i + 1 == frames {
                    let [blanks, labels] = [S::row_sums(&sums[0]), S::row_sums(&sums[1])];
                    for i in i / GROUP * GROUP..=i {
                        totals[direction.nth(&(0..frames), i)] =
                            [blanks[i % GROUP], labels[i % GROUP]];
                    }
                }
                chain.advance();
            }
        }
        // The row for the first frame of the next block, still in the exponents of this one.
        let last = direction.nth(&block.frames, frames - 1);
        let Some(next) = direction.after(last, target.frames) else { return true };
        let groups = target.groups(next);
        step::<S>(direction, target, chain.last, weights, &groups, state.row);
        state.exponents.copy_from_slice(exponents);
        let peak = head[2 * target.width()];
        peak == f64::INFINITY || state.row.iter().all(|&x| x <= power_of_two(peak))
    }
}

/// One frame of a pass back: the stored row, and the row that the passing direction makes for its next step.
struct BlockOccupancyStep<'a> {
    stored: [&'a mut [F64x8]; 2],
    passed: [&'a mut [F64x8]; 2],
}

impl BlockOccupancyStep<'_> {
    /// Multiplies the stored numbers with those of the passing direction, and the latter with the emissions. Returns
    /// the sums of the occupancies, group by group.
    #[inline(always)]
    fn run<S: Isa>(
        self,
        passing: &impl StateGroups,
        (blank_e, label_e): (&F64x8, &[F64x8]),
    ) -> [F64x8; 2] {
        let [blank_stored, label_stored] = self.stored;
        let [blank, label] = self.passed;
        let mut total = [[0.0; GROUP]; 2];
        for g in 0..label_e.len() {
            keep_groups_apart();
            let sums = passing.group::<S>(g);
            let occupancies =
                [S::mul(&blank_stored[g], &sums[0]), S::mul(&label_stored[g], &sums[1])];
            total = [S::add(&total[0], &occupancies[0]), S::add(&total[1], &occupancies[1])];
            [blank_stored[g], label_stored[g]] = occupancies;
            [blank[g], label[g]] = [S::mul(&sums[0], blank_e), S::mul(&sums[1], &label_e[g])];
        }
        total
    }
}

/// One step without emissions; the row becomes 0 outside the groups.
#[inline(always)]
fn step<S: Isa>(
    direction: Direction,
    target: &CtcTarget,
    from: &[F64x8],
    weights: &TransitionWeights,
    groups: &Range<usize>,
    to: &mut [f64],
) {
    to.fill(0.0);
    let [blank, label] = blanks_and_labels_mut(to.as_chunks_mut().0, target, groups);
    let transitions = Transitions::new(direction, target, weights, groups);
    let incoming = transitions.from(from);
    for g in 0..groups.len() {
        keep_groups_apart();
        [blank[g], label[g]] = incoming.group::<S>(g);
    }
}

/// Brings mantissas of the passing direction from the exponents `old` to `new`. Where the stored mantissa is 0 there is
/// no path, and the passing one becomes 0, too. But if the stored half has lost paths, the passing one has to show the
/// weight of the paths there.
#[inline(always)]
fn adopt(
    target: &CtcTarget,
    groups: &Range<usize>,
    row: &mut [f64],
    [old, new]: [&[f64]; 2],
    stored: &[&mut [F64x8]; 2],
    stored_precision: Precision,
) {
    let complete = stored_precision.has_all_paths();
    for (stored, places) in stored.iter().zip(places(target, groups)) {
        let states = row[places.clone()].iter_mut().zip(stored.as_flattened());
        for (((x, stored), old), new) in states.zip(&old[places.clone()]).zip(&new[places]) {
            let moved = *x * power_of_two(new - old);
            *x = if complete && *stored == 0.0 { 0.0 } else { moved };
        }
    }
}

struct BlockMeet<'a>(MeetArgs<'a, CtcTarget>);

impl Kernel for BlockMeet<'_> {
    type Output = MidpointLikelihood;

    #[inline(always)]
    fn run<S: Isa>(self) -> MidpointLikelihood {
        let MeetArgs { direction, target, opposite, opposite_precision, state, buffers, scale } =
            self.0;
        let complete = opposite_precision.has_all_paths();
        let (opposite, opposite_exponents) = opposite.split_at(target.row_len());
        let groups = target.groups(direction.beyond_middle(target.frames));
        to_extended(target, state);
        let next = &mut buffers.rows[..state_len(target)];
        extended_float::step(direction, target, state, &groups, next);
        let (next, next_exponents) = next.split_at(target.row_len());
        let states = || places(target, &groups).into_iter().flatten();
        // The product at a state as m and bits, which stand for m * 2^bits.
        let product = |i: usize| {
            let (m, k) = split(opposite[i]);
            let bits = next_exponents[i] + opposite_exponents[i] + k;
            if next[i] > 0.0 && opposite[i] > 0.0 {
                (next[i] * m, bits)
            } else {
                (0.0, f64::NEG_INFINITY)
            }
        };
        let scale = scale
            .unwrap_or_else(|| states().fold(f64::NEG_INFINITY, |max, i| max.max(product(i).1)));
        let (row, exponents) = state.split_at_mut(target.row_len());
        row.fill(0.0);
        let mut total = 0.0;
        for i in states() {
            let (m, bits) = product(i);
            if m > 0.0 {
                total += m * power_of_two(bits - scale);
            }
            if m > 0.0 || !complete {
                row[i] = next[i] * power_of_two(next_exponents[i] + opposite_exponents[i] - scale);
            }
        }
        exponents.copy_from_slice(opposite_exponents);
        MidpointLikelihood::new(scale, total)
    }
}

/// Brings all mantissas to [1, 2), each by an exponent of its own, as [`extended_float`] has them.
#[inline(always)]
fn to_extended(target: &CtcTarget, state: &mut [f64]) {
    let (row, exponents) = state.split_at_mut(target.row_len());
    for (x, exponent) in row.iter_mut().zip(exponents) {
        let (m, k) = split(*x);
        *exponent += if *x > 0.0 { k } else { 0.0 };
        *x = if *x > 0.0 { m } else { 0.0 };
    }
}

impl Arithmetic for BlockFloat {
    type Target = CtcTarget;

    const FORM: EmissionForm = EmissionForm::Linear;

    fn state_len(target: &CtcTarget) -> usize {
        state_len(target)
    }

    fn head_len(target: &CtcTarget) -> usize {
        head_len(target)
    }

    fn row_len(target: &CtcTarget) -> usize {
        target.row_len()
    }

    fn fall(frame: &Frame) -> f64 {
        frame.bits
    }

    fn start(direction: Direction, target: &CtcTarget, state: &mut [f64]) {
        state_rows::start(state, target.first_state(direction));
    }

    fn advance(level: Level, args: AdvanceArgs<'_, CtcTarget>) -> Result<Precision> {
        Ok(dispatch(level, BlockAdvance(args)))
    }

    fn meet(level: Level, args: MeetArgs<'_, CtcTarget>) -> MidpointLikelihood {
        dispatch(level, BlockMeet(args))
    }

    fn pass_back(level: Level, args: PassBackArgs<'_, CtcTarget>) -> Result<bool> {
        Ok(dispatch(level, BlockPassBack(args)))
    }
}

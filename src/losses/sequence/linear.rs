//! The lattice in plain numbers with exponents kept apart.
//!
//! The sum over the paths that reach a state is `m * 2^k`. The exponent k belongs to the state and holds for a block of
//! frames, so that a frame costs three multiplications and additions a state and nothing transcendental:
//!
//! ```text
//! blank'[u] = (blank[u] + enter[u] label[u-1]) e(blank)
//! label'[u] = (label[u] + leave[u] blank[u] + jump[u] label[u-1]) e(label u)
//! ```
//!
//! where a weight is 2 to the difference of two exponents, and `jump` is 0 where two equal labels meet. (From the end of
//! the utterance the arrows point the other way.) At the start of a block every mantissa is brought back to [1, 2), but
//! no exponent may lie more than `growth` below that of a state that feeds it, lest a mantissa overflow before the block
//! ends. A mantissa that this would push below `2^-floor` is raised to that, and the caller told.
//!
//! A direction that meets stored rows of the other one takes over their exponents, mirrored: its mantissas become those
//! by which the stored ones are to be multiplied to give occupancies. What underflows there is an occupancy of no
//! weight, and any path through that state weighs no more. What a raised mantissa may have added is known exactly: the
//! sum over paths is linear in it, so at most `2^-floor` times the other direction's mantissa. For that to be seen no
//! path may be lost on the way: a mantissa is 0 only where there is none, or the direction is known to be lossy.

use super::blocks::{self, Block};
use super::frames::{Form, Frame};
use super::planes::{
    Octet, Steps, copy_row, lanes, one_by_one, planes, planes_mut, power_of_two, split,
};
use super::sweep::{Arithmetic, Crossing, Kept, Work, state_len};
use super::target::{Run, Target};
use super::weights::{Arrows, Groups, Weights};
use super::{LANES, Side, wide};
use crate::error::Result;
use crate::num::Float;
use crate::simd::{Isa, Kernel, Level, dispatch};
use std::ops::Range;

/// The exponent of a state that nothing reaches, and one that is still above it after any number of labels.
const DEAD: f64 = -1e15;
pub(super) const NEARLY_DEAD: f64 = -1e14;
/// Where a weight was lost, no mirrored mantissa may exceed 2 to this. A weight below the smallest normal number loses
/// 2^-1022 of a mantissa of at most 2^506, and what a later frame of the block makes of that is at most 2^256 times
/// what the start of the block shows: with this peak, 2^-110 of the whole.
const PEAK: f64 = 150.0;
/// Where mantissas were raised to the floor, mirrored ones stay so many bits below what makes them 1 together.
const RAISED: f64 = 110.0;

/// See the module.
pub(super) struct Linear;

/// Rows and what belongs to them: two planes of mantissas, zeros, two planes of exponents.
struct State<'a> {
    row: &'a mut [f64],
    power: &'a mut [f64],
}

impl<'a> State<'a> {
    fn new(state: &'a mut [f64], target: &Target) -> Self {
        let (row, power) = state.split_at_mut(target.row());
        State { row, power: &mut power[..2 * target.width] }
    }
}

struct Advance<'a> {
    side: Side,
    target: &'a Target,
    block: &'a Block,
    e: &'a [f64],
    state: State<'a>,
    work: &'a mut Work,
    store: Option<&'a mut [f64]>,
}

impl Kernel for Advance<'_> {
    type Output = Kept;

    #[inline(always)]
    fn run<S: Isa>(mut self) -> Kept {
        let Advance { side, target, block, e, work, .. } = self;
        let all = target.groups_of(side, &block.frames);
        let raised = refresh(side, target, block, &all, &mut self.state, &mut work.own);
        let lost = Weights::are_lossy(side, target, self.state.power, self.state.row, &all);
        work.weights.set(side, target, self.state.power, all);
        let (kept, peak) = match (raised, lost) {
            (false, false) => (Kept::All, f64::INFINITY),
            (true, false) => (Kept::Raised, block.floor() - RAISED),
            (_, true) => (Kept::Lossy, PEAK),
        };
        let rows = match self.store {
            Some(store) => {
                let (head, rows) = store.split_at_mut(head(target));
                head[..2 * target.width].copy_from_slice(self.state.power);
                head[2 * target.width] = peak;
                rows
            }
            None => &mut work.rows[..2 * target.row()],
        };
        let len = target.row() / LANES;
        let mut steps = Steps::new(rows.as_chunks_mut().0, len);
        let e = Emissions::new(side, target, block, e);
        for Run { frames, groups, next } in target.runs(side, &block.frames) {
            let arrows = Arrows::new(side, target, &work.weights, &groups);
            for i in frames.clone() {
                let (blank_e, label_e) = e.of(i, &groups);
                let (from, to) = steps.pair();
                let fed = arrows.from(if i == 0 { lanes(self.state.row) } else { from });
                arrows.surround((i + 1 == frames.end).then_some(&next), to);
                let [blank, label] = planes_mut(to, target, &groups);
                for g in 0..groups.len() {
                    one_by_one();
                    let sums = fed.group::<S>(g);
                    [blank[g], label[g]] =
                        [S::mul(&sums[0], blank_e), S::mul(&sums[1], &label_e[g])];
                }
                steps.turn();
            }
        }
        let last = target.groups(side.nth(&block.frames, block.frames.len() - 1));
        copy_row(steps.last.as_flattened(), self.state.row, target, &last);
        kept
    }
}

/// The emission rows of a block, in the order of a direction.
struct Emissions<'a> {
    side: Side,
    rows: &'a [Octet],
    /// Groups of a plane, and how many frames there are.
    plane: usize,
    frames: usize,
}

impl<'a> Emissions<'a> {
    fn new(side: Side, target: &Target, block: &Block, e: &'a [f64]) -> Self {
        let (plane, frames) = (target.width / LANES, block.frames.len());
        Emissions { side, rows: lanes(e), plane, frames }
    }

    /// [`LANES`] times that of the blank, and some groups of those of the labels.
    #[inline(always)]
    fn of(&self, i: usize, groups: &Range<usize>) -> (&'a Octet, &'a [Octet]) {
        let at = self.side.nth(&(0..self.frames), i);
        let row = &self.rows[at * (self.plane + 1)..][..=self.plane];
        (&row[self.plane], &row[groups.start..][..groups.len()])
    }
}

/// Brings the mantissas to [1, 2) and sets the exponents for a block. Whether a mantissa was raised: none becomes 0, for
/// what the other direction brings along must show wherever there is a path.
// A lazy operator is a branch, which would keep the loops from being vectorised.
#[allow(clippy::needless_bitwise_bool)]
#[inline(always)]
fn refresh(
    side: Side,
    target: &Target,
    block: &Block,
    groups: &Range<usize>,
    state: &mut State<'_>,
    own: &mut [f64],
) -> bool {
    let width = target.width;
    let mut raised = false;
    for plane in [0, width] {
        let range = plane + groups.start * LANES..plane + groups.end * LANES;
        let (row, power) = (&mut state.row[range.clone()], &state.power[range.clone()]);
        for ((x, power), own) in row.iter_mut().zip(power).zip(&mut own[range]) {
            raised |= (*x > 0.0) & (*x < f64::MIN_POSITIVE);
            let (m, k) = split(Float::max(*x, f64::MIN_POSITIVE));
            *own = if *x > 0.0 { power + k } else { DEAD };
            *x = if *x > 0.0 { m } else { 0.0 };
        }
    }
    let growth = block.growth();
    {
        let (blank_own, label_own) = own.split_at(width);
        let (blank, label) = state.power.split_at_mut(width);
        let mut fed = DEAD;
        match side {
            Side::Start => {
                for u in groups.start * LANES..groups.end * LANES {
                    let least = fed - growth;
                    blank[u] = Float::max(blank_own[u], least);
                    fed = Float::max(Float::max(label_own[u], blank_own[u] - growth), least);
                    label[u] = fed;
                }
            }
            Side::End => {
                let mut next = DEAD;
                for u in (groups.start * LANES..groups.end * LANES).rev() {
                    fed = Float::max(Float::max(label_own[u], next - growth), fed - growth);
                    label[u] = fed;
                    blank[u] = Float::max(blank_own[u], fed - growth);
                    next = blank_own[u];
                }
            }
        }
    }
    // No arrow crosses the lower end of the groups: below it is a label out of reach, or the padding of the blanks.
    state.power[width + groups.start * LANES - 1] = DEAD;
    let floor = -block.floor();
    let least = power_of_two(floor);
    for plane in [0, width] {
        let range = plane + groups.start * LANES..plane + groups.end * LANES;
        let (row, power) = (&mut state.row[range.clone()], &state.power[range.clone()]);
        for ((x, power), own) in row.iter_mut().zip(power).zip(&own[range]) {
            let kept = own - power >= floor;
            raised |= (*x > 0.0) & !kept;
            let least = if *x > 0.0 { least } else { 0.0 };
            *x = if kept { *x * power_of_two(own - power) } else { least };
        }
    }
    raised
}

/// What is stored of a block before its rows: exponents, and how many bits mirrored mantissas may have.
fn head(target: &Target) -> usize {
    2 * target.width + LANES
}

struct Pass<'a> {
    /// Where the passing direction comes from.
    side: Side,
    target: &'a Target,
    block: &'a Block,
    e: &'a [f64],
    state: State<'a>,
    work: &'a mut Work,
    store: &'a mut [f64],
    /// Whether no path is lost of those stored.
    whole: bool,
    /// For each frame, the sums of its occupancies over blanks and over labels.
    totals: &'a mut [[f64; 2]],
}

impl Kernel for Pass<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Isa>(self) -> bool {
        let Pass { side, target, block, e, state, work, store, whole, totals } = self;
        let (len, frames) = (target.row() / LANES, block.frames.len());
        let (head, stored) = store.split_at_mut(head(target));
        let power = &head[..2 * target.width];
        let all = target.groups_of(side.other(), &block.frames);
        work.weights.set(side.other(), target, power, all);
        let mut stored = stored.as_chunks_mut().0.chunks_exact_mut(len).rev();
        let mut steps = Steps::new(&mut work.rows.as_chunks_mut().0[..2 * len], len);
        let e = Emissions::new(side, target, block, e);
        // Of the last frames, to be added up side by side.
        let mut sums = [[[0.0; LANES]; LANES]; 2];
        for Run { frames: run, groups, next } in target.runs(side, &block.frames) {
            let arrows = Arrows::new(side, target, &work.weights, &groups);
            for (i, stored) in run.clone().zip(stored.by_ref()) {
                let stored = planes_mut(stored, target, &groups);
                let (from, to) = steps.pair();
                if i == 0 {
                    adopt(target, &groups, state.row, [state.power, power], (&stored, whole));
                }
                arrows.surround((i + 1 == run.end).then_some(&next), to);
                let meeting = Meeting { stored, to: planes_mut(to, target, &groups) };
                let e = e.of(i, &groups);
                let total = if i == 0 {
                    meeting.meet::<S>(&planes(lanes(state.row), target, &groups), e)
                } else {
                    meeting.meet::<S>(&arrows.from(from), e)
                };
                [sums[0][i % LANES], sums[1][i % LANES]] = total;
                if (i + 1) % LANES == 0 || i + 1 == frames {
                    let [blanks, labels] = [S::row_sums(&sums[0]), S::row_sums(&sums[1])];
                    for i in i / LANES * LANES..=i {
                        totals[side.nth(&(0..frames), i)] = [blanks[i % LANES], labels[i % LANES]];
                    }
                }
                steps.turn();
            }
        }
        // What the frame beyond is to be multiplied by, still in the exponents of this block.
        let last = side.nth(&block.frames, frames - 1);
        let Some(next) = side.after(last, target.frames) else { return true };
        let groups = target.groups(next);
        step::<S>(side, target, steps.last, &work.weights, &groups, state.row);
        state.power.copy_from_slice(power);
        let peak = head[2 * target.width];
        peak == f64::INFINITY || state.row.iter().all(|&x| x <= power_of_two(peak))
    }
}

/// What is stored of a frame, and the row of the direction that meets it there.
struct Meeting<'a> {
    stored: [&'a mut [Octet]; 2],
    to: [&'a mut [Octet]; 2],
}

impl Meeting<'_> {
    /// Makes occupancies of what is stored and what comes the other way, and sends that on with the emissions. Returns the
    /// sums of occupancies.
    #[inline(always)]
    fn meet<S: Isa>(
        self,
        coming: &impl Groups,
        (blank_e, label_e): (&Octet, &[Octet]),
    ) -> [Octet; 2] {
        let [blank_stored, label_stored] = self.stored;
        let [blank, label] = self.to;
        let mut total = [[0.0; LANES]; 2];
        for g in 0..label_e.len() {
            one_by_one();
            let sums = coming.group::<S>(g);
            let occupancies =
                [S::mul(&blank_stored[g], &sums[0]), S::mul(&label_stored[g], &sums[1])];
            total = [S::add(&total[0], &occupancies[0]), S::add(&total[1], &occupancies[1])];
            [blank_stored[g], label_stored[g]] = occupancies;
            [blank[g], label[g]] = [S::mul(&sums[0], blank_e), S::mul(&sums[1], &label_e[g])];
        }
        total
    }
}

/// One step without emissions, zeros around it.
#[inline(always)]
fn step<S: Isa>(
    side: Side,
    target: &Target,
    from: &[Octet],
    weights: &Weights,
    groups: &Range<usize>,
    to: &mut [f64],
) {
    to.fill(0.0);
    let [blank, label] = planes_mut(to.as_chunks_mut().0, target, groups);
    let arrows = Arrows::new(side, target, weights, groups);
    let fed = arrows.from(from);
    for g in 0..groups.len() {
        one_by_one();
        [blank[g], label[g]] = fed.group::<S>(g);
    }
}

/// Brings mantissas from the exponents `old` to `new`. Where the stored mantissa is 0 there is no path, unless some were
/// lost: then what comes along shows its weight where that happened.
#[inline(always)]
fn adopt(
    target: &Target,
    groups: &Range<usize>,
    row: &mut [f64],
    [old, new]: [&[f64]; 2],
    (stored, whole): (&[&mut [Octet]; 2], bool),
) {
    for (stored, plane) in stored.iter().zip([0, target.width]) {
        let range = plane + groups.start * LANES..plane + groups.end * LANES;
        let cells = row[range.clone()].iter_mut().zip(stored.as_flattened());
        for (((x, stored), old), new) in cells.zip(&old[range.clone()]).zip(&new[range]) {
            let moved = *x * power_of_two(new - old);
            *x = if whole && *stored == 0.0 { 0.0 } else { moved };
        }
    }
}

struct Cross<'a> {
    side: Side,
    target: &'a Target,
    over: &'a [f64],
    whole: bool,
    state: &'a mut [f64],
    work: &'a mut Work,
    scale: Option<f64>,
}

impl Kernel for Cross<'_> {
    type Output = Crossing;

    #[inline(always)]
    fn run<S: Isa>(self) -> Crossing {
        let Cross { side, target, over, whole, state, work, scale } = self;
        let (over, over_power) = over.split_at(target.row());
        let groups = target.groups(side.beyond_middle(target));
        normalize(target, state);
        let next = &mut work.rows[..state_len(target)];
        wide::step(side, target, state, &groups, next);
        let (next, next_power) = next.split_at(target.row());
        let cells = || {
            let planes = [0, target.width]
                .map(|plane| plane + groups.start * LANES..plane + groups.end * LANES);
            planes.into_iter().flatten()
        };
        // Products as m * 2^bits.
        let product = |i: usize| {
            let (m, k) = split(over[i]);
            let bits = next_power[i] + over_power[i] + k;
            if next[i] > 0.0 && over[i] > 0.0 {
                (next[i] * m, bits)
            } else {
                (0.0, f64::NEG_INFINITY)
            }
        };
        let scale = scale
            .unwrap_or_else(|| cells().fold(f64::NEG_INFINITY, |max, i| max.max(product(i).1)));
        let (row, power) = state.split_at_mut(target.row());
        row.fill(0.0);
        let mut total = 0.0;
        for i in cells() {
            let (m, bits) = product(i);
            if m > 0.0 {
                total += m * power_of_two(bits - scale);
            }
            if m > 0.0 || !whole {
                row[i] = next[i] * power_of_two(next_power[i] + over_power[i] - scale);
            }
        }
        power.copy_from_slice(over_power);
        Crossing::of(scale, total)
    }
}

/// Brings all mantissas to [1, 2), each by its own exponent.
#[inline(always)]
fn normalize(target: &Target, state: &mut [f64]) {
    let (row, power) = state.split_at_mut(target.row());
    for (x, power) in row.iter_mut().zip(power) {
        let (m, k) = split(*x);
        *power += if *x > 0.0 { k } else { 0.0 };
        *x = if *x > 0.0 { m } else { 0.0 };
    }
}

impl Arithmetic for Linear {
    const FORM: Form = Form::Linear;

    fn state_len(target: &Target) -> usize {
        state_len(target)
    }

    fn blocks(
        side: Side,
        range: Range<usize>,
        frames: &[Frame],
        blocks: &mut Vec<Block>,
    ) -> Result<()> {
        blocks::cut(side, &range, |t| frames[t].bits, blocks)
    }

    fn store_len(target: &Target, frames: usize) -> usize {
        head(target) + frames * target.row()
    }

    fn occupancies(target: &Target) -> [usize; 2] {
        [head(target), target.row()]
    }

    fn start(_: &Target, state: &mut [f64], first: usize) {
        state.fill(0.0);
        state[first] = 1.0;
    }

    fn advance(
        level: Level,
        (side, target): (Side, &Target),
        (block, e): (&Block, &[f64]),
        state: &mut [f64],
        work: &mut Work,
        store: Option<&mut [f64]>,
    ) -> Result<Kept> {
        let state = State::new(state, target);
        Ok(dispatch(level, Advance { side, target, block, e, state, work, store }))
    }

    fn cross(
        level: Level,
        (side, target): (Side, &Target),
        (over, whole): (&[f64], bool),
        state: &mut [f64],
        work: &mut Work,
        scale: Option<f64>,
    ) -> Crossing {
        dispatch(level, Cross { side, target, over, whole, state, work, scale })
    }

    fn pass(
        level: Level,
        (side, target): (Side, &Target),
        (block, e): (&Block, &[f64]),
        (state, _): (&mut [f64], f64),
        work: &mut Work,
        (store, whole): (&mut [f64], bool),
        totals: &mut [[f64; 2]],
    ) -> Result<bool> {
        let state = State::new(state, target);
        Ok(dispatch(level, Pass { side, target, block, e, state, work, store, whole, totals }))
    }
}

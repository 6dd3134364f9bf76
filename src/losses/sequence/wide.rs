//! The lattice in plain numbers, each with an exponent of its own.
//!
//! Nothing overflows, underflows or has to be trusted: every term of a sum is brought to the exponent of the largest one,
//! and what vanishes there weighs less than rounding does. Exponents are whole numbers, far below 2^53 for emissions that
//! are not further than [`FAR`](super::frames::FAR) below 1. Relative precision is that of
//! the type; sums of logarithms, which would serve the same purpose, lose digits as the logarithm grows, and take a
//! logarithm and exponentials a state. It is some three times slower than [`Linear`](super::linear::Linear) and only
//! used where that one fails: for emissions that lie hundreds of bits apart.

use super::blocks::{self, Block};
use super::frames::{Form, Frame};
use super::planes::{Octet, Steps, copy_row, fold, lanes, planes_mut, power_of_two, split};
use super::sweep::{Arithmetic, Crossing, Kept, Work, state_len};
use super::target::Target;
use super::{LANES, Side};
use crate::error::Result;
use crate::simd::{Isa, Kernel, Level, dispatch};
use std::ops::{Add, Range};

/// The exponent of 0.
const DEAD: f64 = -1e306;

/// See the module.
pub(super) struct Wide;

/// Numbers `m * 2^k`.
#[derive(Clone, Copy)]
struct Numbers {
    m: Octet,
    k: Octet,
}

impl Numbers {
    /// The elements of a plane, its mantissas at `m` and its exponents at `k`; a 0 has no exponent.
    #[inline(always)]
    fn at(m: &Octet, k: &Octet) -> Self {
        let mut out = Numbers { m: *m, k: *k };
        for i in 0..LANES {
            out.k[i] = if m[i] > 0.0 { k[i] } else { DEAD };
        }
        out
    }

    /// Without the elements where `keep` is 0.
    #[inline(always)]
    fn only(mut self, keep: &Octet) -> Self {
        for i in 0..LANES {
            self.m[i] *= keep[i];
            self.k[i] = if keep[i] > 0.0 { self.k[i] } else { DEAD };
        }
        self
    }

    /// The sum of several, with mantissas in [1, 2) or 0.
    #[inline(always)]
    fn sum<const N: usize>(terms: [Numbers; N]) -> Self {
        let mut out = Numbers { m: [0.0; LANES], k: [0.0; LANES] };
        for i in 0..LANES {
            let top =
                terms.iter().fold(DEAD, |top, term| if term.k[i] > top { term.k[i] } else { top });
            let total =
                terms.iter().fold(0.0, |sum, term| sum + term.m[i] * power_of_two(term.k[i] - top));
            let (m, k) = split(total);
            out.m[i] = if total > 0.0 { m } else { 0.0 };
            out.k[i] = if total > 0.0 { top + k } else { DEAD };
        }
        out
    }

    #[inline(always)]
    fn times(mut self, m: &Octet, k: &Octet) -> Self {
        for i in 0..LANES {
            self.m[i] *= m[i];
            self.k[i] += k[i];
        }
        self
    }
}

/// Zeros around the groups of a row that were written: the next row may read one element further.
#[inline(always)]
fn surround(row: &mut [f64], target: &Target, groups: &Range<usize>) {
    let width = target.width;
    for plane in [0, width] {
        if groups.start > 0 {
            row[plane + (groups.start - 1) * LANES..][..LANES].fill(0.0);
        }
        if groups.end * LANES < width {
            row[plane + groups.end * LANES..][..LANES].fill(0.0);
        }
    }
    // The planes touch: what comes before the first label is the end of the blanks, and behind these comes a label.
    row[width - 1] = 0.0;
    if groups.start > 0 {
        row[width] = 0.0;
    }
    row[2 * width..2 * width + LANES].fill(0.0);
}

/// The places of numbers in a state, from element `from` of the rows.
#[inline(always)]
fn numbers<'a>(
    state: &'a [f64],
    target: &Target,
    from: usize,
) -> impl Fn(usize) -> Numbers + use<'a> {
    let (m, k) = (lanes(&state[from..]), lanes(&state[target.row() + from..]));
    move |g| Numbers::at(&m[g], &k[g])
}

/// One step along the arrows: calls `each` with the number of a group and the sums for its blanks and labels.
#[inline(always)]
fn propagate(
    side: Side,
    target: &Target,
    state: &[f64],
    groups: &Range<usize>,
    mut each: impl FnMut(usize, [Numbers; 2]),
) {
    let (start, n) = (groups.start * LANES, groups.len());
    let at = |from: usize| numbers(state, target, from);
    let (blank, label) = (at(start), at(target.width + start));
    // What feeds blank u; and through a blank, or through a label, label u.
    let (to_blank, by_blank, by_label, skip) = match side {
        Side::Start => {
            let before = target.width + start - 1;
            (at(before), at(start), at(before), start)
        }
        Side::End => {
            let label = target.width + start;
            (at(label), at(start + 1), at(label + 1), start + 1)
        }
    };
    let skip = lanes(&target.skip[skip..]);
    for g in 0..n {
        let blanks = Numbers::sum([blank(g), to_blank(g)]);
        let labels = Numbers::sum([label(g), by_blank(g), by_label(g).only(&skip[g])]);
        each(g, [blanks, labels]);
    }
}

/// A state's four planes, cut to some groups: mantissas and exponents of the blanks, and of the labels.
#[inline(always)]
fn planes<'a>(
    state: &'a mut [f64],
    target: &Target,
    groups: &Range<usize>,
) -> [[&'a mut [Octet]; 2]; 2] {
    let (row, power) = state.split_at_mut(target.row());
    let [blank, label] = planes_mut(row.as_chunks_mut().0, target, groups);
    let [blank_power, label_power] = planes_mut(power.as_chunks_mut().0, target, groups);
    [[blank, blank_power], [label, label_power]]
}

#[inline(always)]
fn emit(sums: [Numbers; 2], [m, k]: &[(&Octet, &[Octet]); 2], g: usize) -> [Numbers; 2] {
    [sums[0].times(m.0, k.0), sums[1].times(&m.1[g], &k.1[g])]
}

#[inline(always)]
fn put(planes: &mut [[&mut [Octet]; 2]; 2], g: usize, values: [Numbers; 2]) {
    for ([m, k], value) in planes.iter_mut().zip(values) {
        (m[g], k[g]) = (value.m, value.k);
    }
}

/// Copies the groups of a state that are valid, and zeros elsewhere.
fn copy_state(from: &[f64], to: &mut [f64], target: &Target, groups: &Range<usize>) {
    let ((from, from_power), (to, to_power)) =
        (from.split_at(target.row()), to.split_at_mut(target.row()));
    copy_row(from, to, target, groups);
    copy_row(from_power, to_power, target, groups);
}

/// The emissions of a frame of a block: mantissas and exponents.
#[inline(always)]
fn frame_e<'a>(
    target: &Target,
    block: &Block,
    e: &'a [f64],
    t: usize,
    groups: &Range<usize>,
) -> [(&'a Octet, &'a [Octet]); 2] {
    let at = (t - block.frames.start) * 2 * target.stride();
    [at, at + target.stride()].map(|at| {
        let row = lanes(&e[at..]);
        (&row[target.width / LANES], &row[groups.clone()])
    })
}

struct Advance<'a> {
    side: Side,
    target: &'a Target,
    block: &'a Block,
    e: &'a [f64],
    state: &'a mut [f64],
    work: &'a mut Work,
    store: Option<&'a mut [f64]>,
}

impl Kernel for Advance<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self) {
        let Advance { side, target, block, e, state, work, store } = self;
        let len = state_len(target);
        let mut steps = Steps::new(store.unwrap_or(&mut work.rows), len);
        let frames = block.frames.len();
        for i in 0..frames {
            let t = side.nth(&block.frames, i);
            let groups = target.groups(t);
            let e = frame_e(target, block, e, t, &groups);
            let (from, to) = steps.pair();
            let from = if i == 0 { &*state } else { from };
            surround(to, target, &groups);
            let mut planes = planes(to, target, &groups);
            propagate(side, target, from, &groups, |g, sums| {
                put(&mut planes, g, emit(sums, &e, g));
            });
            steps.turn();
        }
        let last = side.nth(&block.frames, frames - 1);
        copy_state(steps.last, state, target, &target.groups(last));
    }
}

struct Pass<'a> {
    /// Where the passing direction comes from.
    side: Side,
    target: &'a Target,
    block: &'a Block,
    e: &'a [f64],
    state: &'a mut [f64],
    scale: f64,
    work: &'a mut Work,
    store: &'a mut [f64],
    totals: &'a mut [[f64; 2]],
}

impl Kernel for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self) {
        let Pass { side, target, block, e, state, scale, work, store, totals } = self;
        let (len, frames) = (state_len(target), block.frames.len());
        let mut steps = Steps::new(&mut work.rows, len);
        for i in 0..frames {
            let t = side.nth(&block.frames, i);
            let groups = target.groups(t);
            let e = frame_e(target, block, e, t, &groups);
            let stored = &mut store[(frames - 1 - i) * len..][..len];
            let stored = planes(stored, target, &groups);
            let (from, to) = steps.pair();
            let from = if i == 0 { &*state } else { from };
            surround(to, target, &groups);
            let planes = planes(to, target, &groups);
            let mut meet = Meet { stored, out: planes, scale, totals: [[0.0; LANES]; 2] };
            if i == 0 {
                let start = groups.start * LANES;
                let [blank, label] =
                    [start, target.width + start].map(|at| numbers(from, target, at));
                for g in 0..groups.len() {
                    meet.group(g, [blank(g), label(g)], &e);
                }
            } else {
                propagate(side, target, from, &groups, |g, sums| {
                    meet.group(g, sums, &e);
                });
            }
            let sums = meet.totals.map(|total| fold(total, Add::add));
            totals[t - block.frames.start] = sums;
            steps.turn();
        }
        let last = side.nth(&block.frames, frames - 1);
        if let Some(next) = side.after(last, target.frames) {
            step(side, target, steps.last, &target.groups(next), state);
        }
    }
}

/// Where a passing direction meets a stored row.
struct Meet<'a> {
    stored: [[&'a mut [Octet]; 2]; 2],
    out: [[&'a mut [Octet]; 2]; 2],
    scale: f64,
    totals: [Octet; 2],
}

impl Meet<'_> {
    #[inline(always)]
    fn group(&mut self, g: usize, sums: [Numbers; 2], e: &[(&Octet, &[Octet]); 2]) {
        for (([m, k], sum), total) in self.stored.iter_mut().zip(&sums).zip(&mut self.totals) {
            let product = Numbers::at(&m[g], &k[g]).times(&sum.m, &sum.k);
            for i in 0..LANES {
                m[g][i] = product.m[i] * power_of_two(product.k[i] - self.scale);
                total[i] += m[g][i];
            }
        }
        put(&mut self.out, g, emit(sums, e, g));
    }
}

/// One step without emissions, zeros around it.
#[inline(always)]
pub(super) fn step(
    side: Side,
    target: &Target,
    from: &[f64],
    groups: &Range<usize>,
    to: &mut [f64],
) {
    to.fill(0.0);
    let mut planes = planes(to, target, groups);
    propagate(side, target, from, groups, |g, sums| put(&mut planes, g, sums));
}

struct Cross<'a> {
    side: Side,
    target: &'a Target,
    over: &'a [f64],
    state: &'a mut [f64],
    work: &'a mut Work,
    scale: Option<f64>,
}

impl Kernel for Cross<'_> {
    type Output = Crossing;

    #[inline(always)]
    fn run<S: Isa>(self) -> Crossing {
        let Cross { side, target, over, state, work, scale } = self;
        let groups = target.groups(side.beyond_middle(target));
        let to = &mut work.rows[..state_len(target)];
        step(side, target, state, &groups, to);
        state.copy_from_slice(to);
        let state = &*state;
        let products = || {
            let starts = [groups.start * LANES, target.width + groups.start * LANES];
            starts.into_iter().flat_map(|from| {
                let [here, there] = [state, over].map(|s| numbers(s, target, from));
                (0..groups.len()).flat_map(move |g| {
                    let Numbers { m, k } = there(g);
                    let Numbers { m, k } = here(g).times(&m, &k);
                    (0..LANES).map(move |i| (m[i], k[i]))
                })
            })
        };
        let top = |max: f64, (m, k): (f64, f64)| if m > 0.0 { max.max(k) } else { max };
        let scale = scale.unwrap_or_else(|| products().fold(2.0 * DEAD, top));
        let total = products().map(|(m, k)| m * power_of_two(k - scale)).sum();
        Crossing::of(scale, total)
    }
}

impl Arithmetic for Wide {
    const FORM: Form = Form::Wide;

    fn state_len(target: &Target) -> usize {
        state_len(target)
    }

    fn blocks(side: Side, range: Range<usize>, _: &[Frame], blocks: &mut Vec<Block>) -> Result<()> {
        blocks::cut(side, &range, |_| 0.0, blocks)
    }

    fn store_len(target: &Target, frames: usize) -> usize {
        frames * state_len(target)
    }

    fn occupancies(target: &Target) -> [usize; 2] {
        [0, state_len(target)]
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
        dispatch(level, Advance { side, target, block, e, state, work, store });
        Ok(Kept::All)
    }

    fn cross(
        level: Level,
        (side, target): (Side, &Target),
        (over, _): (&[f64], bool),
        state: &mut [f64],
        work: &mut Work,
        scale: Option<f64>,
    ) -> Crossing {
        dispatch(level, Cross { side, target, over, state, work, scale })
    }

    fn pass(
        level: Level,
        (side, target): (Side, &Target),
        (block, e): (&Block, &[f64]),
        (state, scale): (&mut [f64], f64),
        work: &mut Work,
        (store, _): (&mut [f64], bool),
        totals: &mut [[f64; 2]],
    ) -> Result<bool> {
        dispatch(level, Pass { side, target, block, e, state, scale, work, store, totals });
        Ok(true)
    }
}

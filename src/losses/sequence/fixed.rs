//! The lattice in logarithms, as fixed-point numbers long enough for any sum of the inputs.
//!
//! Of two paths through logits of -1e30, each sum is right to 1e14 in `f64`, while what decides between the paths may be
//! a few units elsewhere. Here sums of inputs are exact to 2^-64, however far apart these lie, and so are differences of
//! sums. It is some hundred times slower than [`Linear`](super::linear::Linear), and only used where no path avoids the
//! inputs that the others leave out.

use super::blocks::{self, Block};
use super::frames::{Form, Frame};
use super::planes::Steps;
use super::sweep::{Arithmetic, Crossing, Kept, Work};
use super::target::Target;
use super::viterbi::{ADVANCE, BLANK_ADVANCE, SKIP, Scores};
use super::{LANES, Side};
use crate::error::Result;
use crate::simd::Level;
use crate::threads;
use std::array;
use std::cmp::Ordering;
use std::ops::Range;

/// Words for sums below 2^191, which is all that `f32` can make of 2^60 frames, and for any sums of `f64`.
pub(super) const SHORT: usize = 4;
pub(super) const LONG: usize = 18;
/// What sums of [`SHORT`] numbers must stay below.
pub(super) const SHORT_LIMIT: f64 = (1_u128 << 95) as f64 * (1_u128 << 95) as f64;

/// See the module; numbers have K words.
pub(super) struct Fixed<const K: usize>;

/// A logarithm in two's complement: K words from the lowest on, which is the fraction.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Number<const K: usize>([u64; K]);

impl<const K: usize> Number<K> {
    /// That of 1.
    const ZERO: Self = Number([0; K]);
    /// That of 0, below all others.
    const DEAD: Self = {
        let mut words = [0; K];
        words[K - 1] = 1 << 63;
        Number(words)
    };

    /// `x * 2^twos`, rounded to a multiple of 2^-64 towards 0.
    fn of(x: f64, twos: i32) -> Self {
        const FIELD: u64 = 52;
        if x == f64::NEG_INFINITY {
            return Self::DEAD;
        }
        let exponent = ((x.to_bits() >> FIELD) & 0x7ff) as i32;
        let fraction = x.to_bits() & ((1 << FIELD) - 1);
        // Subnormal numbers are far below the last place.
        let mantissa = if exponent == 0 { 0 } else { fraction | 1 << FIELD };
        let shift = exponent - 1023 - FIELD as i32 + 64 + twos;
        let mut words = [0; K];
        if shift < 0 {
            words[0] = mantissa.checked_shr(shift.unsigned_abs()).unwrap_or(0);
        } else {
            let (word, bits) = (shift as usize / 64, shift % 64);
            words[word] = mantissa << bits;
            if bits > 0 && word + 1 < K {
                words[word + 1] = mantissa >> (64 - bits);
            }
        }
        let number = Number(words);
        if x < 0.0 { Self::ZERO.minus(number) } else { number }
    }

    fn plus(self, other: Self) -> Self {
        let mut carry = false;
        Number(array::from_fn(|i| {
            let (sum, first) = self.0[i].overflowing_add(other.0[i]);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            carry = first | second;
            sum
        }))
    }

    fn minus(self, other: Self) -> Self {
        let mut borrow = false;
        Number(array::from_fn(|i| {
            let (difference, first) = self.0[i].overflowing_sub(other.0[i]);
            let (difference, second) = difference.overflowing_sub(u64::from(borrow));
            borrow = first | second;
            difference
        }))
    }

    fn is_negative(self) -> bool {
        self.0[K - 1] >> 63 == 1
    }

    /// The logarithm of a product.
    fn times(self, other: Self) -> Self {
        if self == Self::DEAD || other == Self::DEAD { Self::DEAD } else { self.plus(other) }
    }

    /// The nearest `f64`, all but.
    fn to_f64(self) -> f64 {
        const WORD: f64 = 18_446_744_073_709_551_616.0;
        if self == Self::DEAD {
            return f64::NEG_INFINITY;
        }
        let size = if self.is_negative() { Self::ZERO.minus(self) } else { self };
        let whole = size.0[1..].iter().rev().fold(0.0, |sum, &word| sum * WORD + word as f64);
        let size = whole + size.0[0] as f64 / WORD;
        if self.is_negative() { -size } else { size }
    }

    /// `exp(self - top)`, for a top that is not below.
    fn relative_to(self, top: Self) -> f64 {
        let gap = top.minus(self);
        if self == Self::DEAD || gap.0[2..].iter().any(|&word| word > 0) {
            return 0.0;
        }
        (-gap.to_f64()).exp()
    }

    /// The logarithm of a sum.
    fn sum(terms: impl Iterator<Item = Self> + Clone) -> Self {
        let top = terms.clone().max().unwrap_or(Self::DEAD);
        if top == Self::DEAD {
            return top;
        }
        let total: f64 = terms.map(|term| term.relative_to(top)).sum();
        top.plus(Self::of(total.ln(), 0))
    }
}

impl<const K: usize> Ord for Number<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        let top = |number: &Self| number.0[K - 1] as i64;
        let rest = self.0[..K - 1].iter().rev().cmp(other.0[..K - 1].iter().rev());
        top(self).cmp(&top(other)).then(rest)
    }
}

impl<const K: usize> PartialOrd for Number<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Number i of a row. Rows are made of the bits of `f64` because those of the other arithmetics are.
fn get<const K: usize>(row: &[f64], i: usize) -> Number<K> {
    let words = &row[i * K..][..K];
    Number(array::from_fn(|word| words[word].to_bits()))
}

fn put<const K: usize>(row: &mut [f64], i: usize, number: Number<K>) {
    row[i * K..][..K].copy_from_slice(&number.0.map(f64::from_bits));
}

/// What leads to a state: to stay in it, to advance from the one beside it, to skip a blank.
type Incoming<const K: usize> = [Number<K>; 3];

/// What leads to blank u, and to label u.
fn incoming<const K: usize>(
    side: Side,
    target: &Target,
    row: &[f64],
    u: usize,
) -> [Incoming<K>; 2] {
    let (width, skip) = (target.width, &target.skip);
    let blank = |u: usize| if u < width { get(row, u) } else { Number::DEAD };
    let label = |u: usize| if u < width { get(row, width + u) } else { Number::DEAD };
    let direct = |u: usize, allowed: f64| if allowed > 0.0 { label(u) } else { Number::DEAD };
    match side {
        Side::Start => {
            let before = u.wrapping_sub(1);
            [[blank(u), label(before), Number::DEAD], [label(u), blank(u), direct(before, skip[u])]]
        }
        Side::End => [
            [blank(u), label(u), Number::DEAD],
            [label(u), blank(u + 1), direct(u + 1, skip[u + 1])],
        ],
    }
}

/// The states in reach at a frame, one after another in a row: the blanks, then the labels.
fn reach(target: &Target, groups: &Range<usize>) -> Range<usize> {
    groups.start * LANES..(groups.end * LANES).min(target.width)
}

/// Makes a row of what leads to each state in reach; nothing reaches the others.
fn propagate<const K: usize>(
    side: Side,
    target: &Target,
    from: &[f64],
    to: &mut [f64],
    t: usize,
    each: impl Fn(usize, Incoming<K>) -> Number<K>,
) {
    (0..2 * target.width).for_each(|i| put(to, i, Number::<K>::DEAD));
    for u in reach(target, &target.groups(t)) {
        let [blank, label] = incoming(side, target, from, u);
        put(to, u, each(u, blank));
        put(to, target.width + u, each(target.width + u, label));
    }
}

/// The emissions of a frame of a block: those of the labels, and that of the blank.
struct Emissions<'a> {
    target: &'a Target,
    e: [&'a [f64]; 2],
}

impl<'a> Emissions<'a> {
    fn new(target: &'a Target, e: &'a [f64]) -> Self {
        let (high, low) = e.split_at(target.stride());
        Emissions { target, e: [high, low] }
    }

    fn of_block(target: &'a Target, block: &Block, e: &'a [f64], t: usize) -> Self {
        let len = Form::Exact.parts() * target.stride();
        Self::new(target, &e[(t - block.frames.start) * len..][..len])
    }

    /// That of element i of a row.
    fn at<const K: usize>(&self, i: usize) -> Number<K> {
        let width = self.target.width;
        let [high, low] = self.e.map(|e| e[if i < width { width } else { i - width }]);
        let high = Number::of(high, 1);
        if high == Number::DEAD { high } else { high.plus(Number::of(low, 1)) }
    }
}

impl<const K: usize> Arithmetic for Fixed<K> {
    const FORM: Form = Form::Exact;

    fn state_len(target: &Target) -> usize {
        2 * target.width * K
    }

    fn blocks(side: Side, range: Range<usize>, _: &[Frame], blocks: &mut Vec<Block>) -> Result<()> {
        blocks::cut(side, &range, |_| 0.0, blocks)
    }

    fn store_len(target: &Target, frames: usize) -> usize {
        frames * Self::state_len(target)
    }

    fn occupancies(target: &Target) -> [usize; 2] {
        [0, Self::state_len(target)]
    }

    fn start(target: &Target, state: &mut [f64], first: usize) {
        (0..2 * target.width).for_each(|i| put(state, i, Number::<K>::DEAD));
        put(state, first, Number::<K>::ZERO);
    }

    fn advance(
        _: Level,
        (side, target): (Side, &Target),
        (block, e): (&Block, &[f64]),
        state: &mut [f64],
        work: &mut Work,
        store: Option<&mut [f64]>,
    ) -> Result<Kept> {
        let mut steps = Steps::new(store.unwrap_or(&mut work.rows), Self::state_len(target));
        for i in 0..block.frames.len() {
            threads::check()?;
            let t = side.nth(&block.frames, i);
            let e = Emissions::of_block(target, block, e, t);
            let (from, to) = steps.pair();
            let from = if i == 0 { &*state } else { from };
            propagate::<K>(side, target, from, to, t, |i, incoming| {
                Number::sum(incoming.into_iter()).times(e.at(i))
            });
            steps.turn();
        }
        state.copy_from_slice(steps.last);
        Ok(Kept::All)
    }

    fn cross(
        _: Level,
        (side, target): (Side, &Target),
        (over, _): (&[f64], bool),
        state: &mut [f64],
        work: &mut Work,
        _: Option<f64>,
    ) -> Crossing {
        let next = &mut work.rows[..Self::state_len(target)];
        let sum = |_, incoming: Incoming<K>| Number::sum(incoming.into_iter());
        propagate(side, target, state, next, side.beyond_middle(target), sum);
        let products = (0..2 * target.width).map(|i| get::<K>(next, i).times(get(over, i)));
        let total = Number::sum(products);
        // Relative to the likelihood, so that products are occupancies.
        for i in 0..2 * target.width {
            let x = get::<K>(next, i);
            put(state, i, if x == Number::DEAD { x } else { x.minus(total) });
        }
        let possible = if total == Number::DEAD { 0.0 } else { 1.0 };
        Crossing { scale: 0.0, total: possible, log: total.to_f64() }
    }

    fn pass(
        _: Level,
        (side, target): (Side, &Target),
        (block, e): (&Block, &[f64]),
        (state, _): (&mut [f64], f64),
        work: &mut Work,
        (store, _): (&mut [f64], bool),
        totals: &mut [[f64; 2]],
    ) -> Result<bool> {
        let (len, frames, width) = (Self::state_len(target), block.frames.len(), target.width);
        let sum = |_, incoming: Incoming<K>| Number::sum(incoming.into_iter());
        let mut steps = Steps::new(&mut work.rows, len);
        for i in 0..frames {
            threads::check()?;
            let t = side.nth(&block.frames, i);
            let e = Emissions::of_block(target, block, e, t);
            let (from, to) = steps.pair();
            if i == 0 {
                to.copy_from_slice(state);
            } else {
                propagate(side, target, from, to, t, sum);
            }
            let stored = &mut store[(frames - 1 - i) * len..][..len];
            let total = &mut totals[t - block.frames.start];
            *total = [0.0; 2];
            // An occupancy takes a place before all numbers that are still to be read.
            for i in 0..2 * width {
                let coming = get::<K>(to, i);
                let occupancy = get::<K>(stored, i).times(coming).to_f64().exp();
                stored[i] = occupancy;
                total[i / width] += occupancy;
                put(to, i, coming.times(e.at(i)));
            }
            steps.turn();
        }
        let last = side.nth(&block.frames, frames - 1);
        if let Some(next) = side.after(last, target.frames) {
            propagate(side, target, steps.last, state, next, sum);
        }
        Ok(true)
    }
}

impl<const K: usize> Scores for Fixed<K> {
    const FORM: Form = Form::Exact;

    fn row_len(target: &Target) -> usize {
        <Self as Arithmetic>::state_len(target)
    }

    fn start(target: &Target, row: &mut [f64]) {
        <Self as Arithmetic>::start(target, row, 0);
    }

    fn step(
        _: Level,
        (target, t): (&Target, usize),
        e: &[f64],
        row: &[f64],
        next: &mut [f64],
        moves: Option<&mut [u8]>,
    ) {
        let e = Emissions::new(target, e);
        propagate::<K>(Side::Start, target, row, next, t, |i, [stay, advance, skip]| {
            stay.max(advance).max(skip).times(e.at(i))
        });
        let Some(moves) = moves else { return };
        for u in reach(target, &target.groups(t)) {
            let [[stay, advance, _], [own, blank, label]] =
                incoming::<K>(Side::Start, target, row, u);
            let move_on = if blank > own { ADVANCE } else { 0 };
            let label_move = if label > own.max(blank) { SKIP } else { move_on };
            moves[u] = label_move | if advance > stay { BLANK_ADVANCE } else { 0 };
        }
    }

    fn last(target: &Target, row: &[f64]) -> (bool, f64) {
        let blank = get::<K>(row, target.len);
        let label = target.len.checked_sub(1).map(|u| get(row, target.width + u));
        let at_label = label.is_some_and(|label| label >= blank);
        (at_label, label.filter(|_| at_label).unwrap_or(blank).to_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact_however_far_apart() {
        let number = |x: f64| Number::<LONG>::of(x, 0);
        let far = number(-1e300).plus(number(0.375)).plus(number(1e-9));
        let near = far.minus(number(-1e300));
        assert!((near.to_f64() - (0.375 + 1e-9)).abs() <= f64::EPSILON);
        for x in [0.0, 1.0, -1.0, 0.1, -1e-10, 1e10, -3.4e38, f64::MAX, -f64::MAX] {
            assert!((number(x).to_f64() - x).abs() <= 1e-19, "{x}");
        }
        assert_eq!(Number::<SHORT>::of(-3.0, 2).to_f64(), -12.0);
    }

    #[test]
    fn numbers_have_the_order_of_what_they_stand_for() {
        let sorted = [f64::NEG_INFINITY, -1e30, -2.5, -1e-15, 0.0, 1e-15, 0.7, 1.0, 1e40];
        let numbers = sorted.map(|x| Number::<SHORT>::of(x, 0));
        assert!(numbers.is_sorted_by(|a, b| a < b));
        let sum =
            Number::sum([0.25_f64, 0.5, 0.0].map(|p| Number::<SHORT>::of(p.ln(), 0)).into_iter());
        assert!((sum.to_f64().exp() - 0.75).abs() < 1e-15);
    }
}

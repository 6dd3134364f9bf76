//! The exponentials of a row, and how they are added up.
//!
//! The largest is left out, which is 1: it would swallow the digits of the others, and the loss of a sure model consists of
//! them.

use super::extremes::{STEP, last_step};
use super::is_near;
use crate::math::Real;
use crate::simd::{F64x8, GROUP, Isa};
use std::array;

/// A way to add up the exponentials of a row, and what it keeps of them while they are computed.
pub trait RowSum<T: Real> {
    /// Fills `exps` with what `exp` makes of the elements of `x`.
    fn fill<S: Isa>(x: &[T], max: T, exps: &mut [T], exp: impl Fn(T) -> T) -> Self;
}

/// Fills `exps` with exp(x - max), and returns what is kept of the sum.
#[inline(always)]
pub fn shifted_exps<S: Isa, T: Real, P: RowSum<T>>(x: &[T], max: T, least: T, exps: &mut [T]) -> P {
    if is_near(max, least) {
        P::fill::<S>(x, max, exps, |v| v.exp_near::<S>(max))
    } else if max.abs() < T::INFINITY {
        P::fill::<S>(x, max, exps, |v| v.exp_difference::<S>(max))
    } else {
        // 1 at the largest elements, and 0 below; NaN stays. A row of nothing but -infinity has zeros, which the frames of a
        // sequence keep: in other rows the sum is NaN then.
        let of_max = if max > T::ZERO { T::ONE } else { T::ZERO };
        P::fill::<S>(x, max, exps, |v| if v == max { of_max } else { T::ONE / (v - max) + T::ZERO })
    }
}

/// Nothing is kept: the sum is taken of the exponentials, exactly, once all are there. One largest element is left out.
#[derive(Clone, Copy)]
pub struct SumLater;

impl<T: Real> RowSum<T> for SumLater {
    #[inline(always)]
    fn fill<S: Isa>(x: &[T], _max: T, exps: &mut [T], exp: impl Fn(T) -> T) -> Self {
        fill(exps, x, exp);
        SumLater
    }
}

/// Fills `out`, as long as `x`, with what `f` makes of each element. The last elements, where they are no 16, are computed
/// together with those before, which are thus computed twice: one by one they would take as long as all others of a short
/// row.
#[inline(always)]
pub fn fill<T: Real>(out: &mut [T], x: &[T], f: impl Fn(T) -> T) {
    debug_assert_eq!(out.len(), x.len());
    let each = |out: &mut [T], x: &[T]| {
        for (out, &v) in out.iter_mut().zip(x) {
            *out = f(v);
        }
    };
    let mut whole = x.len();
    if let (Some(last), Some(last_out)) = (x.last_chunk::<STEP>(), out.last_chunk_mut::<STEP>()) {
        whole -= x.len() % STEP;
        if whole < x.len() {
            each(last_out, last);
        }
    }
    each(&mut out[..whole], &x[..whole]);
}

/// A sum in the type of the row, over at most [`STEPS`] steps at a time, in registers: the softmax takes two thirds of the
/// time that it takes with an exact sum. All elements that are the largest are left out, and counted.
#[derive(Clone, Copy)]
pub struct RunningSum<T> {
    /// The sums of all blocks of [`STEPS`] steps but the last.
    before: F64x8,
    /// The sums of the last block, one for each place of a step.
    others: [T; STEP],
    /// How many elements are the largest.
    largest: [T; STEP],
}

/// Steps whose sums are kept in the type of the row.
const STEPS: usize = 16;

impl<T: Real> RowSum<T> for RunningSum<T> {
    #[inline(always)]
    fn fill<S: Isa>(x: &[T], max: T, exps: &mut [T], exp: impl Fn(T) -> T) -> Self {
        let (whole, rest) = x.as_chunks::<STEP>();
        let blocks = whole.chunks(STEPS).zip(exps.as_chunks_mut::<STEP>().0.chunks_mut(STEPS));
        let mut sum = Self::NONE;
        for (block, (x, exps)) in blocks.enumerate() {
            if block > 0 {
                sum.before = S::add(&sum.before, &sum.of_block());
                sum.others = [T::ZERO; STEP];
            }
            for (x, exps) in x.iter().zip(exps) {
                *exps = sum.step(x, max, &exp, 0);
            }
        }
        if !rest.is_empty() {
            let from = STEP - rest.len();
            let e = sum.step(&last_step(x), max, &exp, from);
            exps[x.len() - rest.len()..].copy_from_slice(&e[from..]);
        }
        sum
    }
}

impl<T: Real> RunningSum<T> {
    /// Of no row.
    pub const NONE: Self =
        RunningSum { before: [0.0; GROUP], others: [T::ZERO; STEP], largest: [T::ZERO; STEP] };

    /// Returns the exponentials of a step, and adds up those from place `from` on.
    #[inline(always)]
    fn step(&mut self, x: &[T; STEP], max: T, exp: &impl Fn(T) -> T, from: usize) -> [T; STEP] {
        let mut e = [T::ZERO; STEP];
        for i in 0..STEP {
            e[i] = exp(x[i]);
            let [other, largest] = [self.others[i], self.largest[i]];
            let counted =
                if x[i] == max { [other, largest + T::ONE] } else { [other + e[i], largest] };
            [self.others[i], self.largest[i]] = if i < from { [other, largest] } else { counted };
        }
        e
    }

    #[inline(always)]
    fn of_block(&self) -> F64x8 {
        array::from_fn(|i| self.others[i].to_f64() + self.others[i + GROUP].to_f64())
    }

    /// The sums of `N` rows, a multiple of [`GROUP`], one largest element of each left out.
    #[inline(always)]
    pub fn totals<S: Isa, const N: usize>(rows: &[Self; N]) -> [f64; N] {
        let (mut others, mut largest) = ([[0.0; GROUP]; N], [[0.0; GROUP]; N]);
        for (i, row) in rows.iter().enumerate() {
            others[i] = S::add(&row.before, &row.of_block());
            largest[i] = array::from_fn(|i| (row.largest[i] + row.largest[i + GROUP]).to_f64());
        }
        let mut totals = [0.0; N];
        let rows = others.as_chunks().0.iter().zip(largest.as_chunks().0);
        for (totals, (others, largest)) in totals.as_chunks_mut::<GROUP>().0.iter_mut().zip(rows) {
            let (others, largest) = (S::row_sums(others), S::row_sums(largest));
            *totals = array::from_fn(|i| others[i] + (largest[i] - 1.0));
        }
        totals
    }
}

//! Softmax of a row, in the one form that every loss on logits uses.
//!
//! With m the largest logit of the row, e = exp(x - m): the first element at the maximum counts exactly 1, and what is
//! summed is `others`, the rest. Then log(sum exp) = m + log1p(others), p = e / (1 + others), and 1 - p of the maximum
//! is others / (1 + others): none of them cancels when one class has all the mass. Sums are in f64, in an order that is
//! a function of the row's length alone, so that [`super::GroupSoftmax`] gives the same bits for several rows.

use super::extremes::{FindExtremes, RowExtremes};
use super::sums::{SumLater, shifted_exps};
use crate::math::Real;
use crate::num::two_product;
use crate::simd::{self, Isa, Kernel};
use crate::sum::{BLOCK, BlockSum, sum_block_exactly};
use std::iter;

/// What a row's softmax comes from.
#[derive(Clone, Copy)]
pub struct Softmax<T> {
    /// The largest logit; NaN is passed over.
    pub max: T,
    /// Where it stands first.
    pub at: usize,
    /// The smallest logit; -infinity if any is not finite.
    pub least: T,
    /// The sum of exp(x - max), this one left out.
    pub others: f64,
}

impl<T: Real> Softmax<T> {
    /// Fills `exps` with exp(x - max).
    #[inline(always)]
    pub fn of<S: Isa>(x: &[T], exps: &mut [T]) -> Self {
        Self::tempered::<S>(x, 1.0, exps)
    }

    /// The softmax of x / `temperature`: fills `exps` with exp((x - max) / temperature). The logits are not divided: what
    /// would overflow there is 0 here.
    pub fn tempered<S: Isa>(x: &[T], temperature: f64, exps: &mut [T]) -> Self {
        simd::dispatch(S::LEVEL, Tempered { x, temperature, exps })
    }

    /// Whether all logits are finite and no further below the largest than [`Real::NEAR`].
    #[inline(always)]
    pub fn is_near(&self) -> bool {
        is_near(self.max, self.least)
    }

    /// log(sum exp(x)) - x, never negative.
    #[inline(always)]
    pub fn log_sum_minus<S: Isa>(&self, x: T) -> T {
        log_sum_minus::<S, T>(self.max, self.others, x)
    }

    /// max - x: 0 at a maximum that is infinite, and infinite for what is impossible.
    #[inline(always)]
    pub fn gap(&self, x: T) -> T {
        gap(self.max, x)
    }

    /// The diagonal of the second derivative of log(sum exp(x)), p (1 - p), times `scale`.
    #[inline(always)]
    pub fn curvature(&self, exps: &[T], out: &mut [T], scale: f64) {
        let inverse = T::from_f64(self.inverse());
        let scale_t = T::from_f64(scale);
        for (out, &e) in out.iter_mut().zip(exps) {
            let p = e * inverse;
            *out = p * (T::ONE - p) * scale_t;
        }
        if !T::fits(scale) {
            for (out, &e) in out.iter_mut().zip(exps) {
                let p = e * inverse;
                *out = T::from_f64((p * (T::ONE - p)).to_f64() * scale);
            }
        }
        if let Some(out) = out.get_mut(self.at) {
            let [p, rest] = self.largest();
            *out = T::from_f64(rest * p * scale);
        }
    }

    /// Adds p^2 times `scale`.
    #[inline(always)]
    pub fn add_squares(&self, exps: &[T], out: &mut [T], scale: f64) {
        let inverse = self.inverse();
        for (out, e) in out.iter_mut().zip(exps) {
            let p = e.to_f64() * inverse;
            *out = T::from_f64(out.to_f64() + p * scale * p);
        }
    }

    /// Turns exponentials into the gradient of sum(-t log p), `total` p - t with `total` = sum(t), times `scale`.
    #[inline(always)]
    pub fn pull(&self, t: &[T], total: f64, exps: &mut [T], scale: f64) {
        let (pull, scale) = (self.pull_of(total), T::from_f64(scale));
        for (e, &t) in exps.iter_mut().zip(t) {
            *e = pull.at(*e, t) * scale;
        }
        let at_max = exps.get_mut(self.at).zip(t.get(self.at));
        if let Some((e, &t)) = at_max.filter(|_| self.is_sure()) {
            *e = pull.at_max(t) * scale;
        }
    }

    /// What turns exponentials into that gradient.
    #[inline(always)]
    pub fn pull_of(&self, total: f64) -> Pull<T> {
        let (factor, low) = self.share_of(total);
        let [p, rest] = self.largest();
        let [p, rest, total] = [p, rest, total].map(T::from_f64);
        Pull { factor, low, p, rest, total }
    }

    /// Whether p of the maximum is more than half.
    #[inline(always)]
    pub fn is_sure(&self) -> bool {
        self.others < 1.0
    }

    /// `total` / (sum of exp(x - max)), and what that rounds off: a row of f64 has no digits to spare for it.
    #[inline(always)]
    fn share_of(&self, total: f64) -> (T, T) {
        let sum = 1.0 + self.others;
        let added = sum - 1.0;
        let lost = (1.0 - (sum - added)) + (self.others - added);
        let quotient = total / sum;
        let rest = ((-quotient).mul_add(sum, total) - quotient * lost) / sum;
        let factor = T::from_f64(quotient);
        let low = T::from_f64((quotient - factor.to_f64()) + rest);
        (factor, if low.abs() < T::INFINITY { low } else { T::ZERO })
    }

    /// 1 / (sum of exp(x - max)).
    #[inline(always)]
    pub fn inverse(&self) -> f64 {
        1.0 / (1.0 + self.others)
    }

    /// p and 1 - p of the largest logit.
    #[inline(always)]
    pub fn largest(&self) -> [f64; 2] {
        let p = self.inverse();
        [p, self.others * p]
    }

    /// 1 - p at a class whose exp(x - max) is `exp`.
    #[inline(always)]
    pub fn complement(&self, class: usize, exp: T) -> f64 {
        let rest = if class == self.at { self.others } else { 1.0 + self.others - exp.to_f64() };
        rest * self.inverse()
    }
}

/// Elements of a row whose extremes are found at once, at most, as places are counted in 32 bits.
const LONGEST: usize = 1 << 31;

/// [`Softmax::tempered`].
struct Tempered<'a, T> {
    x: &'a [T],
    temperature: f64,
    exps: &'a mut [T],
}

impl<T: Real> Kernel for Tempered<'_, T> {
    type Output = Softmax<T>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Self::Output {
        let Tempered { x, temperature, exps } = self;
        let (mut max, mut least, mut at) = (-T::INFINITY, T::INFINITY, 0);
        for (part, x) in x.chunks(LONGEST).enumerate() {
            let (mut highest, mut lowest, mut first) = ([max], [least], [0]);
            let mut found = RowExtremes { max: &mut highest, least: &mut lowest, at: &mut first };
            simd::dispatch(S::LEVEL, FindExtremes { rows: iter::once(x), found: &mut found });
            if highest[0] > max {
                (max, at) = (highest[0], part * LONGEST + first[0] as usize);
            }
            least = least.min(lowest[0]);
        }
        let mut others = BlockSum::new(x.len());
        for (block, (x, exps)) in x.chunks(BLOCK).zip(exps.chunks_mut(BLOCK)).enumerate() {
            if temperature == 1.0 {
                shifted_exps::<S, T, SumLater>(x, max, least, exps);
            } else {
                tempered_exps::<S, T>(x, max, temperature, exps);
            }
            others.add(sum_without::<S, T>(exps, at.wrapping_sub(block * BLOCK)));
        }
        Softmax { max, at, least, others: possible(max, others.total()) }
    }
}

/// [`Softmax::is_near`] of a row with these extremes.
#[inline(always)]
pub(super) fn is_near<T: Real>(max: T, least: T) -> bool {
    max - least <= T::NEAR
}

/// [`Softmax::gap`] of a row with this maximum.
#[inline(always)]
pub fn gap<T: Real>(max: T, x: T) -> T {
    let gap = if x == max { T::ZERO } else { max - x };
    if x == -T::INFINITY { T::INFINITY } else { gap }
}

/// [`Softmax::log_sum_minus`] of a row with this maximum and these others.
#[inline(always)]
pub fn log_sum_minus<S: Isa, T: Real>(max: T, others: f64, x: T) -> T {
    gap(max, x) + T::from_f64(others).log1p::<S>()
}

/// exp(x - max), 1 at a maximum that is infinite, too.
#[inline(always)]
pub(super) fn shifted_exp<S: Isa, T: Real>(x: T, max: T) -> T {
    let exp = x.exp_difference::<S>(max);
    if x == max { T::ONE } else { exp }
}

/// The gradient `total` p - t of a row.
#[derive(Clone, Copy, Default)]
pub struct Pull<T> {
    /// total / (sum of exp(x - max)), and what that rounds off.
    pub factor: T,
    pub low: T,
    /// p and 1 - p of the maximum.
    pub p: T,
    pub rest: T,
    pub total: T,
}

impl<T: Real> Pull<T> {
    /// At an element whose exp(x - max) is `exp`.
    #[inline(always)]
    pub fn at(&self, exp: T, t: T) -> T {
        (exp * self.factor - t) + exp * self.low
    }

    /// At the maximum, if its p is more than half: p (total - t) - (1 - p) t.
    #[inline(always)]
    pub fn at_max(&self, t: T) -> T {
        self.p * (self.total - t) - self.rest * t
    }
}

/// Fills `exps` with exp((x - max) / temperature).
#[inline(always)]
fn tempered_exps<S: Isa, T: Real>(x: &[T], max: T, temperature: f64, exps: &mut [T]) {
    for (e, &v) in exps.iter_mut().zip(x) {
        *e = tempered_exp::<S, T>(v, max, temperature);
    }
}

/// exp((x - max) / temperature), the rounding of the quotient put back.
#[inline(always)]
pub fn tempered_exp<S: Isa, T: Real>(x: T, max: T, temperature: f64) -> T {
    let [quotient, low] = quotient::<S>(x.to_f64(), max.to_f64(), temperature);
    let high = T::from_f64(quotient);
    let low = T::from_f64((quotient - high.to_f64()) + low);
    let low = if high == -T::INFINITY { T::ZERO } else { low };
    if x == max { T::ONE } else { high.exp_difference::<S>(-low) }
}

/// (x - max) / temperature and what rounding it lost.
#[inline(always)]
pub(super) fn quotient<S: Isa>(x: f64, max: f64, temperature: f64) -> [f64; 2] {
    let difference = x - max;
    let minuend = difference + max;
    let lost = (x - minuend) - (max + (difference - minuend));
    let quotient = difference / temperature;
    let [product, error] = two_product::<S>(quotient, temperature);
    [quotient, (((difference - product) - error) + lost) / temperature]
}

/// The sum of the others of a row with this maximum: a row of nothing but -infinity has no softmax.
#[inline(always)]
pub(super) fn possible<T: Real>(max: T, others: f64) -> f64 {
    if max == -T::INFINITY { f64::NAN } else { others }
}

/// The sum of a block that leaves out the 1 that stands `at`, if that is in it.
#[inline(always)]
fn sum_without<S: Isa, T: Real>(exps: &mut [T], at: usize) -> f64 {
    let Some(kept) = exps.get_mut(at).map(std::mem::take) else {
        return sum_block_exactly::<S, T>(exps);
    };
    let others = sum_block_exactly::<S, T>(exps);
    exps[at] = kept;
    others
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Baseline;

    #[test]
    fn infinities() {
        let inf = f64::INFINITY;
        let of = |x: &[f64]| Softmax::of::<Baseline>(x, &mut vec![0.0; x.len()]);
        assert_eq!(of(&[1.0, inf, -inf]).log_sum_minus::<Baseline>(inf), 0.0);
        assert_eq!(of(&[1.0, inf, -inf]).log_sum_minus::<Baseline>(1.0), inf);
        assert_eq!(of(&[1.0, -inf]).log_sum_minus::<Baseline>(-inf), inf);
        assert!(of(&[1.0, f64::NAN]).log_sum_minus::<Baseline>(1.0).is_nan());
        assert!(of(&[f64::NAN, 1.0]).log_sum_minus::<Baseline>(1.0).is_nan());
        assert!([f64::NAN, -f64::NAN, -inf].iter().all(|&x| of(&[x, x]).others.is_nan()));
        assert_eq!(of(&[inf, -inf, inf]).others, 1.0);
    }

    #[test]
    fn the_first_maximum_is_left_out() {
        for n in [1, 2, 127, 128, 129, 1024, 1025, 3000] {
            for at in [0, n / 2, n - 1] {
                let mut x = vec![-1.0_f64; n];
                x[at..].fill(2.0);
                let mut exps = vec![0.0; n];
                let softmax = Softmax::of::<Baseline>(&x, &mut exps);
                assert_eq!((softmax.max, softmax.at, exps[at]), (2.0, at, 1.0));
                let others = (-3.0_f64).exp() * at as f64 + (n - at - 1) as f64;
                assert!((softmax.others - others).abs() <= 1e-12 * others, "{n} {at}");
            }
        }
    }
}

//! Softmax of a row, in the one form that every loss on logits uses.
//!
//! With m the largest logit of the row, e = exp(x - m): the elements at the maximum count exactly 1, and what is summed
//! is `others`, the rest. Then log(sum exp) = m + log1p(others), p = e / (1 + others), and 1 - p of the maximum is
//! others / (1 + others): none of them cancels when one class has all the mass. Sums are in f64, in an order that is a
//! function of the row's length alone, so that both forms below, one row along its elements and several rows side by
//! side, give the same bits.

use crate::real::Real;
use crate::reduce::{BLOCK, sum_block, sum_block_exactly, sum_exactly, sum_pairwise};
use crate::simd::{Isa, SUM_LANES};
use smallvec::SmallVec;

/// What a row's softmax comes from.
#[derive(Clone, Copy)]
pub struct Softmax<T> {
    /// The largest logit.
    pub max: T,
    /// The sum of exp(x - max), the first maximum left out.
    pub others: f64,
}

impl<T: Real> Softmax<T> {
    /// Fills `exps` with exp(x - max), and 0 at every maximum.
    #[inline(always)]
    pub fn of<S: Isa>(x: &[T], exps: &mut [T]) -> Self {
        Self::summed::<S>(x, exps, sum_block::<S, T>)
    }

    /// The same by [`sum_block_exactly`].
    #[inline(always)]
    pub fn of_exactly<S: Isa>(x: &[T], exps: &mut [T]) -> Self {
        Self::summed::<S>(x, exps, sum_block_exactly::<S, T>)
    }

    #[inline(always)]
    fn summed<S: Isa>(x: &[T], exps: &mut [T], sum: impl Fn(&[T]) -> f64) -> Self {
        let max = max(x);
        let mut sums = SmallVec::<[f64; 32]>::new();
        let mut maxima = 0;
        for (x, exps) in x.chunks(BLOCK).zip(exps.chunks_mut(BLOCK)) {
            maxima += shifted_exps::<S, T>(x, max, exps);
            sums.push(sum(exps));
        }
        let rest = sum_pairwise(0..sums.len(), &|i| sums[i]);
        Softmax { max, others: rest + (f64::from(maxima) - 1.0) }
    }

    /// log(sum exp(x)) - x, never negative.
    #[inline(always)]
    pub fn log_sum_minus<S: Isa>(&self, x: T) -> T {
        self.gap(x) + T::from_f64(self.others).log1p::<S>()
    }

    /// max - x: 0 at a maximum that is infinite, and infinite for what is impossible.
    #[inline(always)]
    pub fn gap(&self, x: T) -> T {
        let gap = self.max - x;
        let gap = if x == self.max { T::ZERO } else { gap };
        if x == -T::INFINITY { T::INFINITY } else { gap }
    }

    /// The diagonal of the second derivative of log(sum exp(x)), p (1 - p), times `scale`.
    #[inline(always)]
    pub fn curvature(&self, x: &[T], exps: &[T], out: &mut [T], scale: f64) {
        let inverse = T::from_f64(self.inverse());
        let at_max = T::from_f64(self.complement(self.max, T::ZERO) * self.inverse());
        let scale = T::from_f64(scale);
        for ((out, &x), &e) in out.iter_mut().zip(x).zip(exps) {
            let p = e * inverse;
            *out = if x == self.max { at_max } else { p * (T::ONE - p) } * scale;
        }
    }

    /// Turns exponentials into the gradient of sum(-t log p), `total` p - t with `total` = sum(t), times `scale`.
    #[inline(always)]
    pub fn pull(&self, x: &[T], t: &[T], total: f64, exps: &mut [T], scale: f64) {
        // At the maximum, where p is more than half, it is p (total - t) - (1 - p) t.
        let sure = self.others < 1.0;
        let (p, rest) = (self.inverse(), self.complement(self.max, T::ZERO));
        let (factor, low) = self.share_of(total);
        let [p, rest, total, scale] = [p, rest, total, scale].map(T::from_f64);
        for ((e, &x), &t) in exps.iter_mut().zip(x).zip(t) {
            let at_max = if sure { p * (total - t) - rest * t } else { (factor - t) + low };
            let elsewhere = (*e * factor - t) + *e * low;
            *e = if x == self.max { at_max } else { elsewhere } * scale;
        }
    }

    /// `total` / (sum of exp(x - max)), and what that rounds off: a row of f64 has no digits to spare for it.
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

    /// 1 - p at a class whose exp(x - max) is `exp`, or at the maximum.
    #[inline(always)]
    pub fn complement(&self, x: T, exp: T) -> f64 {
        let rest = if x == self.max { self.others } else { 1.0 + self.others - exp.to_f64() };
        rest * self.inverse()
    }
}

/// The softmax of x, the sum of t, and what passes through the one: the first and second derivative of
/// `sum(-t log p)`, times `scale`.
#[inline(always)]
pub fn through_softmax<S: Isa, T: Real>(
    x: &[T],
    t: &[T],
    scale: f64,
    mut grad: Option<&mut [T]>,
    hess: Option<&mut [T]>,
    scratch: &mut [T],
) -> (Softmax<T>, f64) {
    let exps = grad.as_deref_mut().unwrap_or(scratch);
    let softmax = Softmax::of_exactly::<S>(x, exps);
    let total = sum_exactly::<S, T>(t);
    if let Some(hess) = hess {
        softmax.curvature(x, exps, hess, total * scale);
    }
    if let Some(grad) = grad {
        softmax.pull(x, t, total, grad, scale);
    }
    (softmax, total)
}

/// `exp` of [`Softmax::of`], with the 1 at a maximum that is left out there.
#[inline(always)]
pub fn exp_at<T: Real>(x: T, max: T, exp: T) -> T {
    if x == max { T::ONE } else { exp }
}

/// The largest element, in the order of [`Real::key`]. Integers, unlike floats, have a maximum that vectorises.
#[inline(always)]
pub fn max<T: Real>(x: &[T]) -> T {
    let mut key = (-T::INFINITY).key();
    for v in x {
        key = key.max(v.key());
    }
    T::from_key(key)
}

#[inline(always)]
fn shifted_exps<S: Isa, T: Real>(x: &[T], max: T, exps: &mut [T]) -> u32 {
    for (e, &v) in exps.iter_mut().zip(x) {
        let exp = v.exp_difference::<S>(max);
        *e = if v == max { T::ZERO } else { exp };
    }
    let mut maxima = 0;
    for &v in x {
        // A checked addition would keep the loop from being vectorised; there are fewer elements than that.
        maxima = u32::wrapping_add(maxima, u32::from(v == max));
    }
    maxima
}

/// Rows that are worked on side by side.
pub const LANES: usize = 32;

/// The softmax of [`LANES`] rows side by side: element c of row l stands at `c * LANES + l`.
pub struct LaneSoftmax<T> {
    /// The largest logits.
    pub max: [T; LANES],
    /// The sums of [`Softmax::others`].
    pub others: [f64; LANES],
}

impl<T: Real> LaneSoftmax<T> {
    /// As [`Softmax::of`], in place.
    #[inline(always)]
    pub fn of<S: Isa>(x: &[T], exps: &mut [T]) -> Self {
        let (rows, _) = x.as_chunks::<LANES>();
        let mut keys = [(-T::INFINITY).key(); LANES];
        for row in rows {
            for l in 0..LANES {
                keys[l] = keys[l].max(row[l].key());
            }
        }
        let max = keys.map(T::from_key);
        let mut sums = SmallVec::<[[f64; LANES]; 1]>::new();
        let mut maxima = [T::ZERO; LANES];
        for (x, exps) in x.chunks(BLOCK * LANES).zip(exps.chunks_mut(BLOCK * LANES)) {
            sums.push(exp_and_sum::<S, T>(x, &max, exps, &mut maxima));
        }
        let others = std::array::from_fn(|l| {
            let rest = sum_pairwise(0..sums.len(), &|i| sums[i][l]);
            rest + (maxima[l].to_f64() - 1.0)
        });
        LaneSoftmax { max, others }
    }

    /// [`Softmax::log_sum_minus`] for an element of each row.
    #[inline(always)]
    pub fn log_sum_minus<S: Isa>(&self, x: &[T; LANES]) -> [T; LANES] {
        let mut out = [T::ZERO; LANES];
        for l in 0..LANES {
            out[l] = self.lane(l).log_sum_minus::<S>(x[l]);
        }
        out
    }

    /// Turns exponentials into probabilities times `scale`.
    #[inline(always)]
    pub fn scale_exps(&self, x: &[T], exps: &mut [T], scale: &[f64]) {
        let factor: [T; LANES] =
            std::array::from_fn(|l| T::from_f64(self.lane(l).inverse().weighted(scale[l])));
        let ((x, _), (exps, _)) = (x.as_chunks::<LANES>(), exps.as_chunks_mut::<LANES>());
        for (x, exps) in x.iter().zip(exps) {
            for l in 0..LANES {
                exps[l] = exp_at(x[l], self.max[l], exps[l]).weighted(factor[l]);
            }
        }
    }

    /// [`Softmax::curvature`] for each row.
    #[inline(always)]
    pub fn curvature(&self, x: &[T], exps: &[T], out: &mut [T], scale: &[f64]) {
        for l in 0..LANES {
            let softmax = self.lane(l);
            let inverse = T::from_f64(softmax.inverse());
            let at_max = T::from_f64(softmax.complement(softmax.max, T::ZERO) * softmax.inverse());
            let scale = T::from_f64(scale[l]);
            for at in (l..x.len()).step_by(LANES) {
                let p = exps[at] * inverse;
                let curvature = if x[at] == softmax.max { at_max } else { p * (T::ONE - p) };
                out[at] = curvature.weighted(scale);
            }
        }
    }

    /// The softmax of one row.
    #[inline(always)]
    pub fn lane(&self, l: usize) -> Softmax<T> {
        Softmax { max: self.max[l], others: self.others[l] }
    }
}

/// One block of [`sum_block`] for every lane: the same elements in the same order.
#[inline(always)]
fn exp_and_sum<S: Isa, T: Real>(
    x: &[T],
    max: &[T; LANES],
    exps: &mut [T],
    maxima: &mut [T; LANES],
) -> [f64; LANES] {
    for (x, exps) in x.as_chunks().0.iter().zip(exps.as_chunks_mut().0) {
        exp_lanes::<S, T>(x, max, exps);
        for l in 0..LANES {
            maxima[l] += if x[l] == max[l] { T::ONE } else { T::ZERO };
        }
    }
    let chunks = exps.chunks_exact(SUM_LANES * LANES);
    let mut rest = [0.0; LANES];
    for exps in chunks.remainder().as_chunks::<LANES>().0 {
        add_to(&mut rest, exps);
    }
    if chunks.len() == 0 {
        return rest;
    }
    // Class c goes to sum c mod SUM_LANES.
    let mut sums = [[0.0; LANES]; SUM_LANES];
    for exps in chunks {
        add_to(sums.as_flattened_mut(), exps);
    }
    let mut half = SUM_LANES / 2;
    while half > 0 {
        let (low, high) = sums.as_flattened_mut()[..2 * half * LANES].split_at_mut(half * LANES);
        add_to(low, high);
        half /= 2;
    }
    add_to(&mut sums[0], &rest);
    sums[0]
}

#[inline(always)]
fn exp_lanes<S: Isa, T: Real>(x: &[T; LANES], max: &[T; LANES], exps: &mut [T; LANES]) {
    for l in 0..LANES {
        let exp = x[l].exp_difference::<S>(max[l]);
        exps[l] = if x[l] == max[l] { T::ZERO } else { exp };
    }
}

#[inline(always)]
fn add_to<T: Real>(sums: &mut [f64], x: &[T]) {
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum += x.to_f64();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Baseline;

    #[test]
    fn rows_and_lanes_agree_bit_for_bit() {
        for n in [1, 2, 10, 31, 32, 33, 100, 1023, 1025, 3000] {
            let x: Vec<f32> = (0..n * LANES).map(|i| ((i * 7919) % 997) as f32 * 0.03).collect();
            let mut exps = vec![0.0; x.len()];
            let lanes = LaneSoftmax::of::<Baseline>(&x, &mut exps);
            for l in 0..LANES {
                let row: Vec<f32> = (0..n).map(|c| x[c * LANES + l]).collect();
                let mut row_exps = vec![0.0; n];
                let softmax = Softmax::of::<Baseline>(&row, &mut row_exps);
                assert_eq!(softmax.max, lanes.max[l]);
                assert_eq!(softmax.others.to_bits(), lanes.others[l].to_bits(), "{n} classes");
                assert!((0..n).all(|c| row_exps[c] == exps[c * LANES + l]));
            }
        }
    }

    #[test]
    fn infinities() {
        let inf = f64::INFINITY;
        let of = |x: &[f64]| Softmax::of::<Baseline>(x, &mut vec![0.0; x.len()]);
        assert_eq!(of(&[1.0, inf, -inf]).log_sum_minus::<Baseline>(inf), 0.0);
        assert_eq!(of(&[1.0, inf, -inf]).log_sum_minus::<Baseline>(1.0), inf);
        assert_eq!(of(&[1.0, -inf]).log_sum_minus::<Baseline>(-inf), inf);
        assert!(of(&[1.0, f64::NAN]).log_sum_minus::<Baseline>(1.0).is_nan());
        assert!(of(&[f64::NAN, 1.0]).log_sum_minus::<Baseline>(1.0).is_nan());
    }
}

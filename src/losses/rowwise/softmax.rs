//! Softmax of a row, in the one form that every loss on logits uses.
//!
//! With m the largest logit of the row, e = exp(x - m): the first element at the maximum counts exactly 1, and what is
//! summed is `others`, the rest. Then log(sum exp) = m + log1p(others), p = e / (1 + others), and 1 - p of the maximum
//! is others / (1 + others): none of them cancels when one class has all the mass. Sums are in f64, in an order that is
//! a function of the row's length alone, so that all forms below, one row, several rows step by step and several rows
//! side by side, give the same bits.

use crate::real::Real;
use crate::reduce::{BLOCK, sum_block_exactly, sum_exactly, sum_pairwise};
use crate::simd::{Isa, SUM_LANES};
use crate::view::DType;
use smallvec::SmallVec;

/// What a row's softmax comes from.
#[derive(Clone, Copy)]
pub struct Softmax<T> {
    /// The largest logit.
    pub max: T,
    /// Where it stands first.
    pub at: usize,
    /// The sum of exp(x - max), this one left out.
    pub others: f64,
}

impl<T: Real> Softmax<T> {
    /// Fills `exps` with exp(x - max).
    #[inline(always)]
    pub fn of<S: Isa>(x: &[T], exps: &mut [T]) -> Self {
        let Extremes { at, near } = Extremes::of(x);
        let max = x.get(at).copied().unwrap_or(-T::INFINITY);
        let mut sums = SmallVec::<[f64; 32]>::new();
        for (block, (x, exps)) in x.chunks(BLOCK).zip(exps.chunks_mut(BLOCK)).enumerate() {
            shifted_exps::<S, T>(x, max, near, exps);
            sums.push(sum_without::<S, T>(exps, at.wrapping_sub(block * BLOCK)));
        }
        Softmax { max, at, others: sum_pairwise(0..sums.len(), &|i| sums[i]) }
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
    pub fn curvature(&self, exps: &[T], out: &mut [T], scale: f64) {
        let inverse = T::from_f64(self.inverse());
        let scale_t = T::from_f64(scale);
        for (out, &e) in out.iter_mut().zip(exps) {
            let p = e * inverse;
            *out = p * (T::ONE - p) * scale_t;
        }
        if let Some(out) = out.get_mut(self.at) {
            *out = T::from_f64(self.others * self.inverse() * self.inverse() * scale);
        }
    }

    /// Turns exponentials into the gradient of sum(-t log p), `total` p - t with `total` = sum(t), times `scale`.
    #[inline(always)]
    pub fn pull(&self, t: &[T], total: f64, exps: &mut [T], scale: f64) {
        let (factor, low) = self.share_of(total);
        let scale_t = T::from_f64(scale);
        for (e, &t) in exps.iter_mut().zip(t) {
            *e = ((*e * factor - t) + *e * low) * scale_t;
        }
        // At the maximum, where p is more than half, it is p (total - t) - (1 - p) t.
        let at_max = exps.get_mut(self.at).zip(t.get(self.at));
        if let Some((e, &t)) = at_max.filter(|_| self.others < 1.0) {
            let p = self.inverse();
            let [p, rest, total] = [p, self.others * p, total].map(T::from_f64);
            *e = (p * (total - t) - rest * t) * scale_t;
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

    /// 1 - p at a class whose exp(x - max) is `exp`.
    #[inline(always)]
    pub fn complement(&self, class: usize, exp: T) -> f64 {
        let rest = if class == self.at { self.others } else { 1.0 + self.others - exp.to_f64() };
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
    let softmax = Softmax::of::<S>(x, exps);
    let total = sum_exactly::<S, T>(t);
    if let Some(hess) = hess {
        softmax.curvature(exps, hess, total * scale);
    }
    if let Some(grad) = grad {
        softmax.pull(t, total, grad, scale);
    }
    (softmax, total)
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

/// Elements that are searched at once.
const SEARCH: usize = 128;

/// What is known of a row before its exponentials are.
struct Extremes {
    /// Where the largest element, in the order of [`Real::key`], stands first.
    at: usize,
    /// Whether all elements are finite and not further below it than [`Real::NEAR`].
    near: bool,
}

impl Extremes {
    #[inline(always)]
    fn of<T: Real>(x: &[T]) -> Self {
        let (mut most, mut least, mut rest) = ((-T::INFINITY).key(), T::INFINITY.key(), x);
        for (block, of_block) in x.chunks(BLOCK).enumerate() {
            let (mut high, mut low) = ((-T::INFINITY).key(), T::INFINITY.key());
            for v in of_block {
                high = high.max(v.key());
                low = low.min(v.key());
            }
            if high > most {
                (most, rest) = (high, &x[block * BLOCK..]);
            }
            least = least.min(low);
        }
        let is_most = |v: &T| v.key() == most;
        while rest.len() > SEARCH && !rest[..SEARCH].iter().fold(false, |any, v| any | is_most(v)) {
            rest = &rest[SEARCH..];
        }
        let mut first = u32::MAX;
        for (i, v) in (0..).zip(rest.iter().take(SEARCH)) {
            first = first.min(if is_most(v) { i } else { u32::MAX });
        }
        // Nothing is found in a row of NaN below -infinity.
        let at = if first == u32::MAX { 0 } else { x.len() - rest.len() + first as usize };
        let [most, least] = [most, least].map(T::from_key);
        Extremes { at, near: most - least <= T::NEAR }
    }
}

#[inline(always)]
fn shifted_exps<S: Isa, T: Real>(x: &[T], max: T, near: bool, exps: &mut [T]) {
    let exps = exps.iter_mut().zip(x);
    if near {
        exps.for_each(|(e, &v)| *e = v.exp_near::<S>(max));
    } else if max.abs() < T::INFINITY {
        exps.for_each(|(e, &v)| *e = v.exp_difference::<S>(max));
    } else {
        exps.for_each(|(e, &v)| *e = if v == max { T::ONE } else { v.exp_difference::<S>(max) });
    }
}

/// The sum of a block that leaves out the 1 that stands `at`, if that is in it.
#[inline(always)]
fn sum_without<S: Isa, T: Real>(exps: &mut [T], at: usize) -> f64 {
    let Some(kept) = exps.get_mut(at).map(std::mem::take) else {
        return sum_block_exactly::<S, T>(exps);
    };
    let others = sum_block_exactly::<S, T>(exps);
    exps[at] = kept;
    // NaN is not to be left out.
    others + (kept - T::ONE).to_f64()
}

/// Rows that are worked on together, at most.
pub const LANES: usize = 32;

/// Where the elements of rows that are worked on together stand.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Row after row, each of this many elements.
    Rows(usize),
    /// Side by side: first element 0 of [`LANES`] rows.
    Lanes,
}

impl Order {
    /// The place of an element.
    #[inline(always)]
    pub fn at(self, row: usize, class: usize) -> usize {
        match self {
            Order::Rows(classes) => row * classes + class,
            Order::Lanes => class * LANES + row,
        }
    }
}

/// The softmax of up to [`LANES`] rows, one step for all of them after the other: no step of one row has to wait for
/// the one before, and what is one number for each row is computed in registers.
pub struct GroupSoftmax<T> {
    order: Order,
    rows: usize,
    /// The largest logits.
    pub max: [T; LANES],
    /// Where they stand first.
    pub at: [u32; LANES],
    /// The sums of [`Softmax::others`].
    pub others: [f64; LANES],
}

impl<T: Real> GroupSoftmax<T> {
    /// As [`Softmax::of`], for the first `rows` rows; those side by side must be [`LANES`].
    #[inline(always)]
    pub fn of<S: Isa>(order: Order, rows: usize, x: &[T], exps: &mut [T]) -> Self {
        let (mut max, mut at) = ([-T::INFINITY; LANES], [0; LANES]);
        match order {
            Order::Rows(classes) => {
                let mut near = [false; LANES];
                for (l, x) in x.chunks_exact(classes).enumerate() {
                    let extremes = Extremes::of(x);
                    (at[l], near[l]) = (extremes.at as u32, extremes.near);
                    max[l] = x[extremes.at];
                }
                let rows = x.chunks_exact(classes).zip(exps.chunks_exact_mut(classes));
                for (l, (x, exps)) in rows.enumerate() {
                    shifted_exps::<S, T>(x, max[l], near[l], exps);
                }
            }
            Order::Lanes => {
                let (x, _) = x.as_chunks::<LANES>();
                let mut keys = max.map(T::key);
                for (c, row) in (0..).zip(x) {
                    for l in 0..LANES {
                        let key = row[l].key();
                        at[l] = if key > keys[l] { c } else { at[l] };
                        keys[l] = keys[l].max(key);
                    }
                }
                max = keys.map(T::from_key);
                for (x, exps) in x.iter().zip(exps.as_chunks_mut::<LANES>().0) {
                    exp_lanes::<S, T>(x, &max, exps);
                }
            }
        }
        let mut ones = [T::ONE; LANES];
        for l in 0..rows {
            ones[l] = std::mem::take(&mut exps[order.at(l, at[l] as usize)]);
        }
        let mut others = match order {
            Order::Rows(classes) => {
                let mut others = [0.0; LANES];
                for (others, exps) in others.iter_mut().zip(exps.chunks_exact(classes)) {
                    *others = sum_exactly::<S, T>(exps);
                }
                others
            }
            Order::Lanes => {
                let mut sums = SmallVec::<[[f64; LANES]; 1]>::new();
                for exps in exps.chunks(BLOCK * LANES) {
                    sums.push(match T::DTYPE {
                        DType::F32 => sum_lanes::<T, false>(exps),
                        _ => sum_lanes::<T, true>(exps),
                    });
                }
                match &sums[..] {
                    [sums] => *sums,
                    sums => std::array::from_fn(|l| sum_pairwise(0..sums.len(), &|i| sums[i][l])),
                }
            }
        };
        for l in 0..rows {
            exps[order.at(l, at[l] as usize)] = ones[l];
        }
        for l in 0..LANES {
            // NaN is not to be left out.
            others[l] += (ones[l] - T::ONE).to_f64();
        }
        GroupSoftmax { order, rows, max, at, others }
    }

    /// [`Softmax::log_sum_minus`] for an element of each row.
    #[inline(always)]
    pub fn log_sum_minus<S: Isa>(&self, x: &[T; LANES]) -> [T; LANES] {
        let mut out = [T::ZERO; LANES];
        for l in 0..LANES {
            out[l] = self.row(l).log_sum_minus::<S>(x[l]);
        }
        out
    }

    /// Turns exponentials into probabilities times `scale`.
    #[inline(always)]
    pub fn scale_exps(&self, exps: &mut [T], scale: &[f64]) {
        let mut factor = [T::ZERO; LANES];
        for l in 0..LANES {
            factor[l] = T::from_f64(self.row(l).inverse().weighted(scale[l]));
        }
        match self.order {
            Order::Rows(classes) => {
                for (exps, &factor) in exps.chunks_exact_mut(classes).zip(&factor) {
                    for e in exps {
                        *e = e.weighted(factor);
                    }
                }
            }
            Order::Lanes => {
                // A loop over `LANES` alone would be unrolled, and the one around it turned into gathers.
                let factors = [factor; 4];
                for exps in exps.chunks_mut(factors.as_flattened().len()) {
                    for (e, &factor) in exps.iter_mut().zip(factors.as_flattened()) {
                        *e = e.weighted(factor);
                    }
                }
            }
        }
    }

    /// [`Softmax::curvature`] for each row.
    #[inline(always)]
    pub fn curvature(&self, exps: &[T], out: &mut [T], scale: &[f64]) {
        let classes = match self.order {
            Order::Rows(classes) => classes,
            Order::Lanes => exps.len() / LANES,
        };
        for l in 0..self.rows {
            let softmax = self.row(l);
            let inverse = T::from_f64(softmax.inverse());
            let scale_t = T::from_f64(scale[l]);
            for at in (0..classes).map(|c| self.order.at(l, c)) {
                let p = exps[at] * inverse;
                let curvature = p * (T::ONE - p) * scale_t;
                out[at] = if scale[l] == 0.0 { T::ZERO } else { curvature };
            }
            let at_max = softmax.others * softmax.inverse() * softmax.inverse();
            out[self.order.at(l, softmax.at)] = T::from_f64(at_max.weighted(scale[l]));
        }
    }

    /// The softmax of one row.
    #[inline(always)]
    pub fn row(&self, l: usize) -> Softmax<T> {
        Softmax { max: self.max[l], at: self.at[l] as usize, others: self.others[l] }
    }
}

/// One block of [`sum_block_exactly`] for every lane: the same elements in the same order. `EXACT` puts back what additions
/// round off; a sum of f32 has room for it.
#[inline(always)]
fn sum_lanes<T: Real, const EXACT: bool>(exps: &[T]) -> [f64; LANES] {
    let chunks = exps.chunks_exact(SUM_LANES * LANES);
    let (rest, _) = chunks.remainder().as_chunks::<LANES>();
    let (mut sum, mut lost) = ([0.0; LANES], [0.0; LANES]);
    if chunks.len() > 0 {
        // Class c goes to sum c mod SUM_LANES.
        let mut sums = [[0.0; LANES]; SUM_LANES];
        let mut losses = sums;
        for exps in chunks {
            add_to::<T, EXACT>(sums.as_flattened_mut(), exps, losses.as_flattened_mut());
        }
        if EXACT {
            fold_halves::<false>(&mut losses, &mut [0.0; LANES]);
            lost = losses[0];
        }
        fold_halves::<EXACT>(&mut sums, &mut lost);
        sum = sums[0];
    }
    if EXACT {
        for exps in rest {
            add_to::<T, true>(&mut sum, exps, &mut lost);
        }
        // Infinities leave a NaN there.
        return std::array::from_fn(|l| if lost[l].is_nan() { sum[l] } else { sum[l] + lost[l] });
    }
    let mut of_rest = [0.0; LANES];
    for exps in rest {
        add_to::<T, false>(&mut of_rest, exps, &mut lost);
    }
    std::array::from_fn(|l| sum[l] + of_rest[l])
}

#[inline(always)]
fn fold_halves<const EXACT: bool>(sums: &mut [[f64; LANES]; SUM_LANES], lost: &mut [f64; LANES]) {
    let mut half = SUM_LANES / 2;
    while half > 0 {
        let (low, high) = sums[..2 * half].split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            add_to::<f64, EXACT>(low, high, lost);
        }
        half /= 2;
    }
}

#[inline(always)]
fn exp_lanes<S: Isa, T: Real>(x: &[T; LANES], max: &[T; LANES], exps: &mut [T; LANES]) {
    for l in 0..LANES {
        let exp = x[l].exp_difference::<S>(max[l]);
        exps[l] = if x[l] == max[l] { T::ONE } else { exp };
    }
}

/// Adds numbers to sums and, if `EXACT`, what that rounds off to `lost`.
#[inline(always)]
fn add_to<T: Real, const EXACT: bool>(sums: &mut [f64], x: &[T], lost: &mut [f64]) {
    for ((sum, x), lost) in sums.iter_mut().zip(x).zip(lost) {
        let x = x.to_f64();
        let new = *sum + x;
        if EXACT {
            let added = new - *sum;
            *lost += (*sum - (new - added)) + (x - added);
        }
        *sum = new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Baseline;

    #[test]
    fn all_forms_agree_bit_for_bit() {
        all_forms_agree::<f32>();
        all_forms_agree::<f64>();
    }

    fn all_forms_agree<T: Real>() {
        for n in [1, 2, 10, 31, 32, 33, 100, 1023, 1025, 3000] {
            let x = |i: usize| T::from_f64(((i * 7919) % 997) as f64 * 0.03);
            let lanes: Vec<T> = (0..n * LANES).map(x).collect();
            let rows: Vec<T> =
                (0..n * LANES).map(|i| lanes[Order::Lanes.at(i / n, i % n)]).collect();
            for (order, x) in [(Order::Lanes, &lanes), (Order::Rows(n), &rows)] {
                let mut exps = vec![T::ZERO; x.len()];
                let group = GroupSoftmax::of::<Baseline>(order, LANES, x, &mut exps);
                for (l, row) in rows.chunks_exact(n).enumerate() {
                    let mut row_exps = vec![T::ZERO; n];
                    let softmax = Softmax::of::<Baseline>(row, &mut row_exps);
                    assert!(softmax.max == group.max[l] && softmax.at == group.at[l] as usize);
                    assert_eq!(softmax.others.to_bits(), group.others[l].to_bits(), "{n} classes");
                    assert!((0..n).all(|c| row_exps[c] == exps[order.at(l, c)]));
                }
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
        assert!([f64::NAN, -f64::NAN].iter().all(|&x| of(&[x]).others.is_nan()));
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

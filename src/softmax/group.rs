//! The softmax of several rows together: row after row, side by side, or wherever the frames of a sequence stand.

use crate::drive::row_kernel::{LANES, Placement};
use crate::math::Real;
use crate::num::DType;
use crate::simd::{self, Isa, Kernel, SUM_LANES};
use crate::softmax::extremes::{FindExtremes, RowExtremes};
use crate::softmax::sums::{RowSum, RunningSum, SumLater, shifted_exps};
use crate::softmax::{Softmax, log_sum_minus, possible, shifted_exp};
use crate::sum::{BLOCK, PairwiseSum, add_each, fold_lanes, sum_exactly};

/// The softmax of up to [`LANES`] rows, one step for all of them after the other: no step of one row has to wait for
/// the one before, and what is one number for each row is computed in registers.
pub struct GroupSoftmax<T> {
    pub order: Placement,
    rows: usize,
    /// The largest logits; NaN is passed over.
    pub max: [T; LANES],
    /// Where they stand first.
    pub at: [u32; LANES],
    /// The sums of [`Softmax::others`].
    pub others: [f64; LANES],
    /// The smallest logits; -infinity if any is not finite, and of rows side by side, where nobody looks for them.
    pub least: [T; LANES],
}

impl<T: Real> GroupSoftmax<T> {
    /// As [`Softmax::of`], for the first `rows` rows; those side by side must be [`LANES`].
    #[inline(always)]
    pub fn of<S: Isa>(order: Placement, rows: usize, x: &[T], exps: &mut [T]) -> Self {
        let (mut max, mut at) = ([-T::INFINITY; LANES], [0; LANES]);
        let mut least = [-T::INFINITY; LANES];
        match order {
            Placement::Rows(classes) => {
                let found = RowExtremes { max: &mut max, least: &mut least, at: &mut at };
                let exps = exps.chunks_exact_mut(classes);
                exps_of_rows::<S, T, SumLater>(x.chunks_exact(classes), exps, found, |_, _| {});
            }
            Placement::Lanes => {
                let (x, _) = x.as_chunks::<LANES>();
                for (c, row) in (0..).zip(x) {
                    for l in 0..LANES {
                        at[l] = if row[l] > max[l] { c } else { at[l] };
                        max[l] = row[l].max(max[l]);
                    }
                }
                for (x, exps) in x.iter().zip(exps.as_chunks_mut::<LANES>().0) {
                    exp_lanes::<S, T>(x, &max, exps);
                }
            }
        }
        let mut ones = [T::ONE; LANES];
        for l in 0..rows {
            ones[l] = std::mem::take(&mut exps[order.at(l, at[l] as usize)]);
        }
        let mut softmax = GroupSoftmax { order, rows, max, at, others: [0.0; LANES], least };
        let mut others = softmax.sums::<S>(exps);
        for l in 0..rows {
            exps[order.at(l, at[l] as usize)] = ones[l];
        }
        for l in 0..LANES {
            others[l] = possible(max[l], others[l]);
        }
        softmax.others = others;
        softmax
    }

    /// [`Softmax::log_sum_minus`] for an element of each row.
    #[inline(always)]
    pub fn log_sum_minus<S: Isa>(&self, x: &[T; LANES]) -> [T; LANES] {
        let mut out = [T::ZERO; LANES];
        for l in 0..LANES {
            out[l] = log_sum_minus::<S, T>(self.max[l], self.others[l], x[l]);
        }
        out
    }

    /// Multiplies the exponentials of each row by a factor.
    #[inline(always)]
    pub fn scale_exps(&self, exps: &mut [T], factor: &[T; LANES]) {
        match self.order {
            Placement::Rows(classes) => {
                for (exps, &factor) in exps.chunks_exact_mut(classes).zip(factor) {
                    for e in exps {
                        *e *= factor;
                    }
                }
            }
            Placement::Lanes => {
                // A loop over `LANES` alone would be unrolled, and the one around it turned into gathers.
                let factors = [*factor; 4];
                for exps in exps.chunks_mut(factors.as_flattened().len()) {
                    for (e, &factor) in exps.iter_mut().zip(factors.as_flattened()) {
                        *e *= factor;
                    }
                }
            }
        }
    }

    /// [`Softmax::curvature`] for each row.
    #[inline(always)]
    pub fn curvature(&self, exps: &[T], out: &mut [T], scale: &[f64; LANES]) {
        let classes = self.order.classes(exps.len());
        for l in 0..self.rows {
            let softmax = self.row(l);
            let inverse = T::from_f64(softmax.inverse());
            let scale_t = T::from_f64(scale[l]);
            for at in (0..classes).map(|c| self.order.at(l, c)) {
                let p = exps[at] * inverse;
                out[at] = p * (T::ONE - p) * scale_t;
            }
            let [p, rest] = softmax.largest();
            out[self.order.at(l, softmax.at)] = T::from_f64(rest * p * scale[l]);
        }
    }

    /// [`Softmax::add_squares`] for each row.
    #[inline(always)]
    pub fn add_squares(&self, exps: &[T], out: &mut [T], scale: &[f64; LANES]) {
        let classes = self.order.classes(exps.len());
        for l in 0..self.rows {
            let inverse = self.row(l).inverse();
            for at in (0..classes).map(|c| self.order.at(l, c)) {
                let p = exps[at].to_f64() * inverse;
                out[at] = T::from_f64(out[at].to_f64() + p * scale[l] * p);
            }
        }
    }

    /// The sum of each row of other numbers, as [`sum_exactly`] has it.
    #[inline(always)]
    pub fn sums<S: Isa>(&self, x: &[T]) -> [f64; LANES] {
        match self.order {
            Placement::Lanes => sum_all_lanes::<S, T>(x),
            Placement::Rows(classes) => {
                let mut sums = [0.0; LANES];
                for (sum, x) in sums.iter_mut().zip(x.chunks_exact(classes)) {
                    *sum = sum_exactly::<S, T>(x);
                }
                sums
            }
        }
    }

    /// The softmax of one row.
    #[inline(always)]
    pub fn row(&self, l: usize) -> Softmax<T> {
        Softmax {
            max: self.max[l],
            at: self.at[l] as usize,
            least: self.least[l],
            others: self.others[l],
        }
    }
}

/// Fills `exps` with exp(x - max) of rows, one step for all of them after the other; tells their extremes, and what is kept
/// of the sum of each.
#[inline(always)]
fn exps_of_rows<'x, 'e, S: Isa, T: Real, P: RowSum<T>>(
    x: impl Iterator<Item = &'x [T]> + Clone,
    exps: impl Iterator<Item = &'e mut [T]>,
    mut found: RowExtremes<'_, T>,
    mut keep: impl FnMut(usize, P),
) {
    simd::dispatch(S::LEVEL, FindExtremes { rows: x.clone(), found: &mut found });
    let RowExtremes { max, least, .. } = found;
    for (l, (x, exps)) in x.zip(exps).enumerate() {
        keep(l, shifted_exps::<S, T, P>(x, max[l], least[l], exps));
    }
}

/// Frames that are worked on together, at most.
pub const FRAMES_TOGETHER: usize = 16;

/// The softmax of up to [`FRAMES_TOGETHER`] rows of a sequence, wherever they stand. Losses of sequences add up paths through all
/// frames in f64, and a frame is a small part of their work: so its own sum stays in its type.
pub struct FrameSoftmax<T> {
    /// The largest logits; NaN is passed over.
    pub max: [T; FRAMES_TOGETHER],
    /// The sums of [`Softmax::others`], 0 where nothing is possible.
    pub others: [f64; FRAMES_TOGETHER],
    sums: [RunningSum<T>; FRAMES_TOGETHER],
}

impl<T: Real> FrameSoftmax<T> {
    /// Of no frames.
    pub const NONE: Self = FrameSoftmax {
        max: [T::ZERO; FRAMES_TOGETHER],
        others: [0.0; FRAMES_TOGETHER],
        sums: [RunningSum::NONE; FRAMES_TOGETHER],
    };

    /// Of the logits `x`, with exp(x - max) in `exps`.
    #[inline(always)]
    pub fn fill<S: Isa>(&mut self, x: &[&[T]], exps: &mut [&mut [T]]) {
        let FrameSoftmax { max, sums, .. } = self;
        let found = RowExtremes {
            max,
            least: &mut [T::ZERO; FRAMES_TOGETHER],
            at: &mut [0; FRAMES_TOGETHER],
        };
        let exps = exps.iter_mut().map(|exps| &mut **exps);
        exps_of_rows::<S, T, _>(x.iter().copied(), exps, found, |l, sum| sums[l] = sum);
        self.others = RunningSum::totals::<S, _>(sums);
        for (others, &max) in self.others.iter_mut().zip(&self.max) {
            // NaN stays.
            *others *= if max == -T::INFINITY { 0.0 } else { 1.0 };
        }
    }
}

/// [`sum_exactly`] for every lane.
#[inline(always)]
fn sum_all_lanes<S: Isa, T: Real>(exps: &[T]) -> [f64; LANES] {
    let of_block = |block| simd::dispatch(S::LEVEL, SumLanes::<T>(block));
    if exps.len() <= BLOCK * LANES {
        return of_block(exps);
    }
    let mut sums = std::array::from_fn::<_, LANES, _>(|_| PairwiseSum::default());
    for block in exps.chunks(BLOCK * LANES) {
        for (sum, block) in sums.iter_mut().zip(of_block(block)) {
            sum.add(block);
        }
    }
    sums.map(|sum| sum.total())
}

/// One block of [`crate::sum::sum_block_exactly`] for every lane: the same elements in the same order.
struct SumLanes<'a, T>(&'a [T]);

impl<T: Real> Kernel for SumLanes<'_, T> {
    type Output = [f64; LANES];
    #[inline(always)]
    fn run<S: Isa>(self) -> [f64; LANES] {
        match T::DTYPE {
            DType::F32 => sum_lanes::<T, false>(self.0),
            _ => sum_lanes::<T, true>(self.0),
        }
    }
}

/// `EXACT` puts back what additions round off; a sum of f32 has room for it.
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
            let losses = EXACT.then_some(losses.as_flattened_mut());
            add_each(sums.as_flattened_mut(), exps, losses);
        }
        if EXACT {
            fold_lanes(&mut losses, None);
            lost = losses[0];
        }
        fold_lanes(&mut sums, EXACT.then_some(&mut lost));
        sum = sums[0];
    }
    if EXACT {
        for exps in rest {
            add_each(&mut sum, exps, Some(&mut lost));
        }
        // Infinities leave a NaN there.
        return std::array::from_fn(|l| if lost[l].is_nan() { sum[l] } else { sum[l] + lost[l] });
    }
    let mut of_rest = [0.0; LANES];
    for exps in rest {
        add_each(&mut of_rest, exps, None);
    }
    std::array::from_fn(|l| sum[l] + of_rest[l])
}

#[inline(always)]
fn exp_lanes<S: Isa, T: Real>(x: &[T; LANES], max: &[T; LANES], exps: &mut [T; LANES]) {
    for l in 0..LANES {
        exps[l] = shifted_exp::<S, T>(x[l], max[l]);
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
        let inf = T::INFINITY;
        let odd = [T::NAN, -inf, -T::ZERO, T::ZERO, inf, T::ONE, -T::NAN];
        for n in [1, 2, 10, 31, 32, 33, 100, 1023, 1025, 3000] {
            agree(n, |i| T::from_f64(((i * 7919) % 997) as f64 * 0.03));
            agree(n, |i| odd[i * 7919 % 997 % (1 + i / n % odd.len())]);
        }
    }

    fn agree<T: Real>(n: usize, x: impl Fn(usize) -> T) {
        let same = |a: T, b: T| a == b || (a.is_nan() && b.is_nan());
        let rows: Vec<T> = (0..n * LANES).map(x).collect();
        let mut lanes = rows.clone();
        for (i, &x) in rows.iter().enumerate() {
            lanes[Placement::Lanes.at(i / n, i % n)] = x;
        }
        for (order, x) in [(Placement::Lanes, &lanes), (Placement::Rows(n), &rows)] {
            let mut exps = vec![T::ZERO; x.len()];
            let group = GroupSoftmax::of::<Baseline>(order, LANES, x, &mut exps);
            for (l, row) in rows.chunks_exact(n).enumerate() {
                let mut row_exps = vec![T::ZERO; n];
                let softmax = Softmax::of::<Baseline>(row, &mut row_exps);
                assert!(softmax.max == group.max[l] && softmax.at == group.at[l] as usize);
                let others = [softmax.others, group.others[l]];
                assert!(others[0] == others[1] || others.iter().all(|x| x.is_nan()), "{n}");
                // Nobody looks at the exponentials of a row of nothing but -infinity.
                let is_same = |c: usize| same(row_exps[c], exps[order.at(l, c)]);
                assert!(softmax.max == -T::INFINITY || (0..n).all(is_same), "{n}");
            }
        }
    }
}

//! Rows of logits whose label is one class: alone, several together, several side by side, and columns
//! of many, for any [`Head`].

use super::subnormal::{AnySmall, HeadRow, first_gap, is_large, may_be_small};
use super::sums::fill;
use super::{
    ColumnSoftmax, GroupSoftmax, Head, Scalars, Slopes, Softmax, gap, log_sum_minus, shifted_exp,
};
use crate::buffer::Buffer;
use crate::drive::columns::{ColumnRows, Columns, Named};
use crate::drive::row_kernel::{
    Group, LANES, Placement, Row, RowKernel, RowOutputs, Scratch, Vectors,
};
use crate::error::Result;
use crate::math::Real;
use crate::num::DType;
use crate::simd::{Isa, Level, dispatch};
use crate::sum::{ExactSum, LongColumnSums, sum_exactly};

/// A label that is not looked at.
pub const IGNORED: u32 = u32::MAX;

/// Rows whose label is one class.
pub struct SparseRows<'a> {
    /// The classes, or [`IGNORED`].
    labels: &'a [u32],
    /// The loss.
    head: &'a dyn Head,
    /// What it says of itself.
    needs_log_sum: bool,
    spreads: bool,
    weights: Option<&'a [f64]>,
}

/// One of the slopes of each row, times the scale of the row.
#[inline(never)]
fn scaled(slopes: &[Slopes], scale: &[f64; LANES], of: fn(&Slopes) -> f64) -> [f64; LANES] {
    let mut scaled = [0.0; LANES];
    for ((scaled, slopes), scale) in scaled.iter_mut().zip(slopes).zip(scale) {
        *scaled = of(slopes) * scale;
    }
    scaled
}

/// Applies an infinite factor to the exponentials of row `l`, where 0 stays 0, and returns what is left to multiply by: 1. A
/// finite factor is returned as it is.
#[inline(always)]
fn take_infinite<T: Real>(factor: T, exps: &mut [T], (order, l): (Placement, usize)) -> T {
    if factor.abs() != T::INFINITY {
        return factor;
    }
    for at in (0..order.classes(exps.len())).map(|class| order.at(l, class)) {
        exps[at] = factor.weighted(exps[at]);
    }
    T::ONE
}

/// The sum of max - x over a row, from the sum of its logits in f32: n max - sum(x), in f64. Sums of numbers of one size are
/// exact there, and of others some distance is as large as what is rounded off. The largest logit must be finite.
#[inline(always)]
fn sum_of_gaps<T: Real>(max: T, classes: usize, sum: f64) -> f64 {
    max.to_f64() * classes as f64 - sum
}

/// The same of row `l` of any logits.
#[inline(always)]
fn sum_of_any_gaps<T: Real>(max: T, sum: f64, x: &[T], (order, l): (Placement, usize)) -> f64 {
    let classes = order.classes(x.len());
    if max.abs() < T::INFINITY {
        return sum_of_gaps(max, classes, sum);
    }
    (0..classes).map(|class| gap(max, x[order.at(l, class)]).to_f64()).sum()
}

/// total p - share, from p and 1 - p: of the two forms the one that does not cancel.
#[inline(always)]
fn excess(total: f64, share: f64, [p, rest]: [f64; 2]) -> f64 {
    // Either costs less than to guess which.
    let (of_small, of_large) = (total * p - share, (total - share) - total * rest);
    if p < 0.5 { of_small } else { of_large }
}

impl<'a> SparseRows<'a> {
    /// Rows with a class, or [`IGNORED`], for each.
    pub fn new(labels: &'a [u32], head: &'a dyn Head) -> Self {
        let (needs_log_sum, spreads) = (head.needs_log_sum(), head.spreads());
        SparseRows { labels, head, needs_log_sum, spreads, weights: head.weights() }
    }

    /// [`Scalars::log_sum`], if it is looked at.
    #[inline(always)]
    fn log_sum<S: Isa>(&self, others: f64) -> f64 {
        if self.needs_log_sum { Real::log1p::<S>(others) } else { 0.0 }
    }

    #[inline(always)]
    fn scalars<T: Real>(
        softmax: &Softmax<T>,
        class: usize,
        [exp, nll]: [T; 2],
        [log_sum, spread]: [f64; 2],
    ) -> Scalars {
        Scalars {
            class,
            nll: nll.to_f64(),
            p: exp.to_f64() * softmax.inverse(),
            complement: softmax.complement(class, exp),
            log_sum,
            max: softmax.max.to_f64(),
            spread,
        }
    }

    /// What the head makes of several rows, with their losses. Its numbers of f64 for each row take no time beside the
    /// softmax, and as a part of each kernel would take much room.
    #[inline(never)]
    fn slopes_of<T: Real>(
        &self,
        softmax: &GroupSoftmax<T>,
        label: &[usize; LANES],
        [exps, nll]: [&[T; LANES]; 2],
        [log_sums, spread]: [&[f64; LANES]; 2],
        value: &mut [T],
    ) -> [Slopes; LANES] {
        let mut scalars = [Scalars::default(); LANES];
        for (l, scalars) in scalars[..value.len()].iter_mut().enumerate() {
            let sums = [log_sums[l], spread[l]];
            *scalars = Self::scalars(&softmax.row(l), label[l], [exps[l], nll[l]], sums);
        }
        let mut slopes = [Slopes::default(); LANES];
        self.head.slopes_of(&scalars[..value.len()], &mut slopes);
        for (value, slopes) in value.iter_mut().zip(&slopes) {
            *value = T::from_f64(slopes.value);
        }
        slopes
    }

    /// Sets the second derivatives that a head has for single classes of row `l`, from its exponentials.
    #[inline(never)]
    fn set_own_hess<T: Real>(
        &self,
        (order, l): (Placement, usize),
        softmax: &Softmax<T>,
        label: usize,
        slopes: &Slopes,
        exps: &[T],
        hess: &mut [T],
        scale: f64,
    ) {
        let largest = softmax.largest();
        let exp = |class: usize| exps[order.at(l, class)].to_f64();
        let p = exp(label) * largest[0];
        let rest = || {
            if p < 0.5 * largest[1] {
                return largest[1] - p;
            }
            let mut sum = ExactSum::default();
            let classes = 0..order.classes(exps.len());
            classes.filter(|&c| c != softmax.at && c != label).for_each(|c| sum.add(exp(c)));
            sum.total() * largest[0]
        };
        let mut set = |class: usize, own: Option<f64>| {
            if let Some(own) = own {
                hess[order.at(l, class)] = T::from_f64(own * scale);
            }
        };
        if softmax.at != label {
            set(softmax.at, self.head.hess_at_max(p, largest, &rest));
        }
        set(label, slopes.hess_at_label);
    }

    /// Puts right the derivatives of rows in which a factor shows what an exponential has lost.
    #[inline(never)]
    fn correct<T: Real>(
        &self,
        level: Level,
        softmax: &GroupSoftmax<T>,
        label: &[usize; LANES],
        slopes: &[Slopes],
        scale: &[f64; LANES],
        x: &[T],
        mut grad: Option<&mut [T]>,
        mut hess: Option<&mut [T]>,
    ) {
        let (wants_grad, wants_hess) = (grad.is_some(), hess.is_some());
        let row = |l: usize| self.of_row(softmax.row(l), label[l], &slopes[l], scale[l]);
        let mut suspects =
            (0..slopes.len()).filter(|&l| row(l).is_suspect(wants_grad, wants_hess)).peekable();
        if suspects.peek().is_some() && dispatch(level, AnySmall(softmax, x)) {
            for l in suspects {
                let order = (softmax.order, l);
                row(l).correct(level, order, x, grad.as_deref_mut(), hess.as_deref_mut());
            }
        }
    }

    fn of_row<'r, T>(
        &'r self,
        softmax: Softmax<T>,
        label: usize,
        slopes: &'r Slopes,
        scale: f64,
    ) -> HeadRow<'r, T> {
        HeadRow { head: self.head, weights: self.weights, softmax, label, slopes, scale }
    }

    /// The derivative at the class of the largest logit, where p may be more than half.
    #[inline(always)]
    fn at_max<T: Real>(&self, softmax: &Softmax<T>, slopes: &Slopes) -> f64 {
        let own = self.weight(softmax.at) * slopes.by_weight;
        let largest = softmax.largest();
        excess(slopes.total, -own, largest) + slopes.pull * largest[0]
    }

    /// The distances of a row's logits from the largest one, times the weights of their classes.
    #[inline(always)]
    fn weighted_gaps<T: Real>(&self, max: T, x: &[T], out: &mut [T]) {
        let Some(weights) = self.weights else { return fill(out, x, |x| gap(max, x)) };
        for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weights) {
            *out = gap(max, x).weighted(T::from_f64(weight));
        }
    }

    /// Whether [`sum_of_gaps`] does for them.
    fn sums_logits<T: Real>(&self) -> bool {
        self.weights.is_none() && T::DTYPE == DType::F32
    }

    #[inline(always)]
    fn weight(&self, class: usize) -> f64 {
        self.weights.map_or(1.0, |weights| weights[class])
    }
}

/// Room for a row, or for what columns need: the softmax of all rows, and one number or more of each.
#[derive(Default)]
pub struct HeadRoom<T: Real> {
    row: Vectors<T, 2>,
    softmax: ColumnSoftmax<T>,
    sums: LongColumnSums,
    log_sums: Buffer<f64>,
    terms: Buffer<T>,
    labelled: Named,
    /// What the exponentials are multiplied by, and what the weights of the classes are.
    factor: Buffer<T>,
    by_weight: Buffer<T>,
    /// The derivatives at the label and at the largest logit.
    at_label: Buffer<T>,
    at_max: Buffer<T>,
}

impl<T: Real> Scratch for HeadRoom<T> {
    fn fit(&mut self, cols: usize) -> Result<()> {
        self.row.fit(cols)
    }
}

impl<T: Real> RowKernel<T, 1, 0> for SparseRows<'_> {
    const COST: f64 = 0.6;
    const GROUPED: bool = true;
    const BY_COLUMNS: bool = true;
    type Scratch = HeadRoom<T>;

    #[inline(always)]
    fn skips(&self, row: usize) -> bool {
        self.labels[row] == IGNORED
    }

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { index, vectors: [x], .. }: Row<'_, T, 1, 0>,
        outputs: RowOutputs<'_, T, 1, 0>,
        scratch: &mut HeadRoom<T>,
        scale: f64,
    ) -> T {
        let RowOutputs { grads: [mut grad], mut hess, .. } = outputs;
        let [scratch, terms] = scratch.row.each();
        let label = self.labels[index] as usize;
        let order = (Placement::Rows(x.len()), 0);
        let exps = grad.as_deref_mut().unwrap_or(scratch);
        let softmax = Softmax::of::<S>(x, exps);
        let nll = softmax.log_sum_minus::<S>(x[label]);
        let mut spread = 0.0;
        if self.spreads && self.sums_logits::<T>() {
            spread = sum_of_any_gaps(softmax.max, sum_exactly::<S, T>(x), x, order);
        } else if self.spreads {
            self.weighted_gaps(softmax.max, x, terms);
            spread = sum_exactly::<S, T>(terms);
        }
        let sums = [self.log_sum::<S>(softmax.others), spread];
        let slopes = self.head.slopes(&Self::scalars(&softmax, label, [exps[label], nll], sums));
        if let Some(hess) = &mut hess {
            softmax.curvature(exps, hess, slopes.curvature * scale);
            if slopes.square != 0.0 {
                softmax.add_squares(exps, hess, slopes.square * scale);
            }
            if slopes.hess_at_label.is_some() {
                self.set_own_hess(order, &softmax, label, &slopes, exps, hess, scale);
            }
        }
        if let Some(grad) = &mut grad {
            let factor = T::from_f64(softmax.inverse() * (slopes.by_p() * scale));
            let factor = take_infinite(factor, grad, order);
            if self.spreads {
                let by_weight = T::from_f64(slopes.by_weight * scale);
                order.0.map(grad, x.len(), self.weights, |_, weight, e| {
                    e * factor + weight * by_weight
                });
                grad[softmax.at] = T::from_f64(self.at_max(&softmax, &slopes) * scale);
            } else {
                for g in grad.iter_mut() {
                    *g *= factor;
                }
            }
            grad[label] = T::from_f64(slopes.at_label * scale);
        }
        let row = self.of_row(softmax, label, &slopes, scale);
        if row.is_suspect(grad.is_some(), hess.is_some()) {
            row.correct(S::LEVEL, order, x, grad, hess);
        }
        T::from_f64(slopes.value)
    }

    #[inline(always)]
    fn group<S: Isa>(&self, group: Group<'_, T>) {
        let Group { order, row, classes, x, grad, mut hess, scratch, scale, value, wants_grad } =
            group;
        let labels = &self.labels[row..][..value.len()];
        let rows = labels.len();
        // Any class will do for a row that is left out.
        let mut label = [0; LANES];
        for (label, &given) in label.iter_mut().zip(labels) {
            *label = (given as usize).min(classes - 1);
        }
        let pick = |x: &[T]| {
            let mut picked = [T::ZERO; LANES];
            for l in 0..rows {
                picked[l] = x[order.at(l, label[l])];
            }
            picked
        };
        let softmax = GroupSoftmax::of::<S>(order, rows, x, grad);
        let (nll, exps) = (softmax.log_sum_minus::<S>(&pick(x)), pick(grad));
        let mut spread = [0.0; LANES];
        if self.spreads && self.sums_logits::<T>() {
            spread = softmax.sums::<S>(x);
            for (l, spread) in spread[..rows].iter_mut().enumerate() {
                *spread = sum_of_any_gaps(softmax.max[l], *spread, x, (order, l));
            }
        } else if self.spreads {
            if let Placement::Rows(_) = order {
                let rows = x.chunks_exact(classes).zip(scratch.chunks_exact_mut(classes));
                for ((x, gaps), &max) in rows.zip(&softmax.max) {
                    self.weighted_gaps(max, x, gaps);
                }
            } else {
                scratch.copy_from_slice(x);
                order.map(scratch, classes, self.weights, |l, weight, x| {
                    gap(softmax.max[l], x).weighted(weight)
                });
            }
            spread = softmax.sums::<S>(scratch);
        }
        let mut log_sums = [0.0; LANES];
        if self.needs_log_sum {
            for l in 0..LANES {
                log_sums[l] = softmax.others[l].log1p::<S>();
            }
        }
        let slopes = self.slopes_of(&softmax, &label, [&exps, &nll], [&log_sums, &spread], value);
        let scaled = |of| scaled(&slopes[..rows], scale, of);
        let mut magnifies = hess.is_some();
        if let Some(hess) = &mut hess {
            softmax.curvature(grad, hess, &scaled(|s| s.curvature));
            let square = scaled(|s| s.square);
            if square != [0.0; LANES] {
                softmax.add_squares(grad, hess, &square);
            }
            for (l, slopes) in slopes[..rows].iter().enumerate() {
                if slopes.hess_at_label.is_some() {
                    let (row, order) = (softmax.row(l), (order, l));
                    self.set_own_hess(order, &row, label[l], slopes, grad, hess, scale[l]);
                }
            }
        }
        if wants_grad {
            let by_p = scaled(Slopes::by_p);
            magnifies |= by_p.iter().any(|&by_p| is_large(by_p));
            let mut factor = [T::ZERO; LANES];
            for l in 0..LANES {
                factor[l] = T::from_f64(softmax.row(l).inverse() * by_p[l]);
            }
            for (l, factor) in factor[..rows].iter_mut().enumerate() {
                *factor = take_infinite(*factor, grad, (order, l));
            }
            if self.spreads {
                let by_weight = scaled(|s| s.by_weight).map(T::from_f64);
                order.map(grad, classes, self.weights, |l, weight, e| {
                    e * factor[l] + weight * by_weight[l]
                });
                for l in 0..rows {
                    let row = softmax.row(l);
                    grad[order.at(l, row.at)] =
                        T::from_f64(self.at_max(&row, &slopes[l]) * scale[l]);
                }
            } else {
                softmax.scale_exps(grad, &factor);
            }
            for l in 0..rows {
                grad[order.at(l, label[l])] = T::from_f64(slopes[l].at_label * scale[l]);
            }
        }
        if magnifies && may_be_small(&softmax.max, &softmax.least) {
            let grad = wants_grad.then_some(grad);
            self.correct(S::LEVEL, &softmax, &label, &slopes[..rows], scale, x, grad, hess);
        }
    }

    #[inline(always)]
    fn columns<S: Isa>(
        &self,
        rows: ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
        room: &mut HeadRoom<T>,
    ) -> Result<bool> {
        let (count, elements) = (columns.rows(), columns.elements());
        let labels = &self.labels[rows.first..][..count];
        let HeadRoom { softmax, sums, log_sums, terms, labelled, .. } = room;
        let HeadRoom { factor, by_weight, at_label, at_max, .. } = room;
        let (terms, log_sums) = (terms.sized(count)?, log_sums.sized(count)?);
        let (factor, by_weight) = (factor.sized(count)?, by_weight.sized(count)?);
        let (at_label, at_max) = (at_label.sized(count)?, at_max.sized(count)?);
        softmax.fill::<S>(columns, 1.0)?;
        labelled.sort(elements, labels.iter().copied().map(Some))?;
        let spreads = self.spreads;
        let sums_logits = spreads && self.sums_logits::<T>();
        if sums_logits && !softmax.max[..count].iter().all(|max| max.abs() < T::INFINITY) {
            return Ok(false);
        }
        if spreads {
            sums.start(elements, count, T::DTYPE == DType::F64)?;
        }
        let mut reader = columns.read();
        for c in (0..elements).filter(|&c| spreads || labelled.of(c).next().is_some()) {
            let [x] = reader.column(c)?;
            for r in labelled.of(c) {
                factor[r] = x[r];
            }
            if sums_logits {
                sums.add::<S, _>(x)?;
            } else if spreads {
                let weight = T::from_f64(self.weight(c));
                for ((term, &x), &max) in terms.iter_mut().zip(x).zip(&*softmax.max) {
                    *term = gap(max, x).weighted(weight);
                }
                sums.add::<S, _>(terms)?;
            }
        }
        // Functions of many rows at once: -log p and the exponential at the label, and the logarithms of the sums.
        let of_rows = rows.value.iter_mut().zip(&mut *factor).zip(&*softmax.max);
        for (((nll, exp), &max), &others) in of_rows.zip(&*softmax.others) {
            let x = *exp;
            *nll = log_sum_minus::<S, T>(max, others, x);
            *exp = shifted_exp::<S, T>(x, max);
        }
        for (log_sum, &others) in log_sums.iter_mut().zip(&*softmax.others) {
            *log_sum = self.log_sum::<S>(others);
        }
        let derives = columns.derives();
        for (r, (&label, &scale)) in labels.iter().zip(rows.scale).enumerate() {
            let (class, row) = (label as usize, softmax.row(r));
            let own = [factor[r], rows.value[r]];
            let mut spread = if spreads { sums.total(r) } else { 0.0 };
            if sums_logits {
                spread = sum_of_gaps(row.max, elements, spread);
            }
            let slopes = self.head.slopes(&Self::scalars(&row, class, own, [log_sums[r], spread]));
            let magnifies = derives && is_large(slopes.by_p() * scale);
            terms[r] = if magnifies { first_gap(&row, 1.0, 1.0) } else { T::INFINITY };
            factor[r] = T::from_f64(row.inverse() * (slopes.by_p() * scale));
            by_weight[r] = T::from_f64(slopes.by_weight * scale);
            at_label[r] = T::from_f64(slopes.at_label * scale);
            at_max[r] = T::from_f64(self.at_max(&row, &slopes) * scale);
            rows.value[r] = T::from_f64(slopes.value);
        }
        if !derives {
            return Ok(true);
        }
        let is_deep = softmax.reaches(columns, terms, T::FAR)?;
        if is_deep || !factor.iter().all(|factor| factor.abs() < T::INFINITY) {
            return Ok(false);
        }
        let mut writer = columns.write();
        for c in 0..elements {
            let ([_], [Some(grad)]) = writer.column(c)? else { return Ok(true) };
            softmax.fill_exps(c, grad);
            let given = grad.iter_mut().zip(&*factor);
            if spreads {
                let (weight, at) = (T::from_f64(self.weight(c)), &softmax.at);
                let own = by_weight.iter().zip(&*at_max);
                for (((g, &factor), (&by_weight, &at_max)), &at) in given.zip(own).zip(at) {
                    let slope = *g * factor + weight * by_weight;
                    *g = if at == c as u32 { at_max } else { slope };
                }
            } else {
                for (g, &factor) in given {
                    *g *= factor;
                }
            }
            for r in labelled.of(c) {
                grad[r] = at_label[r];
            }
            writer.finish(c);
        }
        Ok(true)
    }
}

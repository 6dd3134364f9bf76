//! Losses on a softmax whose label is a distribution y: row by row, or rows side by side in memory column by column.
//!
//! Their gradient is that of -sum(y log p): the sum of y times p, less y. What the loss itself is, and how y comes from
//! the label, they say.

use super::subnormal::{PullFactors, correct_pull, first_gap};
use super::{ColumnSoftmax, Pull, Softmax, gap};
use crate::buffer::Buffer;
use crate::drive::columns::{ColumnRows, Columns, Named};
use crate::drive::row_kernel::{Scratch, Vectors};
use crate::drive::scale::{multiply, split};
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::{DType, Float};
use crate::simd::Isa;
use crate::sum::{LongColumnSums, sum_exactly};

/// The softmax of x / `temperature` and what passes through it: the first and second derivative of
/// `sum(-t log p) temperature^2 + z_loss log(sum exp(x))^2`, times `scale`. A z-loss has the temperature 1. Also the sum of
/// t.
#[inline(always)]
pub fn through_softmax<S: Isa, T: Real>(
    [x, t]: [&[T]; 2],
    factors: PullFactors,
    [mut grad, mut hess]: [Option<&mut [T]>; 2],
    scratch: &mut [T],
) -> (Softmax<T>, f64) {
    let PullFactors { temperature, z_loss, scale } = factors;
    let derives = grad.is_some() || hess.is_some();
    let exps = grad.as_deref_mut().unwrap_or(scratch);
    let softmax = Softmax::tempered::<S>(x, temperature, exps);
    let total = sum_exactly::<S, T>(t);
    if let Some(hess) = &mut hess {
        softmax.curvature(exps, hess, total * scale);
    }
    if let Some(grad) = &mut grad {
        let [scale, rest] = split::<T>(scale * temperature);
        softmax.pull(t, total, grad, scale);
        multiply(grad, rest);
    }
    if derives && z_loss > 0.0 {
        // The gradient may have taken the place of the exponentials.
        Softmax::of::<S>(x, scratch);
        let z = softmax.max.to_f64() + Real::log1p::<S>(softmax.others);
        let outputs = [grad.as_deref_mut(), hess.as_deref_mut()];
        add_z_loss(&softmax, scratch, [z_loss, z, scale], outputs);
    }
    if derives {
        correct_pull(S::LEVEL, &softmax, &factors, ([x, t], total), [grad, hess]);
    }
    (softmax, total)
}

/// Adds the derivatives of a z-loss, from the exponentials of the row and Z.
#[inline(always)]
fn add_z_loss<T: Real>(
    softmax: &Softmax<T>,
    exps: &[T],
    [z_loss, z, scale]: [f64; 3],
    [mut grad, mut hess]: [Option<&mut [T]>; 2],
) {
    let pull = 2.0 * z_loss * z;
    for (c, &exp) in exps.iter().enumerate() {
        let p = exp.to_f64() * softmax.inverse();
        if let Some(grad) = &mut grad {
            grad[c] = T::from_f64(grad[c].to_f64() + pull.weighted(p) * scale);
        }
        if let Some(hess) = &mut hess {
            let own = pull.weighted(p) * softmax.complement(c, exp) + 2.0 * z_loss * p * p;
            hess[c] = T::from_f64(hess[c].to_f64() + own * scale);
        }
    }
}

/// A loss of logits x and a distribution, with the gap max - x and T log(sum exp((x - max) / T)) for T log p.
pub trait Distribution<T: Real> {
    /// T.
    fn temperature(&self) -> f64 {
        1.0
    }
    /// y from the labels of one class: they themselves, or in the room.
    fn target<'y, S: Isa>(&self, class: usize, label: &'y [T], room: &'y mut [T]) -> &'y [T];
    /// What is summed over each row, from one class of them and y.
    fn summands<S: Isa>(&self, column: Column<'_, T>, y: &[T], out: &mut [T]);
    /// The loss of a row, from this sum and that of y.
    fn loss(&self, terms: f64, total: f64, log_sum: T) -> f64;
    /// The derivatives with respect to the labels of one class, times the scale of each row.
    fn slopes<S: Isa>(&self, class: usize, column: Column<'_, T>, scale: &[f64], out: &mut [T]);
}

/// One class of many rows: its logits and labels, and of each row the largest logit and [`Distribution`]'s T log(sum).
#[derive(Clone, Copy)]
pub struct Column<'c, T> {
    pub x: &'c [T],
    pub label: &'c [T],
    pub max: &'c [T],
    pub log_sum: &'c [T],
}

impl<T: Real> Column<'_, T> {
    /// Fills `out` with a function of each row's index, label, gap and log-sum.
    #[inline(always)]
    pub fn map(self, out: &mut [T], of_row: impl Fn(usize, T, T, T) -> T) {
        // All slices are as long as there are rows, so that no index is checked.
        let rows = out.len();
        let [x, label] = [&self.x[..rows], &self.label[..rows]];
        let [max, log_sum] = [&self.max[..rows], &self.log_sum[..rows]];
        for (r, out) in out.iter_mut().enumerate() {
            *out = of_row(r, label[r], gap(max[r], x[r]), log_sum[r]);
        }
    }
}

/// Room for one row, or for columns: the softmax of all rows, sums, and a few numbers of each.
#[derive(Default)]
pub struct DistributionRoom<T: Real> {
    /// Vectors as long as a row.
    pub row: Vectors<T, 2>,
    softmax: ColumnSoftmax<T>,
    /// The sums of y, and of the terms.
    totals: LongColumnSums,
    terms: LongColumnSums,
    lines: [Buffer<T>; 6],
    pulls: Vec<Pull<T>>,
    /// Where p is more than half.
    maxima: Named,
}

impl<T: Real> Scratch for DistributionRoom<T> {
    fn fit(&mut self, cols: usize) -> Result<()> {
        self.row.fit(cols)
    }
}

impl<T: Real> DistributionRoom<T> {
    /// Losses and gradients of a block of rows, see [`crate::drive::row_kernel::RowKernel::columns`].
    #[inline(always)]
    pub fn by_columns<S: Isa, D: Distribution<T>>(
        &mut self,
        loss: &D,
        rows: &mut ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
    ) -> Result<bool> {
        let (count, elements, t) = (columns.rows(), columns.elements(), loss.temperature());
        let DistributionRoom { softmax, totals, terms, lines, pulls, maxima, .. } = self;
        softmax.fill::<S>(columns, t)?;
        for line in &mut *lines {
            line.sized(count)?;
        }
        let [room, line, log_sums, factors, lows, scales] =
            lines.each_mut().map(|line| &mut line[..count]);
        for (log_sum, &others) in log_sums.iter_mut().zip(&*softmax.others) {
            *log_sum = T::from_f64(others).log1p::<S>() * T::from_f64(t);
        }
        totals.start(elements, count, T::DTYPE == DType::F64)?;
        terms.start(elements, count, false)?;
        let max = &softmax.max[..count];
        let mut reader = columns.read();
        for c in 0..elements {
            let Some([x, label]) = reader.checked(c)? else { return Ok(false) };
            let y = loss.target::<S>(c, label, room);
            totals.add::<S, _>(y)?;
            if rows.wants_value {
                loss.summands::<S>(Column { x, label, max, log_sum: log_sums }, y, line);
                terms.add::<S, _>(line)?;
            }
        }
        let derives = columns.derives();
        memory::grow(pulls, count, Pull::default())?;
        for (r, &scale) in rows.scale.iter().enumerate() {
            let [factor, rest] = split::<T>(scale * t);
            if rest != 1.0 {
                return Ok(false);
            }
            scales[r] = T::from_f64(factor);
            let total = totals.total(r);
            let row = softmax.row(r);
            let given = PullFactors { temperature: t, z_loss: 0.0, scale };
            let magnifies = derives && given.magnifies(total, 0.0);
            line[r] = if magnifies { first_gap(&row, t, total) } else { T::INFINITY };
            pulls[r] = row.pull_of(total);
            (factors[r], lows[r]) = (pulls[r].factor, pulls[r].low);
            if rows.wants_value {
                rows.value[r] = T::from_f64(loss.loss(terms.total(r), total, log_sums[r]));
            }
        }
        if !derives {
            return Ok(true);
        }
        let last = T::FAR * T::from_f64(t);
        if softmax.reaches(columns, line, last)? {
            return Ok(false);
        }
        let sure = |r: usize| softmax.row(r).is_sure();
        maxima.sort(elements, (0..count).map(|r| sure(r).then_some(softmax.at[r])))?;
        let scale = &rows.scale[..count];
        let mut writer = columns.write();
        for c in 0..elements {
            let ([x, label], [grad, label_grad]) = writer.column(c)?;
            if let Some(grad) = label_grad {
                loss.slopes::<S>(c, Column { x, label, max, log_sum: log_sums }, scale, grad);
            }
            if let Some(grad) = grad {
                let y = &loss.target::<S>(c, label, room)[..count];
                let grad = &mut grad[..count];
                softmax.fill_exps(c, grad);
                for r in 0..count {
                    let pull = Pull { factor: factors[r], low: lows[r], ..Pull::default() };
                    grad[r] = pull.at(grad[r], y[r]) * scales[r];
                }
                for r in maxima.of(c) {
                    grad[r] = pulls[r].at_max(y[r]) * scales[r];
                }
            }
            writer.finish(c);
        }
        Ok(true)
    }
}

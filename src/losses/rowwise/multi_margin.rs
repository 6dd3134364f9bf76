//! Multi-class margin: the label's class is to be ahead of every other one by a margin.
//!
//! With x the scores, t the label and C classes, `loss = 1 / C sum_(i != t) max(0, margin + x_i - x_t)^p` with p = 1 or 2. With
//! the gap `g_i = margin + x_i - x_t` where that is positive, and 0 where not, the gradient with respect to `x_i` is
//! `p g_i^(p - 1) / C`, 0 at the margin, and with respect to `x_t` the negative of the sum of the others. The second
//! derivative is 0 for p = 1; for p = 2 it is `2 / C` of classes with a positive gap, and the sum of those of the label. A
//! weight of the label's class multiplies the loss. A row of one class has no other: its loss is 0.
//!
//! Source: Weston and Watkins, "Support Vector Machines for Multi-Class Pattern Recognition" (1999), without the mean; in
//! PyTorch `MultiMarginLoss`.

use super::AXIS;
use super::class_labels::{CLASS_LABEL, IGNORE_INDEX, RAISE_OR_CLIP, Sparse, SparseLoss};
use crate::buffer::Buffer;
use crate::drive::columns::{ColumnRows, Columns, Named};
use crate::drive::row_kernel::{Row, RowKernel, RowOutputs, Scratch, Vectors};
use crate::error::Result;
use crate::math::Real;
use crate::num::Float;
use crate::registry::{
    Bound, Default, Domain, Family, Hessian, Accepts, Loss, Params, SAMPLE_WEIGHT, Spec, Unreduced,
    float, param, pred,
};
use crate::simd::Isa;
use crate::softmax::IGNORED;
use crate::sum::{LongColumnSums, sum_exactly};

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "MultiMarginLoss",
    family: Family::Rowwise,
    inputs: &[pred(Domain::Real), CLASS_LABEL, SAMPLE_WEIGHT],
    params: &[
        param("p", Default::Int(1), Accepts::OneOf(&[1, 2])),
        float("margin", 1.0, Bound::Finite),
        AXIS,
        IGNORE_INDEX,
        RAISE_OR_CLIP,
        param("class_weight", Default::None, Accepts::Weights),
    ],
    unreduced: Unreduced::Row,
    hess: true,
    kinks: "margin + other == pred[label] for any other class",
    build,
};

crate::front::typed! {
    /// Multi-class margin: the label's class is to be ahead of every other one by a margin.
    MultiMarginLoss(pred, label) {
        p: i64,
        margin: f64,
        axis: i64,
        ignore_index: i64,
        out_of_range: &str,
        class_weight: &[f64],
    }
}

fn build(params: &Params) -> Result<Box<dyn Loss>> {
    let loss = MultiMargin { squared: params.int("p") == Some(2), margin: params.float("margin") };
    Ok(Box::new(SparseLoss::new(loss, params, Some("class_weight"))?))
}

/// The loss with its parameters.
#[derive(Clone, Copy)]
struct MultiMargin {
    squared: bool,
    margin: f64,
}

impl Sparse for MultiMargin {
    type Kernel<'k> = MarginRows<'k>;
    fn kernel<'k>(&'k self, labels: &'k [u32]) -> MarginRows<'k> {
        MarginRows { loss: *self, labels }
    }
    fn hessian(&self) -> Hessian {
        if self.squared { Hessian::Diagonal } else { Hessian::Zero }
    }
}

impl MultiMargin {
    /// By how much a score is too near to the label's, or above it.
    #[inline(always)]
    fn gap<T: Real>(self, x: T, own: f64) -> f64 {
        // The difference first: of near scores it is exact.
        let ahead = self.margin + (x.to_f64() - own);
        ahead.where_positive(ahead)
    }

    /// The derivative of the loss of a gap.
    #[inline(always)]
    fn slope(self, gap: f64) -> f64 {
        if self.squared { 2.0 * gap } else { step(gap) }
    }
}

/// 0 or 1 for every gap, and NaN for one that is.
#[inline(always)]
fn step(gap: f64) -> f64 {
    1.0.where_positive(gap)
}

struct MarginRows<'a> {
    loss: MultiMargin,
    labels: &'a [u32],
}

/// Room for a row, or for what columns need: the scores of the labels, and the sums of terms and of slopes.
#[derive(std::default::Default)]
struct MultiMarginRoom {
    row: Vectors<f64, 2>,
    labelled: Named,
    own: Buffer<f64>,
    gaps: Buffer<f64>,
    terms: Buffer<f64>,
    totals: LongColumnSums,
    pulls: LongColumnSums,
}

impl Scratch for MultiMarginRoom {
    fn fit(&mut self, cols: usize) -> Result<()> {
        self.row.fit(cols)
    }
}

impl MarginRows<'_> {
    /// The gaps of one class in many rows, some of which have it for their label.
    #[inline(always)]
    fn gaps<T: Real>(
        &self,
        x: &[T],
        own: &[f64],
        labelled: impl Iterator<Item = usize>,
        gaps: &mut [f64],
    ) {
        for ((gap, x), own) in gaps.iter_mut().zip(x).zip(own) {
            *gap = self.loss.gap(*x, *own);
        }
        labelled.for_each(|r| gaps[r] = 0.0);
    }
}

impl<T: Real> RowKernel<T, 1, 0> for MarginRows<'_> {
    const COST: f64 = 1.0;
    const BY_COLUMNS: bool = true;
    type Scratch = MultiMarginRoom;

    #[inline(always)]
    fn skips(&self, row: usize) -> bool {
        self.labels[row] == IGNORED
    }

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { index, vectors: [x], .. }: Row<'_, T, 1, 0>,
        RowOutputs { grads: [grad], hess, .. }: RowOutputs<'_, T, 1, 0>,
        room: &mut MultiMarginRoom,
        scale: f64,
    ) -> T {
        let loss = self.loss;
        let (label, classes) = (self.labels[index] as usize, x.len() as f64);
        let [gaps, terms] = room.row.each();
        let own = x[label].to_f64();
        for (gap, x) in gaps.iter_mut().zip(x) {
            *gap = loss.gap(*x, own);
        }
        gaps[label] = 0.0;
        if let Some(grad) = grad {
            let slope = |gap| loss.slope(gap);
            put::<S, T>(grad, (label, -1.0), scale / classes, gaps, terms, slope);
        }
        if let Some(hess) = hess {
            let bend = |gap: f64| if loss.squared { 2.0 * step(gap) } else { 0.0 };
            put::<S, T>(hess, (label, 1.0), scale / classes, gaps, terms, bend);
        }
        let total = if loss.squared {
            for (term, gap) in terms.iter_mut().zip(&*gaps) {
                *term = gap * gap;
            }
            sum_exactly::<S, f64>(terms)
        } else {
            sum_exactly::<S, f64>(gaps)
        };
        T::from_f64(total / classes)
    }

    #[inline(always)]
    fn columns<S: Isa>(
        &self,
        rows: ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
        room: &mut MultiMarginRoom,
    ) -> Result<bool> {
        let (count, elements) = (columns.rows(), columns.elements());
        let (classes, derives) = (elements as f64, columns.derives());
        let (loss, labels) = (self.loss, &self.labels[rows.first..][..count]);
        let MultiMarginRoom { labelled, own, gaps, terms, totals, pulls, .. } = room;
        let (own, gaps, terms) = (own.sized(count)?, gaps.sized(count)?, terms.sized(count)?);
        labelled.sort(elements, labels.iter().copied().map(Some))?;
        let mut reader = columns.read();
        for c in (0..elements).filter(|&c| labelled.of(c).next().is_some()) {
            let [x] = reader.column(c)?;
            labelled.of(c).for_each(|r| own[r] = x[r].to_f64());
        }
        totals.start(elements, count, true)?;
        // Steps are whole numbers, of which a sum loses nothing.
        pulls.start(elements, count, loss.squared)?;
        for c in 0..elements {
            let [x] = reader.column(c)?;
            self.gaps(x, own, labelled.of(c), gaps);
            if loss.squared {
                for (term, gap) in terms.iter_mut().zip(&*gaps) {
                    *term = gap * gap;
                }
                totals.add::<S, _>(terms)?;
            } else {
                totals.add::<S, _>(gaps)?;
            }
            if derives {
                for (term, gap) in terms.iter_mut().zip(&*gaps) {
                    *term = loss.slope(*gap);
                }
                pulls.add::<S, _>(terms)?;
            }
        }
        for (r, value) in rows.value.iter_mut().enumerate() {
            *value = T::from_f64(totals.total(r) / classes);
        }
        if !derives {
            return Ok(true);
        }
        // The scale of each row, once the terms are summed.
        for (scale, given) in terms.iter_mut().zip(rows.scale) {
            *scale = given / classes;
        }
        let mut writer = columns.write();
        for c in 0..elements {
            let ([x], [Some(grad)]) = writer.column(c)? else { return Ok(true) };
            self.gaps(x, own, labelled.of(c), gaps);
            for ((g, gap), scale) in grad.iter_mut().zip(&*gaps).zip(&*terms) {
                *g = T::from_f64(loss.slope(*gap) * scale);
            }
            for r in labelled.of(c) {
                grad[r] = T::from_f64(-pulls.total(r) * terms[r]);
            }
            writer.finish(c);
        }
        Ok(true)
    }

    #[expect(clippy::disallowed_methods, reason = "a few numbers")]
    fn kinks(&self, Row { index, vectors: [x], .. }: Row<'_, f64, 1, 0>) -> Vec<f64> {
        let label = self.labels[index] as usize;
        let others = (0..x.len()).filter(|class| *class != label && label < x.len());
        others.map(|class| self.loss.margin + (x[class] - x[label])).collect()
    }
}

/// Writes `of(gap)` times the scale for every class, and for the label their sum times the scale and a sign.
#[inline(always)]
fn put<S: Isa, T: Real>(
    out: &mut [T],
    (label, sign): (usize, f64),
    scale: f64,
    gaps: &[f64],
    terms: &mut [f64],
    of: impl Fn(f64) -> f64,
) {
    for ((out, term), gap) in out.iter_mut().zip(&mut *terms).zip(gaps) {
        *term = of(*gap);
        *out = T::from_f64(*term * scale);
    }
    out[label] = T::from_f64(sign * sum_exactly::<S, f64>(terms) * scale);
}

//! Triplet loss: the anchor x, nearer to p than to n.
//!
//! `loss = max(0, margin + sum((p - x)^2 - (n - x)^2))`, the sum over everything of one sample. Where it is positive the
//! gradients with respect to x, p and n are `2 (n - p)`, `2 (p - x)` and `-2 (n - x)`; elsewhere, at 0 too, they are 0.
//! There is no diagonal second derivative to give: it is 0 for the anchor. Source: Apache MXNet Gluon, `TripletLoss`.

use super::plan::plan;
use crate::buffer::Buffer;
use crate::drive::Axes;
use crate::drive::columns::{ColumnRows, Columns};
use crate::drive::row_kernel::{Row, RowKernel, RowOutputs, Scratch, Vectors};
use crate::error::Result;
use crate::math::Real;
use crate::num::Float;
use crate::registry::{
    Bound, Call, Domain, Family, Gradient, Loss, Options, Plan, SAMPLE_WEIGHT, Spec, Unreduced,
    float, input, pred,
};
use crate::simd::{Baseline, Isa};
use crate::sum::{LongColumnSums, PairwiseSum, sum, sum_block_exactly};

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "TripletLoss",
    family: Family::Rowwise,
    inputs: &[
        pred(Domain::Real),
        input("positive", Domain::Real, Gradient::Default),
        input("negative", Domain::Real, Gradient::Default),
        SAMPLE_WEIGHT,
    ],
    params: &[float("margin", 1.0, Bound::Finite)],
    unreduced: Unreduced::Sample,
    hess: false,
    kinks: "margin + sum((positive - pred)**2 - (negative - pred)**2) == 0",
    build: |p| Ok(Box::new(Triplet { margin: p.float("margin") })),
};

crate::front::typed! {
    /// Triplet loss: the anchor `pred` is to be nearer to `positive` than to `negative` by a margin.
    TripletLoss(pred, positive, negative) { margin: f64 }
}

/// Terms that are summed at once where they are large.
const TERMS: usize = 256;

/// The triplet loss with its parameters.
#[derive(Clone, Copy)]
pub struct Triplet {
    /// How much nearer p should be.
    pub margin: f64,
}

impl Loss for Triplet {
    fn axes(&self, (_, first): (&str, &[usize]), options: &Options) -> Result<Axes> {
        Axes::samplewise(first, options.batch_axis)
    }
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        plan::<_, 3, 0>(*self, call)
    }
}

/// (p - x)^2 - (n - x)^2 as (a - b)(a + b): nothing overflows that the difference does not need.
#[inline(always)]
fn excess<T: Real>([x, p, n]: [T; 3]) -> T {
    (p - n) * ((p - x) + (n - x))
}

impl Triplet {
    /// The loss, 0 not yet cut off, of samples with terms too large for `T`: of one sign it is infinite, of both it need
    /// not be. Distances are made shorter by a power of two, so that no square overflows in f64.
    #[cold]
    fn far<T: Real>(self, x: &[T], p: &[T], n: &[T]) -> f64 {
        let shorter = f64::from_bits((1023 - 520) << 52);
        let mut total = PairwiseSum::default();
        let mut terms = [0.0; TERMS];
        for ((x, p), n) in x.chunks(TERMS).zip(p.chunks(TERMS)).zip(n.chunks(TERMS)) {
            for (((term, &x), &p), &n) in terms.iter_mut().zip(x).zip(p).zip(n) {
                *term = excess([x, p, n].map(|v| v.to_f64() * shorter));
            }
            total.add(sum_block_exactly::<Baseline, f64>(&terms[..x.len()]));
        }
        (self.margin * shorter * shorter + total.total()) / shorter / shorter
    }
}

/// The terms of a row, or of one element of many rows, their sums and the slopes.
#[derive(std::default::Default)]
pub struct Terms<T> {
    row: Vectors<T, 1>,
    column: Buffer<T>,
    sums: LongColumnSums,
    slopes: Buffer<T>,
}

impl<T: Real> Scratch for Terms<T> {
    fn fit(&mut self, cols: usize) -> Result<()> {
        self.row.fit(cols)
    }
}

impl<T: Real> RowKernel<T, 3, 0> for Triplet {
    const COST: f64 = 0.4;
    const BY_COLUMNS: bool = true;
    type Scratch = Terms<T>;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { vectors: [x, p, n], .. }: Row<'_, T, 3, 0>,
        RowOutputs { grads, .. }: RowOutputs<'_, T, 3, 0>,
        scratch: &mut Terms<T>,
        scale: f64,
    ) -> T {
        let [terms] = scratch.row.each();
        for (((term, &x), &p), &n) in terms.iter_mut().zip(x).zip(p).zip(n) {
            *term = excess([x, p, n]);
        }
        let loss = self.margin + sum::<S, T>(terms);
        let loss = if loss.abs() < f64::INFINITY { loss } else { self.far(x, p, n) };
        let slope = T::from_f64(2.0 * scale);
        match grads {
            grads if loss <= 0.0 => {
                grads.into_iter().flatten().for_each(|grad| grad.fill(T::ZERO));
            }
            // In one pass: three would read what lies at the same places as what they still have to store.
            [Some(by_x), Some(by_p), Some(by_n)] => {
                let grads = by_x.iter_mut().zip(by_p).zip(by_n);
                for (((((by_x, by_p), by_n), &x), &p), &n) in grads.zip(x).zip(p).zip(n) {
                    *by_x = (n - p) * slope;
                    *by_p = (p - x) * slope;
                    *by_n = (x - n) * slope;
                }
            }
            grads => {
                for (grad, (to, from)) in grads.into_iter().zip([(n, p), (p, x), (x, n)]) {
                    let Some(grad) = grad else { continue };
                    for ((g, &to), &from) in grad.iter_mut().zip(to).zip(from) {
                        *g = (to - from) * slope;
                    }
                }
            }
        }
        T::from_f64(loss.where_positive(loss))
    }

    #[inline(always)]
    fn columns<S: Isa>(
        &self,
        rows: ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
        scratch: &mut Terms<T>,
    ) -> Result<bool> {
        let Terms { column, sums, slopes, .. } = scratch;
        let (count, elements) = (columns.rows(), columns.elements());
        let terms = column.sized(count)?;
        sums.start(elements, count, false)?;
        let mut reader = columns.read();
        for c in 0..elements {
            let [x, p, n] = reader.column(c)?;
            for (((term, &x), &p), &n) in terms.iter_mut().zip(x).zip(p).zip(n) {
                *term = excess([x, p, n]);
            }
            sums.add::<S, _>(terms)?;
        }
        let slopes = slopes.sized(count)?;
        for (r, slope) in slopes.iter_mut().enumerate() {
            let loss = self.margin + sums.total(r);
            if !loss.is_finite() {
                return Ok(false);
            }
            *slope = if loss > 0.0 { T::from_f64(2.0 * rows.scale[r]) } else { T::ZERO };
            rows.value[r] = T::from_f64(loss.where_positive(loss));
        }
        if !columns.derives() {
            return Ok(true);
        }
        let slope_of = |slope: T, gap: T| if slope == T::ZERO { T::ZERO } else { gap * slope };
        let mut writer = columns.write();
        for c in 0..elements {
            let ([x, p, n], grads) = writer.column(c)?;
            for (grad, (to, from)) in grads.into_iter().zip([(n, p), (p, x), (x, n)]) {
                let Some(grad) = grad else { continue };
                for (((g, &to), &from), &slope) in grad.iter_mut().zip(to).zip(from).zip(&*slopes) {
                    *g = slope_of(slope, to - from);
                }
            }
            writer.finish(c);
        }
        Ok(true)
    }

    #[expect(clippy::disallowed_macros, reason = "one number")]
    fn kinks(&self, Row { vectors: [x, p, n], .. }: Row<'_, f64, 3, 0>) -> Vec<f64> {
        let terms = x.iter().zip(p).zip(n).map(|((&x, &p), &n)| excess([x, p, n]));
        vec![self.margin + terms.sum::<f64>()]
    }
}

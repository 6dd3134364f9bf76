//! Several quantiles of a number at once: the mean of their pinball losses.
//!
//! With predictions `x_i` of the quantiles `q_i` and the label y: `loss = 1 / Q sum_i max(q_i (y - x_i), (q_i - 1) (y - x_i))`.
//! The gradient with respect to `x_i` is `-q_i / Q` below the label, `(1 - q_i) / Q` above it and 0 at it; with respect to y
//! it is the negative of their sum. The second derivative is 0. Without quantiles given, they are the midpoints of Q equal
//! parts, `(i - 1/2) / Q`, as quantile regression of distributions has them.
//!
//! Source: Koenker and Bassett, "Regression Quantiles" (1978); `MultiQuantile` of CatBoost.

use super::AXIS;
use super::plan::plan;
use crate::buffer::Buffer;
use crate::drive::Axes;
use crate::drive::columns::{ColumnRows, Columns};
use crate::drive::row_kernel::{Row, RowKernel, RowOutputs, Scratch, Vectors};
use crate::error::{Error, Kind, Result};
use crate::math::Real;
use crate::memory;
use crate::registry::{
    Call, Default, Domain, Family, Hessian, Accepts, Loss, Options, Params, Plan, SAMPLE_WEIGHT,
    ShapeRule, Spec, Unreduced, label, param, pred,
};
use crate::simd::Isa;
use crate::sum::{LongColumnSums, sum};

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "MultiQuantileLoss",
    family: Family::Rowwise,
    inputs: &[pred(Domain::Real), label(Domain::Real).shaped(ShapeRule::PerVector), SAMPLE_WEIGHT],
    params: &[param("quantiles", Default::None, Accepts::Probabilities), AXIS],
    unreduced: Unreduced::Row,
    hess: true,
    kinks: "pred == label",
    build,
};

crate::front::typed! {
    /// Several quantiles of a number at once: the mean of their pinball losses.
    MultiQuantileLoss(pred, label) { quantiles: &[f64], axis: i64 }
}

fn build(params: &Params) -> Result<Box<dyn Loss>> {
    let quantiles = params.vector("quantiles").map(memory::copied).transpose()?;
    let axis = params.int(AXIS.name).unwrap_or(-1) as isize;
    Ok(Box::new(MultiQuantile { quantiles, axis }))
}

/// The loss with its parameters.
struct MultiQuantile {
    quantiles: Option<Vec<f64>>,
    axis: isize,
}

/// Room for a row or for what columns need, and what is the same for all rows: each quantile q, and each 1 - q.
#[derive(std::default::Default)]
struct Levels<T> {
    row: Vectors<T, 2>,
    quantiles: Vectors<T, 2>,
    are_written: bool,
    terms: Buffer<T>,
    scales: Buffer<T>,
    sums: LongColumnSums,
}

impl<T: Real> Scratch for Levels<T> {
    fn fit(&mut self, cols: usize) -> Result<()> {
        self.are_written = false;
        self.row.fit(cols)?;
        self.quantiles.fit(cols)
    }
}

/// The pinball loss of a gap, and its derivative by the prediction.
#[inline(always)]
fn pinball<T: Real>(gap: T, [below, above]: [T; 2]) -> [T; 2] {
    let factor = if gap > T::ZERO { below } else { above };
    let step = if gap > T::ZERO { -below } else { above };
    let step = if gap == T::ZERO { T::ZERO } else { step };
    [(gap * factor).abs(), if gap.is_nan() { gap } else { step }]
}

impl MultiQuantile {
    /// Each quantile q, and each 1 - q, which are written once.
    #[inline(always)]
    fn quantiles<'q, T: Real>(
        &self,
        quantiles: &'q mut Vectors<T, 2>,
        are_written: &mut bool,
    ) -> [&'q [T]; 2] {
        let [below, above] = quantiles.each();
        if !std::mem::replace(are_written, true) {
            self.write_quantiles(below, above);
        }
        [below, above]
    }

    fn write_quantiles<T: Real>(&self, below: &mut [T], above: &mut [T]) {
        let count = below.len() as f64;
        let pairs = below.iter_mut().zip(above);
        match &self.quantiles {
            Some(quantiles) => {
                for ((below, above), q) in pairs.zip(quantiles) {
                    [*below, *above] = [*q, 1.0 - q].map(T::from_f64);
                }
            }
            None => {
                for (i, (below, above)) in pairs.enumerate() {
                    let parts = [i as f64 + 0.5, count - i as f64 - 0.5];
                    [*below, *above] = parts.map(|part| T::from_f64(part / count));
                }
            }
        }
    }
}

impl Loss for MultiQuantile {
    fn axes(&self, first: (&str, &[usize]), options: &Options) -> Result<Axes> {
        let axes = Axes::rowwise(first, self.axis, options.batch_axis)?;
        let got = axes.vector_len();
        let wrong = |expected: String| {
            let detail = format!("expected {expected}, one for each quantile, got {got}");
            Err(Error::new(Kind::Shape, first.0, detail))
        };
        match &self.quantiles {
            Some(given) if given.len() != got => wrong(format!("{} predictions", given.len())),
            None if axes.has_empty_vectors() => wrong("predictions".into()),
            _ => Ok(axes),
        }
    }
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        plan::<_, 1, 1>(self, call)
    }
    fn hessian(&self) -> Hessian {
        Hessian::Zero
    }
}

impl<T: Real> RowKernel<T, 1, 1> for &MultiQuantile {
    const COST: f64 = 0.5;
    const BY_COLUMNS: bool = true;
    type Scratch = Levels<T>;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { vectors: [x], numbers: [y], .. }: Row<'_, T, 1, 1>,
        outputs: RowOutputs<'_, T, 1, 1>,
        scratch: &mut Levels<T>,
        scale: f64,
    ) -> T {
        let RowOutputs { grads: [grad], number_grads: [label_grad], hess, .. } = outputs;
        let [below, above] = self.quantiles(&mut scratch.quantiles, &mut scratch.are_written);
        let [terms, slopes] = scratch.row.each();
        let share = 1.0 / x.len() as f64;
        let results = terms.iter_mut().zip(&mut *slopes).zip(x).zip(below.iter().zip(above));
        for (((term, slope), &own), (&below, &above)) in results {
            [*term, *slope] = pinball(y - own, [below, above]);
        }
        if let Some(hess) = hess {
            hess.fill(T::ZERO);
        }
        if let Some(grad) = grad {
            let scale = T::from_f64(scale * share);
            for (g, &slope) in grad.iter_mut().zip(&*slopes) {
                *g = slope * scale;
            }
        }
        if let Some(grad) = label_grad {
            *grad = T::from_f64(-sum::<S, T>(slopes) * share * scale);
        }
        T::from_f64(sum::<S, T>(terms) * share)
    }

    #[inline(always)]
    fn columns<S: Isa>(
        &self,
        rows: ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
        levels: &mut Levels<T>,
    ) -> Result<bool> {
        let Levels { quantiles, are_written, terms, scales, sums, .. } = levels;
        let [below, above] = self.quantiles(quantiles, are_written);
        let (count, elements) = (columns.rows(), columns.elements());
        let (terms, scales) = (terms.sized(count)?, scales.sized(count)?);
        let share = 1.0 / elements as f64;
        for (scale, given) in scales.iter_mut().zip(rows.scale) {
            *scale = T::from_f64(given * share);
        }
        sums.start(elements, count, false)?;
        let y = rows.numbers[0];
        let mut writer = columns.write();
        for c in 0..elements {
            let of = |y: T, x: T| pinball(y - x, [below[c], above[c]]);
            let ([x], [grad]) = writer.column(c)?;
            if let Some(grad) = grad {
                let slopes = grad.iter_mut().zip(&*scales);
                for (((term, (g, &scale)), &x), &y) in terms.iter_mut().zip(slopes).zip(x).zip(y) {
                    let slope;
                    [*term, slope] = of(y, x);
                    *g = slope * scale;
                }
            } else {
                for ((term, &x), &y) in terms.iter_mut().zip(x).zip(y) {
                    [*term, _] = of(y, x);
                }
            }
            sums.add::<S, _>(terms)?;
            writer.finish(c);
        }
        for (r, value) in rows.value.iter_mut().enumerate() {
            *value = T::from_f64(sums.total(r) * share);
        }
        Ok(true)
    }

    #[expect(clippy::disallowed_methods, reason = "a few numbers")]
    fn kinks(&self, Row { vectors: [x], numbers: [y], .. }: Row<'_, f64, 1, 1>) -> Vec<f64> {
        x.iter().map(|x| x - y).collect()
    }
}

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
use crate::drive::Axes;
use crate::drive::row_kernel::{Row, RowKernel, RowOutputs, Scratch, Vectors};
use crate::error::{Error, Kind as Mistake, Result};
use crate::math::Real;
use crate::memory;
use crate::registry::{
    Call, Default, Domain, Family, Hessian, Kind, Loss, Options, Params, Plan, SAMPLE_WEIGHT,
    ShapeRule, Spec, Unreduced, label, param, pred,
};
use crate::simd::Isa;
use crate::sum::sum;

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "MultiQuantileLoss",
    family: Family::Rowwise,
    inputs: &[pred(Domain::Real), label(Domain::Real).shaped(ShapeRule::PerVector), SAMPLE_WEIGHT],
    params: &[param("quantiles", Default::None, Kind::Probabilities), AXIS],
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

/// Room for a row, and what is the same for all rows: each quantile q, and each 1 - q.
#[derive(std::default::Default)]
struct Levels<T> {
    row: Vectors<T, 2>,
    quantiles: Vectors<T, 2>,
    are_written: bool,
}

impl<T: Real> Scratch for Levels<T> {
    fn fit(&mut self, cols: usize) -> Result<()> {
        self.are_written = false;
        self.row.fit(cols)?;
        self.quantiles.fit(cols)
    }
}

impl MultiQuantile {
    /// Writes each quantile q, and each 1 - q.
    #[inline(always)]
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
            Err(Error::new(Mistake::Shape, first.0, detail))
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
        let [terms, slopes] = scratch.row.each();
        let [below, above] = scratch.quantiles.each();
        if !scratch.are_written {
            self.write_quantiles(below, above);
            scratch.are_written = true;
        }
        let share = 1.0 / x.len() as f64;
        let results = terms.iter_mut().zip(&mut *slopes).zip(x).zip(below.iter().zip(&*above));
        for (((term, slope), &own), (&below, &above)) in results {
            let gap = y - own;
            let factor = if gap > T::ZERO { below } else { above };
            *term = (gap * factor).abs();
            let step = if gap > T::ZERO { -below } else { above };
            let step = if gap == T::ZERO { T::ZERO } else { step };
            *slope = if gap.is_nan() { gap } else { step };
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

    #[expect(clippy::disallowed_methods, reason = "a few numbers")]
    fn kinks(&self, Row { vectors: [x], numbers: [y], .. }: Row<'_, f64, 1, 1>) -> Vec<f64> {
        x.iter().map(|x| x - y).collect()
    }
}

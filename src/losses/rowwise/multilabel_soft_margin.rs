//! Multi-label soft margin: the mean over the classes of the binary cross-entropy of each.
//!
//! With the logits x, the labels y from 0 to 1, weights w of the classes (1 if none are given) and C classes,
//! `loss = 1 / C sum_i w_i (y_i softplus(-x_i) + (1 - y_i) softplus(x_i))`. Value, slope and second derivative of a class are
//! those of [`SigmoidBce`], times `w_i / C`. A class of weight 0 is left out, whatever it holds.
//!
//! Source: PyTorch, `MultiLabelSoftMarginLoss`.

use super::AXIS;
use super::class_labels::{check_class_weights, class_axes};
use super::plan::plan_weighted;
use crate::buffer::Buffer;
use crate::drive::Axes;
use crate::drive::columns::{ColumnRows, Columns};
use crate::drive::row_kernel::{Row, RowKernel, RowOutputs, Scratch, Vectors};
use crate::error::Result;
use crate::losses::elementwise::Elementwise;
use crate::losses::elementwise::sigmoid_bce::SigmoidBce;
use crate::math::Real;
use crate::memory;
use crate::registry::{
    Call, Default, Domain, Family, Accepts, Loss, OUT_OF_RANGE, Options, Params, Plan, SAMPLE_WEIGHT,
    Spec, Unreduced, label, param, pred,
};
use crate::simd::Isa;
use crate::sum::{LongColumnSums, sum};

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "MultiLabelSoftMarginLoss",
    family: Family::Rowwise,
    inputs: &[pred(Domain::Real), label(Domain::Probability), SAMPLE_WEIGHT],
    params: &[AXIS, OUT_OF_RANGE, param("class_weight", Default::None, Accepts::Weights)],
    unreduced: Unreduced::Row,
    hess: true,
    kinks: "",
    build,
};

crate::front::typed! {
    /// Multi-label soft margin: the mean over the classes of the binary cross-entropy of each.
    MultiLabelSoftMarginLoss(pred, label) { axis: i64, out_of_range: &str, class_weight: &[f64] }
}

fn build(params: &Params) -> Result<Box<dyn Loss>> {
    let class_weight = params.vector("class_weight").map(memory::copied).transpose()?;
    let axis = params.int(AXIS.name).unwrap_or(-1) as isize;
    Ok(Box::new(MultiLabelSoftMargin { axis, class_weight }))
}

/// The loss with its parameters.
struct MultiLabelSoftMargin {
    axis: isize,
    class_weight: Option<Vec<f64>>,
}

impl Loss for MultiLabelSoftMargin {
    fn axes(&self, first: (&str, &[usize]), options: &Options) -> Result<Axes> {
        let axes = class_axes(first, self.axis, options)?;
        check_class_weights("class_weight", self.class_weight.as_deref(), &axes)?;
        Ok(axes)
    }
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        let (axes, weighting) = (call.axes.clone(), call.weighting()?);
        let factors = self.class_weight.as_deref();
        Ok(plan_weighted::<_, 2, 0>(self, call, axes, weighting, factors))
    }
}

/// Room for a row, or for what columns need.
#[derive(std::default::Default)]
struct SoftMarginRoom<T> {
    row: Vectors<T, 2>,
    terms: Buffer<T>,
    factors: Buffer<T>,
    sums: LongColumnSums,
}

impl<T: Real> Scratch for SoftMarginRoom<T> {
    fn fit(&mut self, cols: usize) -> Result<()> {
        self.row.fit(cols)
    }
}

impl<T: Real> RowKernel<T, 2, 0> for &MultiLabelSoftMargin {
    const COST: f64 = <SigmoidBce as Elementwise<2>>::COST;
    const BY_COLUMNS: bool = true;
    type Scratch = SoftMarginRoom<T>;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { vectors: [x, y], .. }: Row<'_, T, 2, 0>,
        RowOutputs { grads: [grad, label_grad], hess, .. }: RowOutputs<'_, T, 2, 0>,
        room: &mut SoftMarginRoom<T>,
        scale: f64,
    ) -> T {
        let [terms, weights] = room.row.each();
        match &self.class_weight {
            Some(given) => {
                for (weight, given) in weights.iter_mut().zip(given) {
                    *weight = T::from_f64(*given);
                }
            }
            None => weights.fill(T::ONE),
        }
        // Slices of one known length: what checks its indices is not computed by vectors.
        let n = x.len();
        let (y, weights, terms) = (&y[..n], &weights[..n], &mut terms[..n]);
        let classes = n as f64;
        let factor = T::from_f64(scale / classes);
        let at = |i: usize| SigmoidBce.point::<S, T>([x[i], y[i]]);
        if let Some(grad) = grad {
            let grad = &mut grad[..n];
            for i in 0..n {
                let point = at(i);
                terms[i] = point.value.weighted(weights[i]);
                grad[i] = (point.grad[0] * factor).weighted(weights[i]);
            }
        } else {
            fill(terms, |i| at(i).value.weighted(weights[i]));
        }
        if let Some(grad) = label_grad {
            fill(&mut grad[..n], |i| (at(i).grad[1] * factor).weighted(weights[i]));
        }
        if let Some(hess) = hess {
            fill(&mut hess[..n], |i| (at(i).hess * factor).weighted(weights[i]));
        }
        T::from_f64(sum::<S, T>(terms) / classes)
    }

    #[inline(always)]
    fn columns<S: Isa>(
        &self,
        rows: ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
        room: &mut SoftMarginRoom<T>,
    ) -> Result<bool> {
        let SoftMarginRoom { terms, factors, sums, .. } = room;
        let (count, elements) = (columns.rows(), columns.elements());
        let (terms, factors) = (terms.sized(count)?, factors.sized(count)?);
        let classes = elements as f64;
        for (factor, scale) in factors.iter_mut().zip(rows.scale) {
            *factor = T::from_f64(scale / classes);
        }
        sums.start(elements, count, false)?;
        let mut writer = columns.write();
        for c in 0..elements {
            let weight = self.class_weight.as_ref().map_or(T::ONE, |w| T::from_f64(w[c]));
            let Some(([x, y], [grad, label_grad])) = writer.checked(c)? else { return Ok(false) };
            let (x, y) = (&x[..count], &y[..count]);
            if let Some(grad) = grad {
                let grad = &mut grad[..count];
                for r in 0..count {
                    let point = SigmoidBce.point::<S, T>([x[r], y[r]]);
                    terms[r] = point.value.weighted(weight);
                    grad[r] = (point.grad[0] * factors[r]).weighted(weight);
                }
            } else {
                fill(terms, |r| SigmoidBce.point::<S, T>([x[r], y[r]]).value.weighted(weight));
            }
            if let Some(grad) = label_grad {
                fill(&mut grad[..count], |r| {
                    let slope = SigmoidBce.point::<S, T>([x[r], y[r]]).grad[1];
                    (slope * factors[r]).weighted(weight)
                });
            }
            sums.add::<S, _>(terms)?;
            writer.finish(c);
        }
        for (r, value) in rows.value.iter_mut().enumerate() {
            *value = T::from_f64(sums.total(r) / classes);
        }
        Ok(true)
    }
}

/// Writes a number for each index.
#[inline(always)]
fn fill<T>(out: &mut [T], of: impl Fn(usize) -> T) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = of(i);
    }
}

//! Softmax cross-entropy.
//!
//! For a row of logits x with p = softmax(x) and a label t, `loss = -log p[t]`; with a distribution y over the classes,
//! `loss = -sum y log p`. The gradient is `p sum(y) - y`, the diagonal of the second derivative `sum(y) p (1 - p)`. What
//! the sure and right model leaves of them is computed from the other classes' mass, see [`crate::softmax`]. With
//! `from_logits` the input already is log p: `loss = -sum y x`, of gradient `-y`.
//!
//! Label smoothing mixes y with the uniform distribution: `y (1 - s) + s / C`; class weights w multiply y then. A label
//! that is a class index is the one-hot y.
//!
//! Source: Apache MXNet Gluon, `SoftmaxCrossEntropyLoss`; class weights and label smoothing as PyTorch has them.

use super::class_labels::{ClassLabels, Classes, IGNORED, LabelRule};
use crate::array::{Shape, View, ViewMut, elements};
use crate::drive::Axes;
use crate::drive::factor;
use crate::drive::operand::Argument;
use crate::drive::reduced::Reduced;
use crate::drive::rows::LANES;
use crate::drive::rows::{Group, RowKernel, RowOutputs, Rows, drive};
use crate::drive::scale::Scale;
use crate::drive::weight::Weighting;
use crate::error::{Error, Kind, Result, Tuple};
use crate::math::Real;
use crate::memory;
use crate::num::Float;
use crate::num::Sizes;
use crate::registry::Params;
use crate::registry::{Call, Loss, Plan, Results};
use crate::simd::{Isa, Level};
use crate::softmax::GroupSoftmax;
use crate::softmax::{Softmax, through_softmax};
use crate::sum::sum;

/// Softmax cross-entropy with its parameters.
pub struct SoftmaxCe {
    axis: isize,
    sparse: bool,
    target: Target,
    rule: LabelRule,
}

/// How labels become a distribution, and what the input is.
#[derive(Clone)]
struct Target {
    from_logits: bool,
    smoothing: f64,
    class_weight: Option<Vec<f64>>,
}

impl SoftmaxCe {
    /// From the registry's parameters.
    pub fn new(params: &Params) -> Result<Self> {
        let sparse = params.flag("sparse_label");
        let clip = params.text("out_of_range") == "clip";
        params.only_if(sparse || !clip, "out_of_range", "sparse_label=True")?;
        let ignore_index = params.int("ignore_index");
        params.only_if(sparse || ignore_index.is_none(), "ignore_index", "sparse_label=True")?;
        Ok(SoftmaxCe {
            axis: params.int("axis").unwrap_or(-1) as isize,
            sparse,
            target: Target {
                from_logits: params.flag("from_logits"),
                smoothing: params.float("label_smoothing"),
                class_weight: params.vector("class_weight").map(memory::copied).transpose()?,
            },
            rule: LabelRule { ignore_index, clip },
        })
    }
}

impl Loss for SoftmaxCe {
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        let pred = call.input(0);
        let (axes, class_axis) = Axes::rowwise(pred.shape(), self.axis, call.options.batch_axis)?;
        let classes = pred.shape()[class_axis];
        if classes == 0 && !axes.shape.contains(&0) {
            let detail = format!("expected at least one class, got shape {}", Tuple(pred.shape()));
            return Err(Error::new(Kind::Shape, "pred", detail));
        }
        if let Some(weights) = &self.target.class_weight
            && weights.len() != classes
        {
            let detail =
                format!("expected one weight for each of {classes} classes, got {}", weights.len());
            return Err(Error::new(Kind::Shape, "class_weight", detail));
        }
        let mut weighting = call.weighting(&axes)?;
        let label = call.input(1);
        let label_error = |expected: &str| {
            let one_hot = self.sparse && label.clone().reshape(pred.shape()).is_some();
            let remedy = if one_hot { "; distributions need sparse_label=False" } else { "" };
            let [pred, given] = [pred, label].map(|v| Tuple(v.shape()));
            let detail =
                format!("expected {expected} (pred has shape {pred}), got shape {given}{remedy}");
            Error::new(Kind::Shape, call.names[1], detail)
        };
        let labels = if self.sparse {
            let expected = "pred's shape without the class axis, or with it of size 1";
            let lined_up = axes.line_up(label).ok_or_else(|| label_error(expected))?;
            let Target { class_weight, smoothing, .. } = &self.target;
            let classes = Classes {
                count: classes,
                weight: class_weight.as_deref(),
                inside: *smoothing > 0.0,
            };
            let arguments = (call, &axes);
            Labels::Sparse(ClassLabels::new(
                &self.rule,
                arguments,
                &lined_up,
                &mut weighting,
                &classes,
            )?)
        } else {
            let expected =
                "pred's shape up to axes of size 1, or one dimension with as many elements";
            let view = label.clone().reshape(pred.shape()).ok_or_else(|| label_error(expected))?;
            Labels::Dense(axes.line_up_rows(view, class_axis).into())
        };
        let class_weight = self.target.class_weight.as_deref().unwrap_or_default();
        let Sizes { least, most, .. } = f64::sizes(class_weight);
        let view = axes.line_up_rows(pred.clone(), class_axis);
        let pred = Argument { overwritten: call.in_place, ..view.into() };
        Ok(Box::new(SoftmaxPlan {
            target: &self.target,
            level: call.level,
            single: call.single() && !factor::leaves_single([least, most]),
            axes,
            class_axis,
            pred_shape: Shape::from_slice(call.input(0).shape()),
            pred,
            labels,
            weighting,
        }))
    }

    fn differentiable(&self, position: usize) -> bool {
        position != 1 || !self.sparse
    }

    fn in_place(&self) -> bool {
        true
    }
}

/// The labels of all rows, the batch axis first.
enum Labels<'a> {
    Sparse(ClassLabels),
    Dense(Argument<'a>),
}

struct SoftmaxPlan<'a> {
    target: &'a Target,
    level: Level,
    single: bool,
    axes: Axes,
    class_axis: usize,
    pred_shape: Shape,
    pred: Argument<'a>,
    labels: Labels<'a>,
    weighting: Weighting<'a>,
}

impl Plan for SoftmaxPlan<'_> {
    fn value_shape(&self) -> Shape {
        self.axes.value_shape(self.weighting.reduction)
    }
    fn cost(&self) -> f64 {
        COST * self.pred.view.len() as f64
    }
    fn run(&self, results: Results<'_>) -> Result<()> {
        if self.single { self.run_in::<f32>(results) } else { self.run_in::<f64>(results) }
    }
}

/// Rough time for value and gradient of one logit, in nanoseconds.
const COST: f64 = 0.6;

impl SoftmaxPlan<'_> {
    fn line_up<'a>(&self, view: Option<ViewMut<'a>>) -> Option<ViewMut<'a>> {
        self.axes.line_up_rows_mut(view?, &self.pred_shape, self.class_axis)
    }

    fn run_in<T: Real>(&self, results: Results<'_>) -> Result<()> {
        let shape = self.axes.batch_first();
        let view = |w| View::from_slice(w, &shape);
        let weighting = match &self.labels {
            Labels::Sparse(sparse) => Weighting {
                sample_weight: sparse.weight.as_deref().map(view),
                divisor_weight: sparse.divisor_weight.as_deref().map(view),
                ..self.weighting.clone()
            },
            Labels::Dense(_) => self.weighting.clone(),
        };
        let reduced = Reduced { axes: &self.axes, weighting: &weighting, level: self.level };
        let [grad, label_grad, ..] = results.grads.map(|v| self.line_up(v));
        let hess = self.line_up(results.hess);
        let derives = grad.is_some() || label_grad.is_some() || hess.is_some();
        let scale = if derives { reduced.scale()? } else { Scale::All(1.0) };
        let mut unreduced =
            memory::filled(T::ZERO, if results.value.is_some() { elements(&shape) } else { 0 })?;
        let grad = grad.as_ref();
        let value = results.value.is_some().then_some(&mut unreduced[..]);
        let rows = Rows {
            level: self.level,
            shape: self.pred.view.shape(),
            outer: shape.len(),
            inputs: [&self.pred],
            outside: &|_, _| Ok(()),
            grads: [grad],
            hess: hess.as_ref(),
            elements: None,
            scale: &scale,
            value,
        };
        let target = RowTarget::<T>::new(self.target)?;
        match &self.labels {
            Labels::Sparse(ClassLabels { labels, .. }) if target.smoothing == T::ZERO => {
                drive(&SparseRows { labels, from_logits: target.from_logits }, rows)?;
            }
            Labels::Sparse(ClassLabels { labels, .. }) => {
                drive(&SmoothedRows { labels, target }, rows)?;
            }
            Labels::Dense(label) => {
                let (inputs, grads) = ([&self.pred, label], [grad, label_grad.as_ref()]);
                let Rows { level, shape, outer, outside, hess, elements, scale, value, .. } = rows;
                drive(
                    &target,
                    Rows {
                        level,
                        shape,
                        outer,
                        inputs,
                        outside,
                        grads,
                        hess,
                        elements,
                        scale,
                        value,
                    },
                )?;
            }
        }
        if let Some(value) = results.value {
            reduced.value(&unreduced, value)?;
        }
        Ok(())
    }
}

/// Rows whose label is one class.
struct SparseRows<'a> {
    labels: &'a [u32],
    from_logits: bool,
}

impl<T: Real> RowKernel<T, 1> for SparseRows<'_> {
    const COST: f64 = COST;
    const GROUPED: bool = true;

    #[inline(always)]
    fn skips(&self, row: usize) -> bool {
        self.labels[row] == IGNORED
    }

    #[inline(always)]
    fn row<S: Isa>(&self, row: usize, [x]: [&[T]; 1], out: RowOutputs<'_, T, 1>, scale: f64) -> T {
        let RowOutputs { grads: [mut grad], mut hess, scratch: [scratch, _], .. } = out;
        let label = self.labels[row] as usize;
        if self.from_logits {
            for out in [&mut grad, &mut hess].into_iter().flatten() {
                out.fill(T::ZERO);
            }
            if let Some(grad) = grad {
                grad[label] = T::from_f64(-scale);
            }
            return -x[label];
        }
        let exps = grad.as_deref_mut().unwrap_or(scratch);
        let softmax = Softmax::of::<S>(x, exps);
        let complement = softmax.complement(label, exps[label]);
        if let Some(hess) = hess {
            softmax.curvature(exps, hess, scale);
        }
        if let Some(grad) = grad {
            let factor = T::from_f64(softmax.inverse() * scale);
            for g in grad.iter_mut() {
                *g *= factor;
            }
            grad[label] = T::from_f64(-complement * scale);
        }
        softmax.log_sum_minus::<S>(x[label])
    }

    #[inline(always)]
    fn group<S: Isa>(&self, group: Group<'_, T>) {
        let Group { order, row, classes, x, grad, hess, scale, value, wants_grad } = group;
        let labels = &self.labels[row..][..value.len()];
        // Any class will do for a row that is left out.
        let mut label = [0; LANES];
        for (label, &given) in label.iter_mut().zip(labels) {
            *label = (given as usize).min(classes - 1);
        }
        let pick = |x: &[T]| {
            let mut picked = [T::ZERO; LANES];
            for l in 0..labels.len() {
                picked[l] = x[order.at(l, label[l])];
            }
            picked
        };
        if self.from_logits {
            grad.fill(T::ZERO);
            if let Some(hess) = hess {
                hess.fill(T::ZERO);
            }
            let picked = pick(x);
            for (l, value) in value.iter_mut().enumerate() {
                *value = -picked[l];
                grad[order.at(l, label[l])] = T::from_f64(-scale[l]);
            }
            return;
        }
        let softmax = GroupSoftmax::of::<S>(order, labels.len(), x, grad);
        let losses = softmax.log_sum_minus::<S>(&pick(x));
        value.copy_from_slice(&losses[..value.len()]);
        if let Some(hess) = hess {
            softmax.curvature(grad, hess, scale);
        }
        if wants_grad {
            let exps = pick(grad);
            let mut slopes = [T::ZERO; LANES];
            for l in 0..LANES {
                let complement = softmax.row(l).complement(label[l], exps[l]);
                slopes[l] = T::from_f64(-complement * scale[l]);
            }
            softmax.scale_exps(grad, scale);
            for l in 0..labels.len() {
                grad[order.at(l, label[l])] = slopes[l];
            }
        }
    }
}

/// Labels as a distribution y: how given ones become it, in the type of computation.
struct RowTarget<T> {
    from_logits: bool,
    smoothing: T,
    class_weight: Option<Vec<T>>,
}

impl<T: Real> RowTarget<T> {
    fn new(target: &Target) -> Result<Self> {
        let in_t = |w: &Vec<f64>| memory::collect(w.iter().map(|&w| T::from_f64(w)));
        Ok(RowTarget {
            from_logits: target.from_logits,
            smoothing: T::from_f64(target.smoothing),
            class_weight: target.class_weight.as_ref().map(in_t).transpose()?,
        })
    }

    /// y as it is used, from the label's row.
    #[inline(always)]
    fn mix(&self, y: &mut [T]) {
        if self.smoothing != T::ZERO {
            let uniform = self.smoothing / T::from_f64(y.len() as f64);
            for y in y.iter_mut() {
                *y = *y * (T::ONE - self.smoothing) + uniform;
            }
        }
        if let Some(weights) = &self.class_weight {
            for (y, &w) in y.iter_mut().zip(weights) {
                *y *= w;
            }
        }
    }

    /// Loss, gradient and second derivative for a row and its y.
    #[inline(always)]
    fn dense<S: Isa>(
        &self,
        x: &[T],
        y: &[T],
        grad: Option<&mut [T]>,
        label_grad: Option<&mut [T]>,
        hess: Option<&mut [T]>,
        scratch: &mut [T],
        wants_value: bool,
        scale: f64,
    ) -> T {
        let scale_t = T::from_f64(scale);
        if self.from_logits {
            if let Some(hess) = hess {
                hess.fill(T::ZERO);
            }
            if let Some(grad) = grad {
                for (g, &y) in grad.iter_mut().zip(y) {
                    *g = -y * scale_t;
                }
            }
            if let Some(label_grad) = label_grad {
                for (c, (g, &x)) in label_grad.iter_mut().zip(x).enumerate() {
                    *g = (-x).weighted(self.label_slope(c)) * scale_t;
                }
            }
            if !wants_value {
                return T::ZERO;
            }
            for ((s, &x), &y) in scratch.iter_mut().zip(x).zip(y) {
                *s = (-x).weighted(y);
            }
            return T::from_f64(sum::<S, T>(scratch));
        }
        let (softmax, total) = through_softmax::<S, T>(x, y, 1.0, scale, grad, hess, scratch);
        if let Some(label_grad) = label_grad {
            for (c, (g, &x)) in label_grad.iter_mut().zip(x).enumerate() {
                *g = softmax.log_sum_minus::<S>(x).weighted(self.label_slope(c)) * scale_t;
            }
        }
        if !wants_value {
            return T::ZERO;
        }
        for ((s, &x), &y) in scratch.iter_mut().zip(x).zip(y) {
            *s = softmax.gap(x).weighted(y);
        }
        let log_sum = T::from_f64(softmax.others).log1p::<S>();
        T::from_f64(sum::<S, T>(scratch) + total * log_sum.to_f64())
    }

    /// The derivative of y with respect to the label.
    #[inline(always)]
    fn label_slope(&self, class: usize) -> T {
        let weight = self.class_weight.as_ref().map_or(T::ONE, |w| w[class]);
        weight * (T::ONE - self.smoothing)
    }
}

/// Rows whose label is a distribution.
impl<T: Real> RowKernel<T, 2> for RowTarget<T> {
    const COST: f64 = 2.0 * COST;

    #[inline(always)]
    fn row<S: Isa>(&self, _: usize, [x, y]: [&[T]; 2], out: RowOutputs<'_, T, 2>, scale: f64) -> T {
        let RowOutputs { grads: [grad, label_grad], hess, wants_value, scratch, .. } = out;
        let [scratch, mixed] = scratch;
        mixed.copy_from_slice(y);
        self.mix(mixed);
        self.dense::<S>(x, mixed, grad, label_grad, hess, scratch, wants_value, scale)
    }
}

/// Rows whose label is one class, smoothed.
struct SmoothedRows<'a, T> {
    labels: &'a [u32],
    target: RowTarget<T>,
}

impl<T: Real> RowKernel<T, 1> for SmoothedRows<'_, T> {
    const COST: f64 = 2.0 * COST;

    #[inline(always)]
    fn skips(&self, row: usize) -> bool {
        self.labels[row] == IGNORED
    }

    #[inline(always)]
    fn row<S: Isa>(&self, row: usize, [x]: [&[T]; 1], out: RowOutputs<'_, T, 1>, scale: f64) -> T {
        let RowOutputs { grads: [grad], hess, wants_value, scratch: [scratch, mixed], .. } = out;
        let label = self.labels[row] as usize;
        mixed.fill(T::ZERO);
        mixed[label] = T::ONE;
        self.target.mix(mixed);
        self.target.dense::<S>(x, mixed, grad, None, hess, scratch, wants_value, scale)
    }
}

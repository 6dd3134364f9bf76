//! Softmax cross-entropy.
//!
//! For a row of logits x with p = softmax(x) and a label t, `loss = -log p[t]`; with a distribution y over the classes,
//! `loss = -sum y log p`. The gradient is `p sum(y) - y`, the diagonal of the second derivative `sum(y) p (1 - p)`. What
//! the sure and right model leaves of them is computed from the other classes' mass, see `crate::softmax`. With
//! `from_logits` the input already is log p: `loss = -sum y x`, of gradient `-y`.
//!
//! Label smoothing mixes y with the uniform distribution: `y (1 - s) + s / C`; class weights w multiply y then. A label
//! that is a class index is the one-hot y. With Z = log(sum exp(x)) the z-loss adds `z Z^2`, which keeps the logits near
//! 0: its gradient is `2 z Z p`, the diagonal of its second derivative `2 z p^2 + 2 z Z p (1 - p)`.
//!
//! Source: Apache MXNet Gluon, `SoftmaxCrossEntropyLoss`; class weights and label smoothing as PyTorch has them; z-loss:
//! Chowdhery and others, "PaLM: Scaling Language Modeling with Pathways" (2022).

use super::AXIS;
use super::class_labels::{
    CLASS_LABEL, ClassWeights, IGNORE_INDEX, LabelRule, RAISE_OR_CLIP, Sparse, check_class_weights,
    class_axes,
};
use super::{class_labels, plan};
use crate::drive::Axes;
use crate::drive::columns::{ColumnRows, Columns};
use crate::drive::row_kernel::{Row, RowKernel, RowOutputs, Vectors};
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::Float;
use crate::registry::{
    Bound, Call, Default, Domain, Family, Hessian, Input, Accepts, Loss, Options, Params, Plan,
    SAMPLE_WEIGHT, Spec, Unreduced, flag, float, label, param, pred,
};
use crate::simd::Isa;
use crate::softmax::{
    Column, Distribution, DistributionRoom, Head, IGNORED, PullFactors, Scalars, Slopes,
    through_softmax,
};
use crate::sum::sum;

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "SoftmaxCrossEntropyLoss",
    family: Family::Rowwise,
    inputs: &[pred(Domain::Real), label(Domain::SoftClasses), SAMPLE_WEIGHT],
    params: &[
        AXIS,
        flag("sparse_label", true),
        flag("from_logits", false),
        IGNORE_INDEX,
        RAISE_OR_CLIP,
        param("class_weight", Default::None, Accepts::Weights),
        float("label_smoothing", 0.0, Bound::Unit),
        float("z_loss", 0.0, Bound::NonNegative),
    ],
    unreduced: Unreduced::Row,
    hess: true,
    kinks: "",
    build: |p| Ok(Box::new(SoftmaxCe::new(p)?)),
};

crate::front::typed! {
    /// Softmax cross-entropy of class indices or, without `sparse_label`, of distributions.
    SoftmaxCrossEntropyLoss(pred, label) {
        axis: i64,
        sparse_label: bool,
        from_logits: bool,
        ignore_index: i64,
        out_of_range: &str,
        class_weight: &[f64],
        label_smoothing: f64,
        z_loss: f64,
    }
}

/// Softmax cross-entropy with its parameters.
pub struct SoftmaxCe {
    axis: isize,
    sparse: bool,
    from_logits: bool,
    target: TargetRule,
    rule: LabelRule,
}

impl SoftmaxCe {
    fn new(params: &Params) -> Result<Self> {
        let sparse = params.flag("sparse_label");
        let from_logits = params.flag("from_logits");
        let rule = LabelRule::new(params);
        params.only_if(sparse || !rule.clip, RAISE_OR_CLIP.name, ("sparse_label", true))?;
        let ignores = rule.ignore_index.is_some();
        params.only_if(sparse || !ignores, IGNORE_INDEX.name, ("sparse_label", true))?;
        let target = TargetRule {
            smoothing: params.float("label_smoothing"),
            class_weight: params.vector("class_weight").map(memory::copied).transpose()?,
            z_loss: params.float("z_loss"),
        };
        params.only_if(target.z_loss == 0.0 || !from_logits, "z_loss", ("from_logits", false))?;
        let axis = params.int(AXIS.name).unwrap_or(-1) as isize;
        Ok(SoftmaxCe { axis, sparse, from_logits, target, rule })
    }
}

impl Loss for SoftmaxCe {
    fn axes(&self, first: (&str, &[usize]), options: &Options) -> Result<Axes> {
        let axes = class_axes(first, self.axis, options)?;
        check_class_weights("class_weight", self.target.class_weight.as_deref(), &axes)?;
        Ok(axes)
    }

    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        let SoftmaxCe { target, rule, .. } = self;
        let weights = target.class_weight.as_deref();
        if !self.sparse {
            let weighting = call.weighting()?;
            let dense = Dense { target, from_logits: self.from_logits };
            let axes = call.axes.clone();
            return Ok(plan::plan_weighted::<_, 2, 0>(dense, call, axes, weighting, weights));
        }
        let inside = target.smoothing > 0.0 || target.z_loss > 0.0;
        let classes = ClassWeights { weights, inside };
        if self.from_logits {
            class_labels::plan(OfLogProbs(target), rule, classes, call)
        } else if inside {
            let count = call.axes.vector_len();
            class_labels::plan(Mixed::new(target, count), rule, classes, call)
        } else {
            class_labels::plan(CrossEntropy, rule, classes, call)
        }
    }

    fn input(&self, declared: Input) -> Input {
        match declared.domain {
            Domain::SoftClasses if self.sparse => CLASS_LABEL,
            _ => declared,
        }
    }

    fn hessian(&self) -> Hessian {
        if self.from_logits { Hessian::Zero } else { Hessian::Diagonal }
    }

    fn in_place(&self) -> bool {
        true
    }
}

/// How labels become a distribution, and what is added.
struct TargetRule {
    smoothing: f64,
    class_weight: Option<Vec<f64>>,
    z_loss: f64,
}

impl TargetRule {
    #[inline(always)]
    fn weight(&self, class: usize) -> f64 {
        self.class_weight.as_ref().map_or(1.0, |w| w[class])
    }
}

/// -log p of the label.
struct CrossEntropy;

impl Head for CrossEntropy {
    fn slopes(&self, row: &Scalars) -> Slopes {
        Slopes {
            value: row.nll,
            total: 1.0,
            at_label: -row.complement,
            curvature: 1.0,
            ..Slopes::default()
        }
    }
}

/// A smoothed label, weights of classes, and the z-loss.
struct Mixed<'t> {
    target: &'t TargetRule,
    /// What every class has of the label.
    share: f64,
    /// The sum of the weights.
    weights: f64,
}

impl<'t> Mixed<'t> {
    fn new(target: &'t TargetRule, classes: usize) -> Self {
        let share = target.smoothing / classes as f64;
        Mixed { target, share, weights: (0..classes).map(|c| target.weight(c)).sum() }
    }
}

impl Head for Mixed<'_> {
    fn needs_log_sum(&self) -> bool {
        true
    }

    fn spreads(&self) -> bool {
        self.share > 0.0
    }

    fn weights(&self) -> Option<&[f64]> {
        self.target.class_weight.as_deref()
    }

    #[inline(always)]
    fn slopes(&self, row: &Scalars) -> Slopes {
        let TargetRule { smoothing, z_loss, .. } = *self.target;
        let weight = self.target.weight(row.class);
        let own = (1.0 - smoothing) * weight;
        // Of an impossible label that has no weight of its own nothing is left.
        let mut value = row.nll.weighted(own);
        if self.share > 0.0 {
            value += self.share * (row.spread + self.weights * row.log_sum);
        }
        let (mut pull, log_sum) = (0.0, row.max + row.log_sum);
        if z_loss > 0.0 {
            pull = 2.0 * z_loss * log_sum;
            value += z_loss * log_sum * log_sum;
        }
        let total = own + self.share * self.weights;
        // Either costs less than to guess which.
        let of_small = total * row.p - (own + self.share * weight);
        let of_large = self.share * (self.weights - weight) - total * row.complement;
        let of_target = if row.p < 0.5 { of_small } else { of_large };
        Slopes {
            value,
            total,
            pull,
            by_weight: -self.share,
            at_label: of_target + pull.weighted(row.p),
            curvature: total + pull,
            square: 2.0 * z_loss,
            ..Slopes::default()
        }
    }
}

/// Rows of logarithms of probabilities whose label is one class.
struct OfLogProbs<'t>(&'t TargetRule);

impl Sparse for OfLogProbs<'_> {
    type Kernel<'k>
        = LogProbRows<'k>
    where
        Self: 'k;
    fn kernel<'k>(&'k self, labels: &'k [u32]) -> Self::Kernel<'k> {
        LogProbRows { target: self.0, labels }
    }
}

struct LogProbRows<'a> {
    target: &'a TargetRule,
    labels: &'a [u32],
}

impl<T: Real> RowKernel<T, 1, 0> for LogProbRows<'_> {
    const COST: f64 = 0.2;
    type Scratch = Vectors<T, 1>;

    #[inline(always)]
    fn skips(&self, row: usize) -> bool {
        self.labels[row] == IGNORED
    }

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { index, vectors: [x], .. }: Row<'_, T, 1, 0>,
        RowOutputs { grads: [grad], hess, .. }: RowOutputs<'_, T, 1, 0>,
        scratch: &mut Vectors<T, 1>,
        scale: f64,
    ) -> T {
        let label = self.labels[index] as usize;
        if let Some(hess) = hess {
            hess.fill(T::ZERO);
        }
        let TargetRule { smoothing, .. } = *self.target;
        if smoothing == 0.0 {
            if let Some(grad) = grad {
                grad.fill(T::ZERO);
                grad[label] = T::from_f64(-scale);
            }
            return -x[label];
        }
        let [terms] = scratch.each();
        let share = smoothing / x.len() as f64;
        let of = |class: usize, own: f64| T::from_f64((share + own) * self.target.weight(class));
        for (c, (term, &x)) in terms.iter_mut().zip(x).enumerate() {
            *term = (-x).weighted(of(c, 0.0));
        }
        terms[label] = (-x[label]).weighted(of(label, 1.0 - smoothing));
        if let Some(grad) = grad {
            let scale = T::from_f64(scale);
            for (c, g) in grad.iter_mut().enumerate() {
                *g = -of(c, 0.0) * scale;
            }
            grad[label] = -of(label, 1.0 - smoothing) * scale;
        }
        T::from_f64(sum::<S, T>(terms))
    }
}

/// Rows whose label is a distribution.
struct Dense<'a> {
    target: &'a TargetRule,
    from_logits: bool,
}

impl Dense<'_> {
    /// y as it is used, from the label's row.
    #[inline(always)]
    fn mix<T: Real>(&self, y: &mut [T]) {
        let classes = y.len();
        self.smooth(y, classes);
        if let Some(weights) = &self.target.class_weight {
            for (y, &w) in y.iter_mut().zip(weights) {
                *y *= T::from_f64(w);
            }
        }
    }

    /// Mixes with the uniform distribution.
    #[inline(always)]
    fn smooth<T: Real>(&self, y: &mut [T], classes: usize) {
        if self.target.smoothing != 0.0 {
            let smoothing = T::from_f64(self.target.smoothing);
            let uniform = smoothing / T::from_f64(classes as f64);
            for y in y {
                *y = *y * (T::ONE - smoothing) + uniform;
            }
        }
    }

    /// The derivative of y with respect to the label.
    #[inline(always)]
    fn label_slope<T: Real>(&self, class: usize) -> T {
        T::from_f64(self.target.weight(class)) * (T::ONE - T::from_f64(self.target.smoothing))
    }
}

impl<T: Real> RowKernel<T, 2, 0> for Dense<'_> {
    const COST: f64 = 1.2;
    const BY_COLUMNS: bool = true;
    type Scratch = DistributionRoom<T>;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { vectors: [x, y], .. }: Row<'_, T, 2, 0>,
        outputs: RowOutputs<'_, T, 2, 0>,
        room: &mut DistributionRoom<T>,
        scale: f64,
    ) -> T {
        let RowOutputs { grads: [grad, label_grad], hess, wants_value, .. } = outputs;
        let [scratch, mixed] = room.row.each();
        mixed.copy_from_slice(y);
        self.mix(mixed);
        let y = &*mixed;
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
        let z_loss = self.target.z_loss;
        let factors = PullFactors { temperature: 1.0, z_loss, scale };
        let (softmax, total) = through_softmax::<S, T>([x, y], factors, [grad, hess], scratch);
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
        let log_t = T::from_f64(softmax.others).log1p::<S>();
        let value = sum::<S, T>(scratch) + total * log_t.to_f64();
        let z = softmax.max.to_f64() + Real::log1p::<S>(softmax.others);
        T::from_f64(if z_loss > 0.0 { value + z_loss * z * z } else { value })
    }

    #[inline(always)]
    fn columns<S: Isa>(
        &self,
        mut rows: ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
        room: &mut DistributionRoom<T>,
    ) -> Result<bool> {
        if self.from_logits || self.target.z_loss > 0.0 {
            return Ok(false);
        }
        let labels = OneClass { dense: self, classes: columns.elements() };
        room.by_columns::<S, _>(&labels, &mut rows, columns)
    }
}

/// Labels of one class of many rows.
struct OneClass<'a> {
    dense: &'a Dense<'a>,
    classes: usize,
}

impl<T: Real> Distribution<T> for OneClass<'_> {
    #[inline(always)]
    fn target<'y, S: Isa>(&self, class: usize, label: &'y [T], room: &'y mut [T]) -> &'y [T] {
        let TargetRule { smoothing, class_weight, .. } = self.dense.target;
        if *smoothing == 0.0 && class_weight.is_none() {
            return label;
        }
        room.copy_from_slice(label);
        self.dense.smooth(room, self.classes);
        if let Some(weights) = class_weight {
            let weight = T::from_f64(weights[class]);
            for y in &mut *room {
                *y *= weight;
            }
        }
        room
    }

    #[inline(always)]
    fn summands<S: Isa>(&self, column: Column<'_, T>, y: &[T], out: &mut [T]) {
        let y = &y[..out.len()];
        column.map(out, |r, _, gap, _| gap.weighted(y[r]));
    }

    fn loss(&self, terms: f64, total: f64, log_sum: T) -> f64 {
        terms + total * log_sum.to_f64()
    }

    #[inline(always)]
    fn slopes<S: Isa>(&self, class: usize, column: Column<'_, T>, scale: &[f64], out: &mut [T]) {
        let (by_label, scale) = (self.dense.label_slope(class), &scale[..out.len()]);
        column.map(out, |r, _, gap, log_sum| {
            (gap + log_sum).weighted(by_label) * T::from_f64(scale[r])
        });
    }
}

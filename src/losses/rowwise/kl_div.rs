//! Kullback-Leibler divergence of a prediction from a distribution.
//!
//! With y the label and l = log p the prediction, `loss = y (log y - l)` for every element: gradient -y with respect to l,
//! `log y - l + 1` with respect to y, second derivative 0. Where y is 0 the loss is 0, whatever l; below 0 it is NaN. An
//! epsilon, if there is one, is added inside the logarithm of y only.
//!
//! A label may be t = log y: `loss = exp(t) (t - l)`, of derivative `exp(t) (t - l + 1)` with respect to t, both 0 where
//! exp(t) is.
//!
//! From logits x, l = log softmax(x) along an axis. With s the derivative of the result with respect to each element of
//! E, the gradient is `p sum(s y) - s y`, the diagonal of the second derivative `sum(s y) p (1 - p)`.
//!
//! A temperature T makes it T^2 times the divergence of softmax(x / T): gradients keep their size, as Hinton, Vinyals and
//! Dean have it, "Distilling the Knowledge in a Neural Network" (2015). The gradient is T times that of logits x / T, the
//! second derivative is the same. What is computed is E / T, with T log p instead of log p: `T log p = (x - max) - T log
//! sum exp((x - max) / T)`, in which no small T overflows.
//!
//! Source: Apache MXNet Gluon, `KLDivLoss`; `log_target` as PyTorch has it.

use super::AXIS;
use super::class_labels::class_axes;
use super::divergence::{Divergence, FromLogProbs};
use super::kl_div_logits::{ElementPlan, LogitRows};
use super::plan::plan_weighted;
use crate::array::{Shape, ViewMut, elements, unravel};
use crate::drive::{Axes, axis};
use crate::error::Result;
use crate::losses::elementwise;
use crate::math::Real;
use crate::memory;
use crate::num::DType;
use crate::registry::{
    Bound, Call, Domain, Family, Hessian, Input, InputGrads, Loss, OUT_OF_RANGE, Options, Params,
    Plan, Results, SAMPLE_WEIGHT, ShapeRule, Spec, Unreduced, flag, float, label, pred,
};

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "KLDivLoss",
    family: Family::Rowwise,
    inputs: &[
        pred(Domain::LogDistribution),
        label(Domain::Distribution).shaped(ShapeRule::SameOrOneVector),
        SAMPLE_WEIGHT,
    ],
    params: &[
        flag("from_logits", true),
        AXIS,
        float("epsilon", 0.0, Bound::NonNegative),
        flag("log_target", false),
        float("temperature", 1.0, Bound::Positive),
        OUT_OF_RANGE,
    ],
    unreduced: Unreduced::Element,
    hess: true,
    kinks: "",
    build: |p| Ok(Box::new(KlDiv::new(p)?)),
};

crate::front::typed! {
    /// Kullback-Leibler divergence of a prediction from a distribution: `label (log label - log p)`.
    KLDivLoss(pred, label) {
        from_logits: bool,
        axis: i64,
        epsilon: f64,
        log_target: bool,
        temperature: f64,
        out_of_range: &str,
    }
}

/// The divergence with its parameters.
pub struct KlDiv {
    from_logits: bool,
    log_target: bool,
    axis: isize,
    epsilon: f64,
    temperature: f64,
}

impl KlDiv {
    /// From the registry's parameters.
    pub fn new(params: &Params) -> Result<Self> {
        let (from_logits, log_target) = (params.flag("from_logits"), params.flag("log_target"));
        let [epsilon, temperature] = ["epsilon", "temperature"].map(|name| params.float(name));
        params.only_if(epsilon == 0.0 || !log_target, "epsilon", ("log_target", false))?;
        params.only_if(temperature == 1.0 || !from_logits, "temperature", ("from_logits", false))?;
        let axis = params.int("axis").unwrap_or(-1) as isize;
        Ok(KlDiv { from_logits, log_target, axis, epsilon, temperature })
    }
}

impl Loss for KlDiv {
    fn axes(&self, (name, first): (&str, &[usize]), options: &Options) -> Result<Axes> {
        if first.len() == 1 && self.from_logits {
            axis("axis", self.axis, first)?;
            return Axes::elementwise(first, options.batch_axis);
        }
        let rows = class_axes((name, first), self.axis, options)?;
        if first.len() == 1 {
            return Axes::one_row(first);
        }
        Ok(Axes { class: rows.class, ..Axes::elementwise(first, options.batch_axis)? })
    }

    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        let at = call.position("label");
        let (axes, pred) = (&call.axes, call.first().shape());
        let label =
            call.arguments.inputs[at].clone().filter(|label| axes.is_one_vector(label.shape()));
        let Some(label) = label.filter(|label| label.len() != elements(pred)) else {
            return self.plan_full(call);
        };
        // One distribution for all rows.
        let class = axes.class.unwrap_or(0);
        let classes = label.len();
        check_shared(call, at)?;
        let mut lined_up = call.clone();
        lined_up.checked = false;
        let label = label.reshape(&[classes]);
        lined_up.arguments.inputs[at] = label.and_then(|l| l.along(class, pred));
        if call.weighting()?.leaves_single() {
            // So that the sum of the label's gradients has a result where they themselves have none.
            lined_up.arguments.dtype = DType::F64;
        }
        let plan = self.plan_full(&lined_up)?;
        let mut label_shape: Shape = smallvec::smallvec![1; pred.len()];
        label_shape[class] = classes;
        let (axes, single) = (axes.clone(), lined_up.single());
        Ok(Box::new(SharedLabel { plan, axes, label_shape, at, single }))
    }

    fn input(&self, declared: Input) -> Input {
        match declared.domain {
            Domain::LogDistribution if !self.from_logits => declared.of(Domain::Real),
            Domain::Distribution if self.log_target => declared.of(Domain::LogDistribution),
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

impl KlDiv {
    /// For a label of the prediction's shape.
    fn plan_full<'a>(&self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        let KlDiv { log_target, epsilon, temperature, .. } = *self;
        let divergence = Divergence { log_target, epsilon, temperature };
        if self.from_logits {
            return if log_target {
                elementwise::plan(FromLogProbs::<true>(divergence), call)
            } else {
                elementwise::plan(FromLogProbs::<false>(divergence), call)
            };
        }
        let axes = &call.axes;
        let weighting = call.weighting()?;
        let class = axes.class.unwrap_or(0);
        if let Some(weighting) = weighting.of_sums(axes.vector(), axes.first[class]) {
            let first = ("pred", &axes.first[..]);
            let rows = Axes::rowwise(first, class as isize, axes.samples as isize)?;
            let kernel = LogitRows(divergence);
            return Ok(plan_weighted::<_, 2, 0>(kernel, call, rows, weighting, None));
        }
        let at_label = call.position("label");
        let line_up = |at| call.argument(at, |given| axes.line_up_rows(given));
        Ok(Box::new(ElementPlan {
            divergence,
            level: call.level(),
            single: call.single(),
            axes: axes.clone(),
            inputs: [line_up(0), line_up(at_label)],
            at_label,
            weighting,
        }))
    }
}

/// Checks a label that is one distribution for all rows, if any has a weight.
fn check_shared(call: &Call<'_>, at: usize) -> Result<()> {
    let Some(check) = call.check(at).filter(|check| check.all().is_err()) else {
        return Ok(());
    };
    let (axes, pred) = (&call.axes, call.first());
    let mut weighting = call.weighting()?;
    if weighting.weight == 0.0 || pred.is_empty() {
        return Ok(());
    }
    // A label counts where some row has a weight for its class.
    let weights = weighting.take_weights()?;
    let class = axes.class.unwrap_or(0);
    let counts = |label: usize| {
        let of_label = |at: usize| axes.element(at, pred.shape())[class] == label;
        weights.as_ref().is_none_or(|w| (0..w.len()).any(|at| w[at] != 0.0 && of_label(at)))
    };
    let labels = check.given.to_vec::<f64>()?;
    let wrong = (0..labels.len()).find(|&i| !check.domain.holds(labels[i]) && counts(i));
    wrong.map_or(Ok(()), |i| Err(check.error(&unravel(i, check.given.shape()))))
}

/// A call whose label is one distribution for all rows: the label's gradient is summed over them.
struct SharedLabel<'a> {
    plan: Box<dyn Plan + 'a>,
    axes: Axes,
    label_shape: Shape,
    /// The label's position in the registry.
    at: usize,
    single: bool,
}

impl Plan for SharedLabel<'_> {
    fn value_shape(&self) -> Shape {
        self.plan.value_shape()
    }
    fn cost(&self) -> f64 {
        self.plan.cost()
    }
    fn run(&self, results: Results<'_>) -> Result<()> {
        if self.single { self.run_in::<f32>(results) } else { self.run_in::<f64>(results) }
    }
}

impl SharedLabel<'_> {
    fn run_in<T: Real>(&self, mut results: Results<'_>) -> Result<()> {
        let Some(sum) = results.grads.take(self.at).and_then(|v| v.reshape(&self.label_shape))
        else {
            return self.plan.run(results);
        };
        let shape = self.axes.batch_first();
        let mut full = memory::filled(T::ZERO, elements(&shape))?;
        let in_order =
            ViewMut::from_slice(&mut full, &shape).map(|v| v.move_axis(0, self.axes.batch));
        let mut grads = InputGrads::default();
        grads.insert(self.at, in_order);
        results.grads.take(0).into_iter().for_each(|grad| grads.insert(0, grad));
        self.plan.run(Results { grads, ..results })?;
        self.axes.sum_to(&full, sum)
    }
}

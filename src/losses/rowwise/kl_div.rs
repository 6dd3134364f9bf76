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
use super::plan::plan_weighted;
use crate::array::{Shape, View, ViewMut, elements, unravel};
use crate::drive::domain::Check;
use crate::drive::operand::Argument;
use crate::drive::reduced::Reduced;
use crate::drive::row_kernel::{Erased, Row, RowKernel, RowOutputs, TileKernel, Vectors};
use crate::drive::rows::{Place, Rows, drive};
use crate::drive::scale::{Scale, multiply};
use crate::drive::weight::Weighting;
use crate::drive::{Axes, axis, range};
use crate::error::Result;
use crate::losses::elementwise::{self, Elementwise, Point};
use crate::math::Real;
use crate::memory;
use crate::num::{DType, Float, Sizes};
use crate::registry::{
    Bound, Call, Domain, Family, Hessian, Input, InputGrads, Loss, OUT_OF_RANGE, Options, Params,
    Plan, Results, SAMPLE_WEIGHT, ShapeRule, Spec, Unreduced, flag, float, label, pred,
};
use crate::simd::{Isa, Level};
use crate::softmax::{Softmax, through_softmax};
use crate::sum::sum;

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

/// One element, from log p and y, or its logarithm if `LOG`.
#[derive(Clone, Copy)]
struct Divergence<const LOG: bool> {
    epsilon: f64,
    temperature: f64,
}

/// An element of E / T.
struct Term<T> {
    y: T,
    value: T,
    /// The derivative with respect to the label.
    slope: T,
}

impl<const LOG: bool> Divergence<LOG> {
    /// From the label and -T log p.
    #[inline(always)]
    fn term<S: Isa, T: Real>(self, label: T, surprise: T) -> Term<T> {
        let t = T::from_f64(self.temperature);
        if LOG {
            let (y, gap) = (label.exp::<S>(), label * t + surprise);
            return Term { y, value: gap.weighted(y), slope: (gap + t).weighted(y) };
        }
        let epsilon = T::from_f64(self.epsilon);
        let shifted = label + epsilon;
        // Next to 1 the logarithm is not larger than what the sum rounds off.
        let correction = T::lost(label, epsilon, shifted) / shifted;
        let has_correction = self.epsilon != 0.0 && !correction.is_nan();
        let log = shifted.log::<S>() + if has_correction { correction } else { T::ZERO };
        let gap = log * t + surprise;
        let ratio = if self.epsilon == 0.0 { t } else { label / shifted * t };
        let (nothing, value) = (label == T::ZERO && !surprise.is_nan(), label * gap);
        // Of an impossible class any label but 0 has an infinite loss.
        let jumps = label == T::ZERO && surprise == T::INFINITY;
        Term {
            y: label,
            value: if nothing { T::ZERO } else { value },
            slope: if jumps { T::INFINITY } else { gap + ratio },
        }
    }

    /// E and its derivative with respect to the label, through `weigh`, for a row of logits.
    #[inline(always)]
    fn row<S: Isa, T: Real>(
        self,
        softmax: &Softmax<T>,
        [x, label]: [&[T]; 2],
        value: Option<&mut [T]>,
        label_grad: Option<&mut [T]>,
        weigh: impl Fn(f64, usize) -> f64,
    ) {
        let log_sum = T::from_f64(softmax.others).log1p::<S>() * T::from_f64(self.temperature);
        if let Some(value) = value {
            for ((v, &x), &label) in value.iter_mut().zip(x).zip(label) {
                *v = self.term::<S, T>(label, softmax.gap(x) + log_sum).value;
            }
        }
        if let Some(label_grad) = label_grad {
            for (c, ((g, &x), &label)) in label_grad.iter_mut().zip(x).zip(label).enumerate() {
                let slope = self.term::<S, T>(label, softmax.gap(x) + log_sum).slope;
                *g = T::from_f64(weigh(slope.to_f64() * self.temperature, c));
            }
        }
    }
}

impl<const LOG: bool> Elementwise<2> for Divergence<LOG> {
    const COST: f64 = 0.5;

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        // Log-probabilities have no temperature: as a constant it takes no time.
        let plain = Divergence::<LOG> { temperature: 1.0, ..self };
        let Term { y, value, slope } = plain.term::<S, T>(label, -pred);
        Point { value, grad: [-y, slope], hess: T::ZERO }
    }
}

impl KlDiv {
    /// From the registry's parameters.
    pub fn new(params: &Params) -> Result<Self> {
        let (from_logits, log_target) = (params.flag("from_logits"), params.flag("log_target"));
        let [epsilon, temperature] = ["epsilon", "temperature"].map(|name| params.float(name));
        params.only_if(epsilon == 0.0 || !log_target, "epsilon", "log_target=False")?;
        params.only_if(temperature == 1.0 || !from_logits, "temperature", "from_logits=False")?;
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
        let KlDiv { epsilon, temperature, .. } = *self;
        if self.log_target {
            self.plan_of(call, Divergence::<true> { epsilon, temperature })
        } else {
            self.plan_of(call, Divergence::<false> { epsilon, temperature })
        }
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
    fn plan_of<'a, const LOG: bool>(
        &self,
        call: &Call<'a>,
        divergence: Divergence<LOG>,
    ) -> Result<Box<dyn Plan + 'a>> {
        let at = call.position("label");
        let (axes, pred) = (&call.axes, call.first().shape());
        let label =
            call.arguments.inputs[at].clone().filter(|label| axes.is_one_vector(label.shape()));
        let Some(label) = label.filter(|label| label.len() != elements(pred)) else {
            return self.plan_full(call, divergence);
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
        let plan = self.plan_full(&lined_up, divergence)?;
        let mut label_shape: Shape = smallvec::smallvec![1; pred.len()];
        label_shape[class] = classes;
        let (axes, single) = (axes.clone(), lined_up.single());
        Ok(Box::new(SharedLabel { plan, axes, label_shape, at, single }))
    }

    /// For a label of the prediction's shape.
    fn plan_full<'a, const LOG: bool>(
        &self,
        call: &Call<'a>,
        divergence: Divergence<LOG>,
    ) -> Result<Box<dyn Plan + 'a>> {
        if self.from_logits {
            return elementwise::plan(divergence, call);
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

/// Rows of logits whose elements all have the same weight: the sum of E over the row is enough.
struct LogitRows<const LOG: bool>(Divergence<LOG>);

impl<T: Real, const LOG: bool> RowKernel<T, 2, 0> for LogitRows<LOG> {
    const COST: f64 = 1.2;
    type Scratch = Vectors<T, 2>;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { vectors: [x, label], .. }: Row<'_, T, 2, 0>,
        outputs: RowOutputs<'_, T, 2, 0>,
        scratch: &mut Vectors<T, 2>,
        scale: f64,
    ) -> T {
        let LogitRows(divergence) = *self;
        let RowOutputs { grads: [grad, label_grad], hess, wants_value, .. } = outputs;
        let [exps, terms] = scratch.each();
        let t = divergence.temperature;
        let y = if LOG { exps_of::<S, T>(label, terms) } else { label };
        let (softmax, _) = through_softmax::<S, T>(x, y, t, scale, grad, hess, exps);
        let value = wants_value.then_some(&mut *terms);
        divergence.row::<S, T>(&softmax, [x, label], value, label_grad, |slope, _| slope * scale);
        T::from_f64(if wants_value { sum::<S, T>(terms) * t } else { 0.0 })
    }
}

/// Rows of logits whose elements have weights of their own, the third input, relative to the row's scale.
struct WeightedRows<const LOG: bool>(Divergence<LOG>);

impl<T: Real, const LOG: bool> RowKernel<T, 3, 0> for WeightedRows<LOG> {
    const COST: f64 = 1.5;
    type Scratch = Vectors<T, 2>;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { vectors: [x, label, weight], .. }: Row<'_, T, 3, 0>,
        outputs: RowOutputs<'_, T, 3, 0>,
        scratch: &mut Vectors<T, 2>,
        scale: f64,
    ) -> T {
        let WeightedRows(divergence) = *self;
        let RowOutputs { grads: [grad, label_grad, _], hess, mut elements, .. } = outputs;
        let [exps, weighted] = scratch.each();
        let y = if LOG { exps_of::<S, T>(label, exps) } else { label };
        for ((w, &y), &weight) in weighted.iter_mut().zip(y).zip(weight) {
            *w = y.weighted(weight);
        }
        let t = divergence.temperature;
        let (softmax, _) = through_softmax::<S, T>(x, weighted, t, scale, grad, hess, exps);
        let weigh = |slope: f64, c: usize| slope.weighted(weight[c].to_f64()) * scale;
        divergence.row::<S, T>(&softmax, [x, label], elements.as_deref_mut(), label_grad, weigh);
        if let Some(elements) = elements {
            multiply(elements, t);
        }
        T::ZERO
    }
}

#[inline(always)]
fn exps_of<'a, S: Isa, T: Real>(x: &[T], out: &'a mut [T]) -> &'a [T] {
    for (out, x) in out.iter_mut().zip(x) {
        *out = x.exp::<S>();
    }
    out
}

/// From logits, where E itself is wanted or weights differ along the class axis.
struct ElementPlan<'a, const LOG: bool> {
    divergence: Divergence<LOG>,
    level: Level,
    single: bool,
    axes: Axes,
    inputs: [Argument<'a>; 2],
    /// The label's position in the registry.
    at_label: usize,
    weighting: Weighting<'a>,
}

impl<const LOG: bool> Plan for ElementPlan<'_, LOG> {
    fn value_shape(&self) -> Shape {
        self.axes.value_shape(self.weighting.reduction)
    }
    fn cost(&self) -> f64 {
        <WeightedRows<LOG> as RowKernel<f32, 3, 0>>::COST * self.inputs[0].view.len() as f64
    }
    fn run(&self, results: Results<'_>) -> Result<()> {
        let ElementPlan { axes, weighting, level, inputs: [x, _], .. } = self;
        let reduced = Reduced { axes, weighting, level: *level };
        let shape = x.view.shape();
        let derives = results.hess.is_some() || results.grads.iter().next().is_some();
        let (mut weights, mut has_room) = (Vec::new(), true);
        let scale = match weighting.uniform_scale(&axes.batch_first())? {
            Some(scale) => Scale::All(scale),
            None if !derives => Scale::All(1.0),
            None => {
                memory::grow(&mut weights, x.view.len(), 0.0)?;
                let view = ViewMut::from_slice(&mut weights, shape);
                reduced.scales(axes.batch_first_of_rows(view))?;
                let rows = weights.chunks_exact_mut(shape.last().copied().unwrap_or(1).max(1));
                Scale::Each(memory::collect(rows.map(|row| {
                    let Sizes { least, most, .. } = f64::sizes(row);
                    let relative = Sizes { least: least / most, most: 1.0, any_sign: false };
                    has_room &= most == 0.0 || !range::leaves_single(&relative);
                    normalise(row)
                }))?)
            }
        };
        let kernel = Erased(&WeightedRows(self.divergence));
        if self.single && has_room {
            self.run_in::<f32>(&kernel, results, &weights, &scale)
        } else {
            self.run_in::<f64>(&kernel, results, &weights, &scale)
        }
    }
}

impl<const LOG: bool> ElementPlan<'_, LOG> {
    /// With the weights of the elements relative to the scale of their row.
    fn run_in<T: Real>(
        &self,
        kernel: &dyn TileKernel<T>,
        mut results: Results<'_>,
        weights: &[f64],
        scale: &Scale,
    ) -> Result<()> {
        let ElementPlan { axes, weighting, level, .. } = self;
        let reduced = Reduced { axes, weighting, level: *level };
        let [x, label] = &self.inputs;
        let shape = x.view.shape();
        let wanted = [results.grads.take(0), results.grads.take(self.at_label), None];
        let grads = wanted.map(|v| axes.line_up_rows_mut(v?));
        let hess = results.hess.and_then(|v| axes.line_up_rows_mut(v));
        let weight = match scale {
            Scale::All(_) => View::from_slice(&[1.0], &[]).broadcast_to(shape),
            Scale::Each(_) => Some(View::from_slice(weights, shape)),
        };
        let Some(weight) = weight.map(Argument::from) else { return Ok(()) };
        let outside = |check: &Check<'_>, place: Place| {
            let (Place::Element(position) | Place::Row(position)) = place;
            if weighting.removes(axes.unrolled(position), &axes.batch_first()) {
                return Ok(());
            }
            Err(check.error(&axes.element_of_rows(position, check.given.shape())))
        };
        let len = if results.value.is_some() { x.view.len() } else { 0 };
        let mut unreduced = memory::filled(T::ZERO, len)?;
        let value = results.value.is_some().then(|| {
            let view = ViewMut::from_slice(&mut unreduced, &axes.batch_first());
            axes.vectors_last_mut(view)
        });
        drive(Rows {
            kernel,
            level: *level,
            shape,
            outer: shape.len() - 1,
            vectors: &[x.clone(), label.clone(), weight],
            numbers: &[],
            outside: &outside,
            grads: grads.each_ref().map(Option::as_ref),
            number_grads: [None; 2],
            hess: hess.as_ref(),
            elements: value.as_ref(),
            scale,
            value: None,
        })?;
        if let Some(value) = results.value {
            reduced.value(&unreduced, value)?;
        }
        Ok(())
    }
}

/// Divides the weights of a row by one number, which it returns: the largest of them, unless that leaves no room for
/// the smallest, whose middle with the largest it is then.
fn normalise(row: &mut [f64]) -> f64 {
    let Sizes { least, most, .. } = f64::sizes(row);
    if most.is_nan() || most == f64::INFINITY {
        return 1.0;
    }
    let divisor = if least / most < f64::MIN_POSITIVE { least.sqrt() * most.sqrt() } else { most };
    if most > 0.0 {
        for weight in row {
            *weight /= divisor;
        }
    }
    divisor
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

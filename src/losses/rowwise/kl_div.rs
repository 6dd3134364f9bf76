//! Kullback-Leibler divergence of a prediction from a distribution.
//!
//! With y the label and l = log p the prediction, `loss = y (log y - l)` for every element: gradient -y with respect to l,
//! `log y - l + 1` with respect to y, second derivative 0. Where y is 0 the loss is 0, whatever l; below 0 it is NaN. An
//! epsilon, if there is one, is added inside the logarithm of y only.
//!
//! From logits x, l = log softmax(x) along an axis. With s the derivative of the result with respect to each element of
//! E, the gradient is `p sum(s y) - s y`, the diagonal of the second derivative `sum(s y) p (1 - p)`.
//!
//! Source: Apache MXNet Gluon, `KLDivLoss`.

use super::kernel::{Reduced, RowKernel, RowOutputs, Rows, Scale, drive};
use super::plan::{Layout, RowPlan};
use super::softmax::{Softmax, through_softmax};
use crate::error::{Error, Kind, Result};
use crate::losses::call::{Axes, Call, Loss, Plan, Results};
use crate::losses::elementwise::{self, Elementwise, Point};
use crate::losses::spec::Params;
use crate::memory;
use crate::real::Real;
use crate::reduce::sum;
use crate::simd::{Isa, Level};
use crate::view::{Shape, View, ViewMut};
use crate::weight::Weighting;

/// The divergence with its parameters.
pub struct KlDiv {
    from_logits: bool,
    axis: isize,
    divergence: Divergence,
}

/// One element, from log p and y.
#[derive(Clone, Copy)]
struct Divergence {
    epsilon: f64,
}

impl Elementwise<2> for Divergence {
    const COST: f64 = 0.5;

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        let shifted = label + T::from_f64(self.epsilon);
        let gap = shifted.log::<S>() - pred;
        let ratio = if self.epsilon == 0.0 { T::ONE } else { label / shifted };
        let nothing = label == T::ZERO && !pred.is_nan();
        let value = label * gap;
        Point {
            value: if nothing { T::ZERO } else { value },
            grad: [-label, gap + ratio],
            hess: T::ZERO,
        }
    }
}

impl KlDiv {
    /// From the registry's parameters.
    pub fn new(params: &Params) -> Self {
        KlDiv {
            from_logits: params.flag("from_logits"),
            axis: params.int("axis").unwrap_or(-1) as isize,
            divergence: Divergence { epsilon: params.float("epsilon") },
        }
    }
}

impl Loss for KlDiv {
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        let (pred, label) = (call.input(0).shape(), call.input(1));
        let (rows, class) = Axes::rowwise(pred, self.axis, call.options.batch_axis)?;
        if pred.len() == 1 {
            let detail = "expected another axis than the class axis, and pred has one only";
            return Err(Error::new(Kind::Parameter, "batch_axis", detail));
        }
        let axes = Axes::elementwise(pred, call.options.batch_axis)?;
        let classes = pred[class];
        if classes == 0 && rows.shape.iter().product::<usize>() > 0 {
            let detail = format!("expected at least one class, got shape {pred:?}");
            return Err(Error::new(Kind::Shape, call.names[0], detail));
        }
        // One distribution for all rows.
        let shared = label.len() != call.input(0).len()
            && (*label.shape() == [classes] || *label.shape() == [1, classes]);
        let mut call = call.clone();
        if shared {
            let label = label.clone().reshape(&[classes]);
            call.inputs[1] = label.and_then(|l| l.along(class, pred));
        }
        let plan = self.plan_full(&call, &axes, rows, class)?;
        if !shared {
            return Ok(plan);
        }
        let mut label_shape: Shape = smallvec::smallvec![1; pred.len()];
        label_shape[class] = classes;
        Ok(Box::new(SharedLabel { plan, axes, label_shape, single: call.single() }))
    }
    fn in_place(&self) -> bool {
        true
    }
}

impl KlDiv {
    /// For a label of the prediction's shape.
    fn plan_full<'a>(
        &self,
        call: &Call<'a>,
        axes: &Axes,
        rows: Axes,
        class: usize,
    ) -> Result<Box<dyn Plan + 'a>> {
        if self.from_logits {
            return elementwise::plan(self.divergence, call);
        }
        let layout = Layout::new(&axes.shape, axes.batch, Some(class));
        let inputs = [layout.input(call, 0)?, layout.input(call, 1)?];
        let weighting = axes.weighting(call)?;
        let (level, single) = (call.level, call.single());
        let at = class + usize::from(class < axes.batch);
        Ok(match weighting.of_sums(at, axes.shape[class]) {
            Some(weighting) => {
                let kernel = LogitRows(self.divergence);
                Box::new(RowPlan { kernel, level, single, axes: rows, layout, inputs, weighting })
            }
            None => Box::new(ElementPlan {
                divergence: self.divergence,
                level,
                single,
                axes: axes.clone(),
                layout,
                inputs,
                weighting,
            }),
        })
    }
}

/// Rows of logits whose elements all have the same weight: the sum of E over the row is enough.
struct LogitRows(Divergence);

impl<T: Real> RowKernel<T, 2> for LogitRows {
    const COST: f64 = 1.2;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        _: usize,
        [x, y]: [&[T]; 2],
        outputs: RowOutputs<'_, T, 2>,
        scale: f64,
    ) -> T {
        let RowOutputs { grads: [grad, label_grad], hess, scratch: [exps, terms] } = outputs;
        let (softmax, _) = through_softmax::<S, T>(x, y, scale, grad, hess, exps);
        self.0
            .rows::<S, T>(&softmax, x, y, terms, label_grad, |slope, _| slope * T::from_f64(scale));
        T::from_f64(sum::<S, T>(terms))
    }
}

/// Rows of logits whose elements have weights of their own, the third input: the derivative with respect to a weight
/// is its element of E.
struct WeightedRows(Divergence);

impl<T: Real> RowKernel<T, 3> for WeightedRows {
    const COST: f64 = 1.5;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        _: usize,
        [x, y, s]: [&[T]; 3],
        outputs: RowOutputs<'_, T, 3>,
        _: f64,
    ) -> T {
        let RowOutputs { grads: [grad, label_grad, value], hess, scratch: [exps, weighted] } =
            outputs;
        for ((w, &y), &s) in weighted.iter_mut().zip(y).zip(s) {
            *w = y.weighted(s);
        }
        // A row that does not count at all may hold anything.
        let counts = T::from_f64(f64::from(u8::from(s.iter().any(|&s| s != T::ZERO))));
        let mut derivatives = [grad, hess];
        let [grad, hess] = derivatives.each_mut().map(Option::as_deref_mut);
        let (softmax, _) = through_softmax::<S, T>(x, weighted, 1.0, grad, hess, exps);
        for out in derivatives.into_iter().flatten().filter(|_| counts == T::ZERO) {
            out.fill(T::ZERO);
        }
        let value = value.unwrap_or(exps);
        self.0.rows::<S, T>(&softmax, x, y, value, label_grad, |slope, c| slope.weighted(s[c]));
        T::ZERO
    }
}

impl Divergence {
    /// E and its derivative with respect to the label, through `weigh`, for a row of logits.
    #[inline(always)]
    fn rows<S: Isa, T: Real>(
        self,
        softmax: &Softmax<T>,
        x: &[T],
        y: &[T],
        value: &mut [T],
        label_grad: Option<&mut [T]>,
        weigh: impl Fn(T, usize) -> T,
    ) {
        let log_sum = T::from_f64(softmax.others).log1p::<S>();
        let point = |x: T, y: T| self.point::<S, T>([-(softmax.gap(x) + log_sum), y]);
        for ((v, &x), &y) in value.iter_mut().zip(x).zip(y) {
            *v = point(x, y).value;
        }
        if let Some(label_grad) = label_grad {
            for (c, ((g, &x), &y)) in label_grad.iter_mut().zip(x).zip(y).enumerate() {
                *g = weigh(point(x, y).grad[1], c);
            }
        }
    }
}

/// From logits, where E itself is wanted or weights differ along the class axis.
struct ElementPlan<'a> {
    divergence: Divergence,
    level: Level,
    single: bool,
    axes: Axes,
    layout: Layout,
    inputs: [View<'a>; 2],
    weighting: Weighting<'a>,
}

impl Plan for ElementPlan<'_> {
    fn value_shape(&self) -> Shape {
        self.axes.value_shape(self.weighting.reduction)
    }
    fn cost(&self) -> f64 {
        <WeightedRows as RowKernel<f32, 3>>::COST * self.inputs[0].len() as f64
    }
    fn run(&self, results: Results<'_>) -> Result<()> {
        if self.single { self.run_in::<f32>(results) } else { self.run_in::<f64>(results) }
    }
}

impl ElementPlan<'_> {
    fn run_in<T: Real>(&self, results: Results<'_>) -> Result<()> {
        let ElementPlan { axes, weighting, level, .. } = self;
        let reduced = Reduced { axes, weighting, level: *level };
        let scale = match reduced.scale()? {
            Scale::All(scale) => vec![scale],
            Scale::Each(scales) => scales,
        };
        // Both are in E's order with the batch axis first.
        let shape = axes.batch_first();
        let scale = if scale.len() == 1 {
            View::from_slice(&scale, &[]).broadcast_to(&axes.shape)
        } else {
            Some(View::from_slice(&scale, &shape).move_axis(0, axes.batch))
        };
        let elements = if results.value.is_some() { self.inputs[0].len() } else { 0 };
        let mut unreduced = memory::filled(T::ZERO, elements)?;
        let value = results.value.is_some().then(|| {
            ViewMut::from_slice(&mut unreduced, &shape).map(|v| v.move_axis(0, axes.batch))
        });
        let [grad, label_grad, ..] = results.grads;
        let grads = [grad, label_grad, value].map(|v| v.and_then(|v| self.layout.line_up_mut(v)));
        let hess = results.hess.and_then(|v| self.layout.line_up_mut(v));
        let Some(scale) = scale.and_then(|s| self.layout.line_up(&s)) else { return Ok(()) };
        let [x, y] = &self.inputs;
        drive(
            &WeightedRows(self.divergence),
            Rows::<T, 3> {
                level: *level,
                shape: x.shape(),
                outer: shape.len() - 1,
                inputs: [x, y, &scale],
                grads: grads.each_ref().map(Option::as_ref),
                hess: hess.as_ref(),
                scale: &Scale::All(1.0),
                value: None,
            },
        )?;
        drop(grads);
        if let Some(value) = results.value {
            reduced.value(&unreduced, value)?;
        }
        Ok(())
    }
}

/// A call whose label is one distribution for all rows: the label's gradient is summed over them.
struct SharedLabel<'a> {
    plan: Box<dyn Plan + 'a>,
    axes: Axes,
    label_shape: Shape,
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
        let Some(sum) = results.grads[1].take().and_then(|v| v.reshape(&self.label_shape)) else {
            return self.plan.run(results);
        };
        let shape = self.axes.batch_first();
        let mut full = memory::filled(T::ZERO, shape.iter().product())?;
        let in_order =
            ViewMut::from_slice(&mut full, &shape).map(|v| v.move_axis(0, self.axes.batch));
        let Results { value, mut grads, hess } = results;
        grads[1] = Some(in_order);
        self.plan.run(Results { value, grads, hess })?;
        self.axes.sum_to(&full, &sum)
    }
}

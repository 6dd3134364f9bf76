//! Negative log-likelihood of a Poisson count.
//!
//! With target t and the prediction x the logarithm of the rate: `loss = exp(x) - t x`, slope `exp(x) - t`, second
//! derivative `exp(x)`. With x the rate: `loss = x - t log(x + epsilon)`, slope `1 - t / (x + epsilon)`, second derivative
//! `t / (x + epsilon)^2`; a target of 0 has no logarithm in it. In full, `log(t!)` is added, exact for every t >= 0; its
//! Stirling approximation, as Gluon has it, is added for t > 1 only. Source: Apache MXNet Gluon, `PoissonNLLLoss`.

use super::{Blocks, COMMON, Elementwise, ErasedPoint, Point, plan_blocks};
use crate::drive::Axes;
use crate::drive::block_kernel::{BlockKernel, BlockOutputs, MAX_OPERANDS};
use crate::error::Result;
use crate::math::{Real, log_factorial_slopes, log_factorials};
use crate::registry::{
    Call, Default, Domain, Gradient, Input, Accepts, Loss, OUT_OF_RANGE, Options, Params, Plan,
    SAMPLE_WEIGHT, ShapeRule, Spec, flag, input, optional, param, pred, scalar,
};
use crate::simd::{Isa, Kernel, Level, dispatch};

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "PoissonNLLLoss",
    inputs: &[
        pred(Domain::Real),
        input("target", Domain::NonNegative, Gradient::OnRequest),
        SAMPLE_WEIGHT,
        optional("epsilon", Domain::Scalar, Gradient::Never).shaped(ShapeRule::Scalar),
    ],
    params: &[
        flag("from_logits", true),
        param("compute_full", Default::Flag(false), Accepts::FlagOr(&["stirling"])),
        OUT_OF_RANGE,
    ],
    kinks: "target == 1 with Stirling's approximation",
    build: |p| Ok(build(p)),
    ..COMMON
};

crate::front::typed! {
    /// Negative log-likelihood of a Poisson count: `exp(pred) - target pred`. Optional input: `epsilon`, one number.
    PoissonNLLLoss(pred, target) {
        from_logits: bool,
        compute_full: impl Into<crate::registry::Value>,
        out_of_range: &str,
    }
}

/// Added to a rate, unless the call says otherwise.
const EPSILON: f64 = 1e-8;

/// With the logarithm of the rate as prediction.
#[derive(Clone, Copy)]
struct FromLogits;

impl Elementwise<2> for FromLogits {
    const COST: f64 = 0.6;

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, target]: [T; 2]) -> Point<T, 2> {
        let rate = pred.exp::<S>();
        let linear = pred.weighted(target);
        // Where the rate is infinite, so is the loss: the exponential outgrows the linear term.
        let linear = if rate == T::INFINITY { T::ZERO } else { linear };
        Point { value: rate - linear, grad: [rate - target, T::ZERO - pred], hess: rate }
    }
}

/// With the rate as prediction.
#[derive(Clone, Copy)]
struct FromRate {
    epsilon: f64,
}

impl Elementwise<2> for FromRate {
    const COST: f64 = 0.8;

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, target]: [T; 2]) -> Point<T, 2> {
        let epsilon = T::from_f64(self.epsilon);
        let shifted = pred + epsilon;
        // Next to 1 the logarithm is not larger than what the sum rounds off.
        let log = shifted.log_of_sum::<S>(T::lost(pred, epsilon, shifted));
        let over = |x: T| if target == T::ZERO { T::ZERO } else { x / shifted };
        let ratio = over(target);
        Point {
            value: pred - log.weighted(target) + T::ZERO,
            grad: [T::ONE - ratio, T::ZERO - log],
            hess: over(ratio),
        }
    }
}

/// What is added to make the likelihood complete.
#[derive(Clone, Copy, PartialEq)]
enum Constant {
    /// Nothing.
    Without,
    /// `log(target!)`.
    Exact,
    /// Stirling's approximation of it above 1, 0 up to 1.
    Stirling,
}

/// A form of the loss and its constant, which does not depend on the prediction: it is added to a block of losses, and to
/// their derivatives with respect to the target.
#[derive(Clone, Copy)]
struct Complete<L> {
    form: ErasedPoint<L, 2>,
    constant: Constant,
}

impl<L: Elementwise<2>> Blocks<2> for Complete<L> {
    fn kinks(&self, [_, target]: [f64; 2]) -> Vec<f64> {
        Vec::from_iter((self.constant == Constant::Stirling).then_some(target - 1.0))
    }
}

impl<T: Real, L: Elementwise<2>> BlockKernel<T> for Complete<L> {
    fn cost(&self) -> f64 {
        BlockKernel::<T>::cost(&self.form)
    }

    fn run(&self, level: Level, inputs: &[&[T]], outputs: BlockOutputs<'_, T>, scale: T) {
        let Complete { form, constant } = *self;
        if constant == Constant::Without {
            return form.run(level, inputs, outputs, scale);
        }
        let BlockOutputs { mut value, mut grads, hess } = outputs;
        let mut of_target = grads[1].take();
        form.run(level, inputs, BlockOutputs { value: value.as_deref_mut(), grads, hess }, scale);
        if let Some(of_target) = &mut of_target {
            // Its scale comes last.
            let mut grads = [const { None }; MAX_OPERANDS];
            grads[1] = Some(&mut **of_target);
            form.run(level, inputs, BlockOutputs { value: None, grads, hess: None }, T::ONE);
        }
        let target = inputs[1];
        let wanted = [(false, value, T::ONE), (true, of_target, scale)];
        for (slope, out, scale) in wanted {
            let Some(out) = out else { continue };
            if constant == Constant::Exact {
                add_logarithms(level, slope, target, out, scale);
            } else {
                dispatch(level, AddStirling { slope, target, out, scale });
            }
        }
    }
}

/// Elements that are computed together in f64.
const TOGETHER: usize = 256;

/// Adds log(target!), or its derivative, and multiplies the sum.
fn add_logarithms<T: Real>(level: Level, slope: bool, target: &[T], out: &mut [T], scale: T) {
    let mut room = [0.0; TOGETHER];
    for (out, target) in out.chunks_mut(TOGETHER).zip(target.chunks(TOGETHER)) {
        let t = &mut room[..target.len()];
        for (t, target) in t.iter_mut().zip(target) {
            *t = target.to_f64();
        }
        if slope {
            log_factorial_slopes(level, t);
        } else {
            log_factorials(level, t);
        }
        for (out, own) in out.iter_mut().zip(t) {
            *out = (*out + T::from_f64(*own)) * scale;
        }
    }
}

/// Adds Stirling's approximation of log(target!), or its derivative, and multiplies the sum.
struct AddStirling<'a, T> {
    slope: bool,
    target: &'a [T],
    out: &'a mut [T],
    scale: T,
}

impl<T: Real> Kernel for AddStirling<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let AddStirling { slope, target, out, scale } = self;
        // A loop for each, which is then computed by vectors.
        if slope {
            for (out, &t) in out.iter_mut().zip(target) {
                let own = t.log::<S>() + T::HALF / t;
                *out = (*out + own.where_positive(t - T::ONE)) * scale;
            }
        } else {
            for (out, &t) in out.iter_mut().zip(target) {
                let circle = T::from_f64(std::f64::consts::TAU) * t;
                let own = t * t.log::<S>() - t + T::HALF * circle.log::<S>();
                *out = (*out + own.where_positive(t - T::ONE)) * scale;
            }
        }
    }
}

/// The loss with its parameters; a call may bring an epsilon of its own.
struct PoissonNll {
    from_logits: bool,
    constant: Constant,
}

impl Loss for PoissonNll {
    fn axes(&self, (_, first): (&str, &[usize]), options: &Options) -> Result<Axes> {
        Axes::elementwise(first, options.batch_axis)
    }
    fn input(&self, declared: Input) -> Input {
        match declared.shape {
            ShapeRule::First if !self.from_logits => declared.of(Domain::Positive),
            _ => declared,
        }
    }
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        let epsilon = scalar(call, "epsilon", EPSILON)?;
        let PoissonNll { from_logits, constant } = *self;
        if from_logits {
            plan_blocks(Complete { form: ErasedPoint(FromLogits), constant }, call)
        } else {
            plan_blocks(Complete { form: ErasedPoint(FromRate { epsilon }), constant }, call)
        }
    }
    fn in_place(&self) -> bool {
        true
    }
}

/// From the parameters.
fn build(params: &Params) -> Box<dyn Loss> {
    let constant = match params.text("compute_full") {
        "stirling" => Constant::Stirling,
        _ if params.flag("compute_full") => Constant::Exact,
        _ => Constant::Without,
    };
    Box::new(PoissonNll { from_logits: params.flag("from_logits"), constant })
}

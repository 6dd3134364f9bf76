//! Negative log-likelihood of a Poisson count.
//!
//! With target t and the prediction x the logarithm of the rate: `loss = exp(x) - t x`, slope `exp(x) - t`, second
//! derivative `exp(x)`. With x the rate: `loss = x - t log(x + epsilon)`, slope `1 - t / (x + epsilon)`, second derivative
//! `t / (x + epsilon)^2`; a target of 0 has no logarithm in it. In full, `log(t!)` is added, exact for every t >= 0; its
//! Stirling approximation, as Gluon has it, is added for t > 1 only. Source: Apache MXNet Gluon, `PoissonNLLLoss`.

use super::{COMMON, Elementwise, Point, plan};
use crate::drive::Axes;
use crate::error::Result;
use crate::math::Real;
use crate::registry::{
    Call, Default, Domain, Gradient, Input, Kind, Loss, OUT_OF_RANGE, Options, Params, Plan,
    SAMPLE_WEIGHT, ShapeRule, Spec, flag, input, optional, param, pred, scalar,
};
use crate::simd::Isa;
use std::marker::PhantomData;

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
        param("compute_full", Default::Flag(false), Kind::FlagOr(&["stirling"])),
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

/// What is added to make the likelihood complete, and its derivative with respect to the target.
pub trait Constant: Copy + Send + Sync + 'static {
    /// Whether its slope jumps at a target of 1.
    const JUMPS: bool = false;

    /// Both at a target.
    fn at<S: Isa, T: Real>(target: T) -> (T, T);
}

/// Nothing.
#[derive(Clone, Copy)]
pub struct Without;

impl Constant for Without {
    #[inline(always)]
    fn at<S: Isa, T: Real>(_: T) -> (T, T) {
        (T::ZERO, T::ZERO)
    }
}

/// `log(target!)`.
#[derive(Clone, Copy)]
pub struct Exact;

impl Constant for Exact {
    #[inline(always)]
    fn at<S: Isa, T: Real>(target: T) -> (T, T) {
        (target.log_factorial::<S>(), target.log_factorial_slope::<S>())
    }
}

/// Stirling's approximation of it above 1, 0 up to 1.
#[derive(Clone, Copy)]
pub struct Stirling;

impl Constant for Stirling {
    const JUMPS: bool = true;

    #[inline(always)]
    fn at<S: Isa, T: Real>(target: T) -> (T, T) {
        let (log, above) = (target.log::<S>(), target - T::ONE);
        let circle = T::from_f64(std::f64::consts::TAU) * target;
        let value = target * log - target + T::HALF * circle.log::<S>();
        let slope = log + T::HALF / target;
        (value.where_positive(above), slope.where_positive(above))
    }
}

/// With the logarithm of the rate as prediction.
#[derive(Clone, Copy)]
pub struct FromLogits<C>(PhantomData<C>);

impl<C: Constant> Elementwise<2> for FromLogits<C> {
    const COST: f64 = 0.6;

    fn kinks(self, [_, target]: [f64; 2]) -> Vec<f64> {
        Vec::from_iter(C::JUMPS.then_some(target - 1.0))
    }

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, target]: [T; 2]) -> Point<T, 2> {
        let (full, full_slope) = C::at::<S, T>(target);
        let rate = pred.exp::<S>();
        let linear = pred.weighted(target);
        // Where the rate is infinite, so is the loss: the exponential outgrows the linear term.
        let linear = if rate == T::INFINITY { T::ZERO } else { linear };
        Point { value: rate - linear + full, grad: [rate - target, full_slope - pred], hess: rate }
    }
}

/// With the rate as prediction.
#[derive(Clone, Copy)]
pub struct FromRate<C> {
    epsilon: f64,
    constant: PhantomData<C>,
}

impl<C: Constant> Elementwise<2> for FromRate<C> {
    const COST: f64 = 0.8;

    fn kinks(self, [_, target]: [f64; 2]) -> Vec<f64> {
        Vec::from_iter(C::JUMPS.then_some(target - 1.0))
    }

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, target]: [T; 2]) -> Point<T, 2> {
        let (full, full_slope) = C::at::<S, T>(target);
        let epsilon = T::from_f64(self.epsilon);
        let shifted = pred + epsilon;
        // Next to 1 the logarithm is not larger than what the sum rounds off.
        let log = shifted.log_of_sum::<S>(T::lost(pred, epsilon, shifted));
        let over = |x: T| if target == T::ZERO { T::ZERO } else { x / shifted };
        let ratio = over(target);
        Point {
            value: pred - log.weighted(target) + full,
            grad: [T::ONE - ratio, full_slope - log],
            hess: over(ratio),
        }
    }
}

/// The loss with its parameters; a call may bring an epsilon of its own.
struct PoissonNll<C> {
    from_logits: bool,
    constant: PhantomData<C>,
}

impl<C> PoissonNll<C> {
    fn new(from_logits: bool) -> Self {
        PoissonNll { from_logits, constant: PhantomData }
    }
}

impl<C: Constant> Loss for PoissonNll<C> {
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
        if self.from_logits {
            plan(FromLogits(self.constant), call)
        } else {
            plan(FromRate { epsilon, constant: self.constant }, call)
        }
    }
    fn in_place(&self) -> bool {
        true
    }
}

/// From the parameters.
fn build(params: &Params) -> Box<dyn Loss> {
    let from_logits = params.flag("from_logits");
    match params.text("compute_full") {
        "stirling" => Box::new(PoissonNll::<Stirling>::new(from_logits)),
        _ if params.flag("compute_full") => Box::new(PoissonNll::<Exact>::new(from_logits)),
        _ => Box::new(PoissonNll::<Without>::new(from_logits)),
    }
}

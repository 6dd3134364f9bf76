//! Negative log-likelihood of a normal distribution, of which mean and variance are predicted.
//!
//! With the mean x, the target t and v the variance, but at least epsilon: `loss = (log v + (x - t)^2 / v) / 2`, and in full
//! `log(2 pi) / 2` more. The slope with respect to x is `(x - t) / v`, with respect to the variance
//! `(1 - (x - t)^2 / v) / (2 v)`, and 0 up to epsilon; the second derivative with respect to x is `1 / v`.
//!
//! Source: Nix and Weigend, "Estimating the mean and variance of the target probability distribution" (1994); in PyTorch
//! `GaussianNLLLoss`, whose slope goes on below epsilon.

use super::{COMMON, Elementwise, Point, erased};
use crate::math::Real;
use crate::registry::{
    Bound, Domain, Gradient, SAMPLE_WEIGHT, ShapeRule, Spec, flag, float, input, pred,
};
use crate::simd::Isa;

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "GaussianNLLLoss",
    inputs: &[
        pred(Domain::Real),
        input("target", Domain::Real, Gradient::OnRequest),
        input("var", Domain::Variance, Gradient::Default).shaped(ShapeRule::Broadcast),
        SAMPLE_WEIGHT,
    ],
    params: &[flag("full", false), float("epsilon", 1e-6, Bound::Positive)],
    kinks: "var == epsilon",
    build: |p| Ok(erased(GaussianNll { full: p.flag("full"), epsilon: p.float("epsilon") })),
    ..COMMON
};

crate::front::typed! {
    /// Negative log-likelihood of a normal distribution, of which mean and variance are predicted.
    GaussianNLLLoss(pred, target, var) { full: bool, epsilon: f64 }
}

/// The likelihood with its parameters.
#[derive(Clone, Copy)]
struct GaussianNll {
    full: bool,
    epsilon: f64,
}

impl Elementwise<3> for GaussianNll {
    const COST: f64 = 0.6;

    #[expect(clippy::disallowed_macros, reason = "one number")]
    fn kinks(self, [_, _, var]: [f64; 3]) -> Vec<f64> {
        vec![var - self.epsilon]
    }

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, target, var]: [T; 3]) -> Point<T, 3> {
        let epsilon = T::from_f64(self.epsilon).max(T::MIN_POSITIVE);
        let v = if var <= epsilon { epsilon } else { var };
        let constant =
            if self.full { T::from_f64(std::f64::consts::TAU.ln() / 2.0) } else { T::ZERO };
        let error = pred - target;
        let slope = error / v;
        // Not with the square of the error or twice the result, which may overflow where this does not.
        let pull = (-T::HALF * slope).mul_add::<S>(slope, T::HALF / v);
        Point {
            value: T::HALF * v.log::<S>() + T::HALF * error * slope + constant,
            grad: [slope, -slope, if var <= epsilon { T::ZERO } else { pull }],
            hess: T::ONE / v,
        }
    }
}

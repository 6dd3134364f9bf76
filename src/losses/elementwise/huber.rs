//! Absolute error with its corner rounded off.
//!
//! With `e = |label - pred|`: `loss = e^2 / (2 rho)` up to `rho` and `e - rho / 2` beyond. The slope is `e / rho`, then 1,
//! in the direction of `pred - label`; at `e = rho`, where both branches agree, it is 1. The second derivative is
//! `1 / rho` inside and 0 from `rho` on. Source: Apache MXNet Gluon, `HuberLoss` (elsewhere "smooth L1"; the classical
//! Huber loss is `rho` times this one).

use super::{COMMON, Elementwise, Point, erased};
use crate::math::Real;
use crate::registry::{Bound, Spec, float};
use crate::simd::Isa;

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "HuberLoss",
    params: &[float("rho", 1.0, Bound::Positive)],
    kinks: "abs(pred - label) == rho",
    build: |p| Ok(erased(Huber { rho: p.float("rho") })),
    ..COMMON
};

crate::front::typed! {
    /// Absolute error with its corner rounded off: `e^2 / (2 rho)` up to `rho` and `e - rho / 2` beyond, with `e =
    /// |label - pred|`.
    HuberLoss(pred, label) { rho: f64 }
}

/// Huber loss with slope 1 outside.
#[derive(Clone, Copy)]
pub struct Huber {
    /// Where the square ends, > 0.
    pub rho: f64,
}

impl Elementwise<2> for Huber {
    #[expect(clippy::disallowed_macros, reason = "one number")]
    fn kinks(self, [pred, label]: [f64; 2]) -> Vec<f64> {
        vec![(pred - label).abs() - self.rho]
    }

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        // A rho that underflows in T would make 1 / rho infinite.
        let rho = T::from_f64(self.rho).max(T::MIN_POSITIVE);
        let curvature = T::ONE / rho;
        let error = pred - label;
        let distance = error.abs();
        let square = distance <= rho;
        // By division: the product with a rounded 1 / rho would cost half an ulp more than there is.
        let ratio = error / rho;
        let slope = if square { ratio } else { error.sign() };
        Point {
            value: if square { T::HALF * error * ratio } else { distance - T::HALF * rho },
            grad: [slope, -slope],
            hess: if distance < rho { curvature } else { T::ZERO },
        }
    }
}

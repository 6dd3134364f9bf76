//! Absolute error.
//!
//! `loss = |label - pred|`; the slope is the sign of `pred - label`, and 0 at the kink, where both are equal. The second
//! derivative is 0. Source: Apache MXNet Gluon, `L1Loss`.

use super::{COMMON, Elementwise, Point, erased};
use crate::math::Real;
use crate::registry::{Hessian, Spec};
use crate::simd::Isa;

/// The row of the registry.
pub const SPEC: Spec =
    Spec { name: "L1Loss", kinks: "pred == label", build: |_| Ok(erased(L1)), ..COMMON };

crate::front::typed! {
    /// Absolute error: `|label - pred|`.
    L1Loss(pred, label) {}
}

/// Absolute error.
#[derive(Clone, Copy)]
pub struct L1;

impl Elementwise<2> for L1 {
    const HESSIAN: Hessian = Hessian::Zero;

    #[expect(clippy::disallowed_macros, reason = "one number")]
    fn kinks(self, [pred, label]: [f64; 2]) -> Vec<f64> {
        vec![pred - label]
    }

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        let error = pred - label;
        let slope = error.sign();
        Point { value: error.abs(), grad: [slope, -slope], hess: T::ZERO }
    }
}

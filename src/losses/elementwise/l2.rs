//! Half the squared error.
//!
//! `loss = (label - pred)^2 / 2`, slope `pred - label`, second derivative 1. Source: Apache MXNet Gluon, `L2Loss`.

use super::{COMMON, Elementwise, Point, erased};
use crate::math::Real;
use crate::registry::Spec;
use crate::simd::Isa;

/// The row of the registry.
pub const SPEC: Spec = Spec { name: "L2Loss", build: |_| Ok(erased(L2)), ..COMMON };

crate::front::typed! {
    /// Half the squared error: `(label - pred)^2 / 2`.
    L2Loss(pred, label) {}
}

/// Half the squared error.
#[derive(Clone, Copy)]
pub struct L2;

impl Elementwise<2> for L2 {
    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        let error = pred - label;
        Point { value: T::HALF * error * error, grad: [error, -error], hess: T::ONE }
    }
}

//! Hinge loss of a signed label.
//!
//! `loss = max(0, margin - pred label)` for labels -1 and 1. Where it is positive the
//! slope is `-label`; at the margin and beyond it is 0. The second derivative is 0. Source: Apache MXNet Gluon,
//! `HingeLoss`.

use super::{COMMON, Elementwise, Point, SIGNED, erased};
use crate::math::Real;
use crate::registry::{Bound, Hessian, OUT_OF_RANGE, Spec, float};
use crate::simd::Isa;

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "HingeLoss",
    inputs: SIGNED,
    params: &[float("margin", 1.0, Bound::Finite), OUT_OF_RANGE],
    kinks: "pred * label == margin",
    build: |p| Ok(erased(Hinge { margin: p.float("margin") })),
    ..COMMON
};

crate::front::typed! {
    /// Hinge loss of a label -1 or 1: `max(0, margin - pred label)`.
    HingeLoss(pred, label) { margin: f64, out_of_range: &str }
}

/// Hinge loss.
#[derive(Clone, Copy)]
pub struct Hinge {
    /// Where the loss ends.
    pub margin: f64,
}

impl Elementwise<2> for Hinge {
    const HESSIAN: Hessian = Hessian::Zero;

    #[expect(clippy::disallowed_macros, reason = "one number")]
    fn kinks(self, [pred, label]: [f64; 2]) -> Vec<f64> {
        vec![pred * label - self.margin]
    }

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        let gap = T::from_f64(self.margin) - pred * label;
        Point {
            value: gap.where_positive(gap),
            grad: [(-label).where_positive(gap), (-pred).where_positive(gap)],
            hess: T::ZERO,
        }
    }
}

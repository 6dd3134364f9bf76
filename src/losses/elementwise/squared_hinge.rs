//! Squared hinge loss of a signed label.
//!
//! `loss = max(0, margin - pred label)^2` for labels -1 and 1. With the gap
//! `g = margin - pred label` positive, the slope is `-2 g label` and the second derivative `2 label^2`; at the margin and
//! beyond both are 0. Source: Apache MXNet Gluon, `SquaredHingeLoss`.

use super::{COMMON, Elementwise, Point, SIGNED, erased};
use crate::math::Real;
use crate::registry::{Bound, OUT_OF_RANGE, Spec, float};
use crate::simd::Isa;

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "SquaredHingeLoss",
    inputs: SIGNED,
    params: &[float("margin", 1.0, Bound::Finite), OUT_OF_RANGE],
    kinks: "pred * label == margin",
    build: |p| Ok(erased(SquaredHinge { margin: p.float("margin") })),
    ..COMMON
};

crate::front::typed! {
    /// Squared hinge loss of a label -1 or 1: `max(0, margin - pred label)^2`.
    SquaredHingeLoss(pred, label) { margin: f64, out_of_range: &str }
}

/// Squared hinge loss.
#[derive(Clone, Copy)]
pub struct SquaredHinge {
    /// Where the loss ends.
    pub margin: f64,
}

impl Elementwise<2> for SquaredHinge {
    #[expect(clippy::disallowed_macros, reason = "one number")]
    fn kinks(self, [pred, label]: [f64; 2]) -> Vec<f64> {
        vec![pred * label - self.margin]
    }

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        let gap = T::from_f64(self.margin) - pred * label;
        let slope = -(gap + gap);
        Point {
            value: (gap * gap).where_positive(gap),
            grad: [(slope * label).where_positive(gap), (slope * pred).where_positive(gap)],
            hess: (T::TWO * label * label).where_positive(gap),
        }
    }
}

//! Squared hinge loss of a signed label.
//!
//! `loss = max(0, margin - pred label)^2` for labels -1 and 1. With the gap
//! `g = margin - pred label` positive, the slope is `-2 g label` and the second derivative `2 label^2`; at the margin and
//! beyond both are 0. Source: Apache MXNet Gluon, `SquaredHingeLoss`.

use super::{Elementwise, Point};
use crate::math::Real;
use crate::simd::Isa;

/// Squared hinge loss.
#[derive(Clone, Copy)]
pub struct SquaredHinge {
    /// Where the loss ends.
    pub margin: f64,
}

impl Elementwise<2> for SquaredHinge {
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

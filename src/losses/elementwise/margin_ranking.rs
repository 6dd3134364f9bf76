//! Margin ranking: of two scores one is to be ahead of the other by a margin.
//!
//! With the scores a and b and the label y: `loss = max(0, margin - y (a - b))`, where y = 1 says that a is to be ahead, and
//! y = -1 that b is. Where it is positive the slopes are -y and y; at the margin and beyond they are 0. The second
//! derivative is 0. Source: Herbrich, Graepel and Obermayer, "Large Margin Rank Boundaries for Ordinal Regression" (2000);
//! in PyTorch `MarginRankingLoss`.

use super::{COMMON, Elementwise, Point, erased};
use crate::math::Real;
use crate::registry::{
    Bound, Domain, Gradient, Hessian, OUT_OF_RANGE, SAMPLE_WEIGHT, ShapeRule, Spec, float, input,
};
use crate::simd::Isa;

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "MarginRankingLoss",
    inputs: &[
        input("input1", Domain::Real, Gradient::Default).shaped(ShapeRule::First),
        input("input2", Domain::Real, Gradient::Default),
        input("label", Domain::Sign, Gradient::OnRequest),
        SAMPLE_WEIGHT,
    ],
    params: &[float("margin", 0.0, Bound::Finite), OUT_OF_RANGE],
    kinks: "label * (input1 - input2) == margin",
    build: |p| Ok(erased(MarginRanking { margin: p.float("margin") })),
    ..COMMON
};

crate::front::typed! {
    /// Margin ranking: `max(0, margin - label (input1 - input2))`.
    MarginRankingLoss(input1, input2, label) { margin: f64, out_of_range: &str }
}

/// The loss with its parameters.
#[derive(Clone, Copy)]
struct MarginRanking {
    margin: f64,
}

impl Elementwise<3> for MarginRanking {
    const HESSIAN: Hessian = Hessian::Zero;

    #[expect(clippy::disallowed_macros, reason = "one number")]
    fn kinks(self, [a, b, label]: [f64; 3]) -> Vec<f64> {
        vec![label * (a - b) - self.margin]
    }

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [a, b, label]: [T; 3]) -> Point<T, 3> {
        let ahead = a - b;
        let gap = T::from_f64(self.margin) - label * ahead;
        let slope = label.where_positive(gap);
        Point {
            value: gap.where_positive(gap),
            grad: [-slope, slope, (-ahead).where_positive(gap)],
            hess: T::ZERO,
        }
    }
}

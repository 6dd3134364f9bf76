//! Hinge embedding: a distance that is to be small (label 1) or at least a margin (label -1).
//!
//! With the distance x: `loss = x` for label 1 and `max(0, margin - x)` for label -1. The slope is 1 for label 1, and -1 for
//! label -1 below the margin; at the margin and beyond it is 0. The second derivative is 0. Any other label, where it is
//! allowed, has both terms. Source: Hadsell and others, "Dimensionality Reduction by Learning an Invariant Mapping"
//! (2006), whose distances are squared; in PyTorch `HingeEmbeddingLoss`.

use super::{COMMON, Elementwise, Point, erased};
use crate::math::Real;
use crate::registry::{
    Bound, Domain, Hessian, OUT_OF_RANGE, SAMPLE_WEIGHT, Spec, float, label, pred,
};
use crate::simd::Isa;

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "HingeEmbeddingLoss",
    inputs: &[pred(Domain::Real), label(Domain::Sign).constant(), SAMPLE_WEIGHT],
    params: &[float("margin", 1.0, Bound::Finite), OUT_OF_RANGE],
    kinks: "pred == margin where label is -1",
    build: |p| Ok(erased(HingeEmbedding { margin: p.float("margin") })),
    ..COMMON
};

crate::front::typed! {
    /// Hinge embedding: `pred` where the label is 1, `max(0, margin - pred)` where it is -1.
    HingeEmbeddingLoss(pred, label) { margin: f64, out_of_range: &str }
}

/// The loss with its parameters.
#[derive(Clone, Copy)]
struct HingeEmbedding {
    margin: f64,
}

impl Elementwise<2> for HingeEmbedding {
    const HESSIAN: Hessian = Hessian::Zero;

    #[expect(clippy::disallowed_macros, reason = "one number")]
    fn kinks(self, [pred, label]: [f64; 2]) -> Vec<f64> {
        if label == 1.0 { Vec::new() } else { vec![pred - self.margin] }
    }

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        let gap = T::from_f64(self.margin) - pred;
        let [alike, apart] = [label != -T::ONE, label != T::ONE];
        let near = if alike { [pred, T::ONE] } else { [T::ZERO; 2] };
        let far = if apart { [gap, T::ONE].map(|x| x.where_positive(gap)) } else { [T::ZERO; 2] };
        Point { value: near[0] + far[0], grad: [near[1] - far[1], T::ZERO], hess: T::ZERO }
    }
}

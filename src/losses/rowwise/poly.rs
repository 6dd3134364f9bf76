//! Poly-1 cross-entropy: cross-entropy with another weight for the first term of its expansion in 1 - p.
//!
//! With p the probability of the label: `loss = -log p + epsilon (1 - p)`. Its slope with respect to log p is
//! `-(1 + epsilon p)`, its second derivative `-epsilon p`. Through the softmax the gradient is
//! `(1 + epsilon p) (softmax - onehot)`, the diagonal of the second derivative
//! `(1 + epsilon p) s (1 - s) - epsilon p (onehot - s)^2` with s the softmax.
//!
//! Source: Leng and others, "PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions" (2022).

use super::AXIS;
use super::class_labels::{CLASS_LABEL, IGNORE_INDEX, RAISE_OR_CLIP, SparseLoss};
use crate::error::Result;
use crate::registry::{
    Bound, Default, Domain, Family, Accepts, Loss, Params, SAMPLE_WEIGHT, Spec, Unreduced, float,
    param, pred,
};
use crate::softmax::{Head, Scalars, Slopes};
use std::hint::select_unpredictable;

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "PolyLoss",
    family: Family::Rowwise,
    inputs: &[pred(Domain::Real), CLASS_LABEL, SAMPLE_WEIGHT],
    params: &[
        float("epsilon", 1.0, Bound::Finite),
        AXIS,
        IGNORE_INDEX,
        RAISE_OR_CLIP,
        param("class_weight", Default::None, Accepts::Weights),
    ],
    unreduced: Unreduced::Row,
    hess: true,
    kinks: "",
    build,
};

crate::front::typed! {
    /// Poly-1 cross-entropy: `-log p + epsilon (1 - p)`, p the probability of the label.
    PolyLoss(pred, label) {
        epsilon: f64,
        axis: i64,
        ignore_index: i64,
        out_of_range: &str,
        class_weight: &[f64],
    }
}

fn build(params: &Params) -> Result<Box<dyn Loss>> {
    let head = Poly { epsilon: params.float("epsilon") };
    Ok(Box::new(SparseLoss::new(head, params, Some("class_weight"))?))
}

/// The loss with its parameters.
#[derive(Clone, Copy)]
struct Poly {
    epsilon: f64,
}

impl Head for Poly {
    fn slopes(&self, row: &Scalars) -> Slopes {
        let Poly { epsilon } = *self;
        let Scalars { nll, p, complement: q, .. } = *row;
        // Of a sum with a larger epsilon, or -log p, less than half cancels.
        let value = if epsilon < -0.5 && nll < 2.0 {
            (1.0 + epsilon) * q + remainder(nll)
        } else {
            nll + epsilon * q
        };
        let [slope, bend] = self.factors([p, q]);
        Slopes {
            value,
            total: slope,
            at_label: -slope * q,
            curvature: slope,
            square: -epsilon * p,
            hess_at_label: Some(p * q * bend),
            ..Slopes::default()
        }
    }

    fn hess_at_max(
        &self,
        p: f64,
        [p_max, q_max]: [f64; 2],
        rest: &dyn Fn() -> f64,
    ) -> Option<f64> {
        let [_, bend] = self.factors([q_max, p_max]);
        Some(p_max * (rest() + p * bend))
    }
}

impl Poly {
    /// 1 + epsilon p and 1 + epsilon (p - q) from p and q = 1 - p: of two forms those that do not cancel where epsilon is
    /// near 1 or -1.
    #[inline(always)]
    fn factors(self, [p, q]: [f64; 2]) -> [f64; 2] {
        let Poly { epsilon } = self;
        let (of_p, of_q) = (epsilon * p, epsilon * q);
        let slope = select_unpredictable(p < 0.5, 1.0 + of_p, (1.0 + epsilon) - of_q);
        let bend = select_unpredictable(
            p < 0.5,
            (1.0 - epsilon) + 2.0 * of_p,
            (1.0 + epsilon) - 2.0 * of_q,
        );
        [slope, bend]
    }
}

/// y - (1 - exp(-y)) for y up to 2, about y^2 / 2 for a small y: what is left of -log p without 1 - p.
fn remainder(y: f64) -> f64 {
    // y^2 / 2 (1 - y / 3 (1 - y / 4 (1 - ...))); what the last term leaves is less than half an ulp.
    const LAST: i32 = 28;
    let mut series = 1.0;
    for k in (3..=LAST).rev() {
        series = 1.0 - series * (y * (1.0 / f64::from(k)));
    }
    0.5 * y * y * series
}

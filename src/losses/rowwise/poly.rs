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
        let slope = 1.0 + epsilon * p;
        Slopes {
            value: nll + epsilon * q,
            total: slope,
            at_label: -slope * q,
            curvature: slope,
            square: -epsilon * p,
            hess_at_label: Some(slope * p * q - epsilon * p * q * q),
            ..Slopes::default()
        }
    }
}

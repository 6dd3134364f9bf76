//! Focal loss on a softmax: cross-entropy with less weight for what the model has right already.
//!
//! With p the probability of the label and q = 1 - p: `loss = -q^gamma log p`. Its slope with respect to log p is
//! `f' = -q^gamma (1 + gamma p r)` with `r = -log(p) / q`, its second derivative `f'' = gamma p q^(gamma - 1) ((gamma - 1)
//! p r + 2 + log p)`. Through the softmax the gradient is `f' (onehot - p)`, the diagonal of the second derivative
//! `f'' (onehot - p)^2 - f' p (1 - p)`, which may be negative. With gamma 0 it is cross-entropy. A weight alpha of the
//! label's class multiplies all of it.
//!
//! Source: Lin and others, "Focal Loss for Dense Object Detection" (2017), and its form for several classes, as Keras's
//! `CategoricalFocalCrossentropy` has it.

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
    name: "SoftmaxFocalLoss",
    family: Family::Rowwise,
    inputs: &[pred(Domain::Real), CLASS_LABEL, SAMPLE_WEIGHT],
    params: &[
        float("gamma", 2.0, Bound::NonNegative),
        param("alpha", Default::None, Accepts::Weights),
        AXIS,
        IGNORE_INDEX,
        RAISE_OR_CLIP,
    ],
    unreduced: Unreduced::Row,
    hess: true,
    kinks: "",
    build,
};

crate::front::typed! {
    /// Focal loss on a softmax: `-(1 - p)^gamma log p`, p the probability of the label.
    SoftmaxFocalLoss(pred, label) {
        gamma: f64,
        alpha: &[f64],
        axis: i64,
        ignore_index: i64,
        out_of_range: &str,
    }
}

fn build(params: &Params) -> Result<Box<dyn Loss>> {
    let head = Focal { gamma: params.float("gamma") };
    Ok(Box::new(SparseLoss::new(head, params, Some("alpha"))?))
}

/// The loss with its parameters.
#[derive(Clone, Copy)]
struct Focal {
    gamma: f64,
}

impl Head for Focal {
    fn slopes(&self, row: &Scalars) -> Slopes {
        let Focal { gamma } = *self;
        let Scalars { nll, p, complement: q, .. } = *row;
        let power = if gamma == 2.0 { q * q } else { q.powf(gamma) };
        // Of a sure and right model the ratio is 1, of an impossible label p r is 0.
        let ratio = if q == 0.0 { 1.0 } else { nll / q };
        let pr = if p == 0.0 { 0.0 } else { p * ratio };
        let slope = power * (1.0 + gamma * pr);
        let bend = if q == 0.0 || p == 0.0 || gamma == 0.0 {
            0.0
        } else {
            gamma * p * (power / q) * ((gamma - 1.0) * pr + 2.0 - nll)
        };
        Slopes {
            value: if power == 0.0 { 0.0 } else { power * nll },
            total: slope,
            at_label: -slope * q,
            curvature: slope,
            square: bend,
            hess_at_label: Some(bend * q * q + slope * p * q),
            ..Slopes::default()
        }
    }
}

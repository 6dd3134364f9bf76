//! Losses that look at one vector at a time.

pub(crate) mod class_labels;
mod divergence;
mod kl_div_logits;
mod plan;
mod products;

use crate::registry::{Accepts, Default, Param, param};

super::family![
    softmax_ce,
    kl_div,
    triplet,
    cosine_embedding,
    softmax_focal,
    poly,
    categorical_hinge,
    multi_quantile,
    crps,
    multi_margin,
    triplet_margin,
    multilabel_margin,
    multilabel_soft_margin,
];

/// The axis of the classes.
const AXIS: Param = param("axis", Default::Int(-1), Accepts::Int(i64::MIN));

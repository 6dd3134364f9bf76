//! Losses that look at one vector at a time.

mod class_labels;
pub mod cosine_embedding;
pub mod kl_div;
mod plan;
pub mod softmax_ce;
pub mod triplet;

use crate::registry::{
    Bound, Default, Domain, Family, Gradient, Kind, OUT_OF_RANGE, SAMPLE_WEIGHT, Spec, Unreduced,
    flag, float, input, label, param, pred,
};

/// The axis of the classes.
const AXIS: crate::registry::Param = param("axis", Default::Int(-1), Kind::Int(i64::MIN));

/// The registry's rows.
pub static LOSSES: &[Spec] = &[
    Spec {
        name: "SoftmaxCrossEntropyLoss",
        family: Family::Rowwise,
        inputs: &[pred(Domain::Real), label(Domain::Classes), SAMPLE_WEIGHT],
        params: &[
            AXIS,
            flag("sparse_label", true),
            flag("from_logits", false),
            param("ignore_index", Default::None, Kind::Int(i64::MIN)),
            param("out_of_range", Default::Text("raise"), Kind::Choice(&["raise", "clip"])),
            param("class_weight", Default::None, Kind::Weights),
            float("label_smoothing", 0.0, Bound::Unit),
        ],
        unreduced: Unreduced::Row,
        hess: true,
        kinks: "",
        build: |p| Ok(Box::new(softmax_ce::SoftmaxCe::new(p)?)),
    },
    Spec {
        name: "KLDivLoss",
        family: Family::Rowwise,
        inputs: &[pred(Domain::LogDistribution), label(Domain::Distribution), SAMPLE_WEIGHT],
        params: &[
            flag("from_logits", true),
            AXIS,
            float("epsilon", 0.0, Bound::NonNegative),
            flag("log_target", false),
            float("temperature", 1.0, Bound::Positive),
            OUT_OF_RANGE,
        ],
        unreduced: Unreduced::Element,
        hess: true,
        kinks: "",
        build: |p| Ok(Box::new(kl_div::KlDiv::new(p)?)),
    },
    Spec {
        name: "TripletLoss",
        family: Family::Rowwise,
        inputs: &[
            pred(Domain::Real),
            input("positive", Domain::Real, Gradient::Default),
            input("negative", Domain::Real, Gradient::Default),
            SAMPLE_WEIGHT,
        ],
        params: &[float("margin", 1.0, Bound::Finite)],
        unreduced: Unreduced::Sample,
        hess: false,
        kinks: "margin + sum((positive - pred)**2 - (negative - pred)**2) == 0",
        build: |p| Ok(Box::new(triplet::Triplet { margin: p.float("margin") })),
    },
    Spec {
        name: "CosineEmbeddingLoss",
        family: Family::Rowwise,
        inputs: &[
            input("input1", Domain::Real, Gradient::Default),
            input("input2", Domain::Real, Gradient::Default),
            input("label", Domain::Sign, Gradient::Never),
            SAMPLE_WEIGHT,
        ],
        params: &[float("margin", 0.0, Bound::Finite), AXIS, OUT_OF_RANGE],
        unreduced: Unreduced::Row,
        hess: false,
        kinks: "cosine(input1, input2, axis) == margin",
        build: |p| Ok(Box::new(cosine_embedding::CosineEmbedding::new(p))),
    },
];

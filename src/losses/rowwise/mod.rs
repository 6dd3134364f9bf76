//! Losses that look at one vector at a time.

pub(crate) mod kernel;
pub mod softmax;
pub mod softmax_ce;

use super::spec::{
    Bound, Default, Domain, Family, Kind, SAMPLE_WEIGHT, Spec, flag, float, label, param, pred,
};

/// The registry's rows.
pub static LOSSES: &[Spec] = &[Spec {
    name: "SoftmaxCrossEntropyLoss",
    family: Family::Rowwise,
    inputs: &[pred(Domain::Real), label(Domain::Classes), SAMPLE_WEIGHT],
    params: &[
        param("axis", Default::Int(-1), Kind::Int(i64::MIN)),
        flag("sparse_label", true),
        flag("from_logits", false),
        param("ignore_index", Default::None, Kind::Int(i64::MIN)),
        param("out_of_range", Default::Text("raise"), Kind::Choice(&["raise", "clip"])),
        param("class_weight", Default::None, Kind::Weights),
        float("label_smoothing", 0.0, Bound::Unit),
    ],
    hess: true,
    kinks: "",
    build: |p| Ok(Box::new(softmax_ce::SoftmaxCe::new(p)?)),
}];

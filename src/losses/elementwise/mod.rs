//! Losses that look at one element at a time.

mod kernel;

pub use kernel::{
    Blocks, Elementwise, ErasedPoint, Point, erased, plan, plan_blocks, with_optional,
    with_optional_weight,
};

use crate::registry::{Domain, Family, Input, SAMPLE_WEIGHT, Spec, Unreduced, label, pred};

super::family![
    l1,
    l2,
    huber,
    hinge,
    squared_hinge,
    logistic,
    sigmoid_bce,
    poisson_nll,
    gaussian_nll,
    margin_ranking,
    hinge_embedding,
];

/// What most of them are like.
const COMMON: Spec = Spec {
    name: "",
    family: Family::Elementwise,
    inputs: &[pred(Domain::Real), label(Domain::Real), SAMPLE_WEIGHT],
    params: &[],
    unreduced: Unreduced::Element,
    hess: true,
    kinks: "",
    build: |_| Ok(erased(l1::L1)),
};

/// The inputs of a loss whose label is a sign.
const SIGNED: &[Input] = &[pred(Domain::Real), label(Domain::Sign), SAMPLE_WEIGHT];

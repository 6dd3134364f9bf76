//! Losses of a batch against a batch.

mod kernel;
pub mod sdml;

use super::spec::{Bound, Domain, Family, Gradient, SAMPLE_WEIGHT, Spec, float, input};

/// The registry's rows.
pub static LOSSES: &[Spec] = &[Spec {
    name: "SDMLLoss",
    family: Family::Pairwise,
    inputs: &[
        input("x1", Domain::Real, Gradient::Default),
        input("x2", Domain::Real, Gradient::Default),
        SAMPLE_WEIGHT,
    ],
    params: &[float("smoothing_parameter", 0.3, Bound::Unit)],
    hess: false,
    kinks: "",
    build: |p| Ok(Box::new(sdml::Sdml { smoothing: p.float("smoothing_parameter") })),
}];

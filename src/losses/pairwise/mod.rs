//! Losses of a batch against a batch.

/// A loop that is written out: the compiler keeps an array of sums in registers only where no index varies.
macro_rules! unrolled {
    ($k:ident in [$($at:literal),*] $body:block) => { $({ let $k = $at; $body })* };
}

mod gradients;
mod kernel;
pub mod sdml;

use crate::registry::{
    Bound, Domain, Family, Gradient, SAMPLE_WEIGHT, Spec, Unreduced, float, input,
};

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
    unreduced: Unreduced::Pair,
    hess: false,
    kinks: "",
    build: |p| Ok(Box::new(sdml::Sdml { smoothing: p.float("smoothing_parameter") })),
}];

//! The losses, by the shape of their work, and the registry that names them.

pub mod call;
pub mod elementwise;
pub mod spec;

use elementwise::erased;
use elementwise::{huber::Huber, l1::L1, l2::L2};
use spec::{Bound, Default, Domain, Family, Gradient, Input, Kind, Param, Spec};

const fn input(name: &'static str, domain: Domain, gradient: Gradient) -> Input {
    Input { name, domain, required: true, gradient }
}

const fn optional(name: &'static str, domain: Domain, gradient: Gradient) -> Input {
    Input { name, domain, required: false, gradient }
}

const fn pred(domain: Domain) -> Input {
    input("pred", domain, Gradient::Default)
}

const fn label(domain: Domain) -> Input {
    input("label", domain, Gradient::OnRequest)
}

const SAMPLE_WEIGHT: Input = optional("sample_weight", Domain::Weight, Gradient::Never);

const fn param(name: &'static str, default: Default, kind: Kind) -> Param {
    Param { name, default, kind }
}

const fn float(name: &'static str, default: f64, bound: Bound) -> Param {
    param(name, Default::Float(default), Kind::Float(bound))
}

/// What most elementwise losses are like.
const ELEMENTWISE: Spec = Spec {
    name: "",
    family: Family::Elementwise,
    inputs: &[pred(Domain::Real), label(Domain::Real), SAMPLE_WEIGHT],
    params: &[],
    hess: true,
    kinks: "",
    build: |_| Ok(erased(L1)),
};

/// Every loss.
pub static REGISTRY: &[Spec] = &[
    Spec { name: "L1Loss", kinks: "pred == label", build: |_| Ok(erased(L1)), ..ELEMENTWISE },
    Spec { name: "L2Loss", build: |_| Ok(erased(L2)), ..ELEMENTWISE },
    Spec {
        name: "HuberLoss",
        params: &[float("rho", 1.0, Bound::Positive)],
        kinks: "abs(pred - label) == rho",
        build: |p| Ok(erased(Huber { rho: p.float("rho") })),
        ..ELEMENTWISE
    },
];

//! Losses that look at one element at a time.

pub mod hinge;
pub mod huber;
mod kernel;
pub mod l1;
pub mod l2;
pub mod logistic;
pub mod poisson_nll;
pub mod sigmoid_bce;
pub mod squared_hinge;

pub use kernel::{Elementwise, Point, erased, plan, with_optional};

use crate::registry::{
    Bound, Default, Domain, Family, Gradient, Kind, OUT_OF_RANGE, SAMPLE_WEIGHT, Spec, Unreduced,
    flag, float, input, label, optional, param, pred,
};

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
const SIGNED: &[crate::registry::Input] = &[pred(Domain::Real), label(Domain::Sign), SAMPLE_WEIGHT];

/// The registry's rows.
pub static LOSSES: &[Spec] = &[
    Spec { name: "L1Loss", kinks: "pred == label", build: |_| Ok(erased(l1::L1)), ..COMMON },
    Spec { name: "L2Loss", build: |_| Ok(erased(l2::L2)), ..COMMON },
    Spec {
        name: "HuberLoss",
        params: &[float("rho", 1.0, Bound::Positive)],
        kinks: "abs(pred - label) == rho",
        build: |p| Ok(erased(huber::Huber { rho: p.float("rho") })),
        ..COMMON
    },
    Spec {
        name: "HingeLoss",
        inputs: SIGNED,
        params: &[float("margin", 1.0, Bound::Finite), OUT_OF_RANGE],
        kinks: "pred * label == margin",
        build: |p| Ok(erased(hinge::Hinge { margin: p.float("margin") })),
        ..COMMON
    },
    Spec {
        name: "SquaredHingeLoss",
        inputs: SIGNED,
        params: &[float("margin", 1.0, Bound::Finite), OUT_OF_RANGE],
        kinks: "pred * label == margin",
        build: |p| Ok(erased(squared_hinge::SquaredHinge { margin: p.float("margin") })),
        ..COMMON
    },
    Spec {
        name: "LogisticLoss",
        inputs: SIGNED,
        params: &[
            param("label_format", Default::Text("signed"), Kind::Choice(&["signed", "binary"])),
            OUT_OF_RANGE,
        ],
        build: |p| Ok(erased(logistic::Logistic { signed: p.text("label_format") == "signed" })),
        ..COMMON
    },
    Spec {
        name: "SigmoidBinaryCrossEntropyLoss",
        inputs: &[
            pred(Domain::Real),
            label(Domain::Probability),
            SAMPLE_WEIGHT,
            optional("pos_weight", Domain::Weight, Gradient::OnRequest),
        ],
        params: &[
            flag("from_sigmoid", false),
            float("epsilon", 0.0, Bound::NonNegative),
            OUT_OF_RANGE,
        ],
        build: |p| {
            use sigmoid_bce::{Bce, SigmoidBce};
            let epsilon = p.float("epsilon");
            if p.flag("from_sigmoid") {
                return Ok(with_optional(Bce { epsilon }, Bce { epsilon }));
            }
            p.only_if(epsilon == 0.0, "epsilon", "from_sigmoid=True")?;
            Ok(with_optional(SigmoidBce, SigmoidBce))
        },
        ..COMMON
    },
    Spec {
        name: "PoissonNLLLoss",
        inputs: &[
            pred(Domain::Real),
            input("target", Domain::NonNegative, Gradient::OnRequest),
            SAMPLE_WEIGHT,
            optional("epsilon", Domain::Scalar, Gradient::Never),
        ],
        params: &[
            flag("from_logits", true),
            param("compute_full", Default::Flag(false), Kind::FlagOr(&["stirling"])),
            OUT_OF_RANGE,
        ],
        kinks: "target == 1",
        build: |p| Ok(poisson_nll::build(p)),
        ..COMMON
    },
];

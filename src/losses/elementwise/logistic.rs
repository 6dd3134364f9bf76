//! Logistic loss: binary cross-entropy of a logit with a signed label.
//!
//! With z = (label + 1) / 2 for labels -1 and 1, or z = label in the binary format, `loss`, slope and second derivative
//! are those of [`super::sigmoid_bce`] for the label z. Source: Apache MXNet Gluon,
//! `LogisticLoss`.

use super::sigmoid_bce::SigmoidBce;
use super::{COMMON, Elementwise, Point, SIGNED, erased};
use crate::math::Real;
use crate::registry::{Default, Domain, Input, Accepts, OUT_OF_RANGE, Spec, param};
use crate::simd::Isa;

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "LogisticLoss",
    inputs: SIGNED,
    params: &[
        param("label_format", Default::Text("signed"), Accepts::Choice(&["signed", "binary"])),
        OUT_OF_RANGE,
    ],
    build: |p| Ok(erased(Logistic { signed: p.text("label_format") == "signed" })),
    ..COMMON
};

crate::front::typed! {
    /// Logistic loss of a logit and a label -1 or 1: `log(1 + exp(-pred label))`.
    LogisticLoss(pred, label) { label_format: &str, out_of_range: &str }
}

/// Logistic loss.
#[derive(Clone, Copy)]
pub struct Logistic {
    /// Whether labels are -1 and 1 rather than 0 and 1.
    pub signed: bool,
}

impl Elementwise<2> for Logistic {
    const COST: f64 = <SigmoidBce as Elementwise<2>>::COST;

    fn input(self, declared: Input) -> Input {
        match declared.domain {
            Domain::Sign if !self.signed => declared.of(Domain::Probability),
            _ => declared,
        }
    }

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        // The label less the one that the logit speaks for, before it is halved: z itself would be rounded.
        let sign = T::ONE.copysign(pred);
        let (spoken_for, half) =
            if self.signed { (sign, T::HALF) } else { (T::HALF + T::HALF * sign, T::ONE) };
        let against = half * (spoken_for - label);
        let logistic = pred.logistic::<S>();
        let [value, slope, hess] = SigmoidBce::weighted::<S, T>(pred, logistic, against, T::ONE);
        Point { value, grad: [slope, -half * pred], hess }
    }
}

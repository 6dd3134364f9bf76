//! Logistic loss: binary cross-entropy of a logit with a signed label.
//!
//! With z = (label + 1) / 2 for labels -1 and 1, or z = label in the binary format, `loss`, slope and second derivative
//! are those of [`super::sigmoid_bce`] for the label z. Other labels follow the formula. Source: Apache MXNet Gluon,
//! `LogisticLoss`.

use super::sigmoid_bce::SigmoidBce;
use super::{Elementwise, Point};
use crate::real::Real;
use crate::simd::Isa;

/// Logistic loss.
#[derive(Clone, Copy)]
pub struct Logistic {
    /// Whether labels are -1 and 1 rather than 0 and 1.
    pub signed: bool,
}

impl Elementwise<2> for Logistic {
    const COST: f64 = <SigmoidBce as Elementwise<2>>::COST;

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        let (z, step) =
            if self.signed { (T::HALF * (label + T::ONE), T::HALF) } else { (label, T::ONE) };
        let Point { value, grad: [slope, to_z], hess } = SigmoidBce.point::<S, T>([pred, z]);
        Point { value, grad: [slope, step * to_z], hess }
    }
}

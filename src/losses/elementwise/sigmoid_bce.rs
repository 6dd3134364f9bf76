//! Binary cross-entropy, from logits or from probabilities.
//!
//! With logit x, label z in [0, 1] and weight p of the positive term:
//! `loss = p z softplus(-x) + (1 - z) softplus(x)`, slope `(1 - z) sigmoid(x) - p z sigmoid(-x)`, second derivative
//! `(p z + 1 - z) sigmoid(x) sigmoid(-x)`. All terms have one sign, so that a sure and right prediction keeps its digits;
//! the usual `max(x, 0) - x z + log(1 + exp(-|x|))` loses them. Infinite logits give the limit, 0 or infinity.
//!
//! With a probability x in place of the logit: `loss = -p z log(x + e) - (1 - z) log(1 - x + e)` with e = 0 by default,
//! exact at x = 0 and x = 1, where a term whose weight is 0 is 0.
//!
//! Labels outside [0, 1] follow the formulas. Source: Apache MXNet Gluon, `SigmoidBinaryCrossEntropyLoss`.

use super::{Elementwise, Point};
use crate::real::Real;
use crate::simd::Isa;

/// Binary cross-entropy from logits.
#[derive(Clone, Copy)]
pub struct SigmoidBce;

impl Elementwise<3> for SigmoidBce {
    const COST: f64 = 1.0;

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label, pos_weight]: [T; 3]) -> Point<T, 3> {
        let logistic = pred.logistic::<S>();
        let softplus = logistic.softplus_neg_abs + T::ZERO.max(pred);
        let softplus_neg = logistic.softplus_neg_abs + T::ZERO.max(-pred);
        let (positive, negative) = (pos_weight * label, T::ONE - label);
        let slope = negative * logistic.sigmoid - positive * logistic.sigmoid_neg;
        Point {
            value: softplus_neg.weighted(positive) + softplus.weighted(negative),
            grad: [
                slope,
                softplus_neg.weighted(pos_weight) - softplus,
                softplus_neg.weighted(label),
            ],
            hess: (positive + negative) * logistic.sigmoid * logistic.sigmoid_neg,
        }
    }
}

impl Elementwise<2> for SigmoidBce {
    const COST: f64 = 1.0;

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        let point = Elementwise::<3>::point::<S, T>(self, [pred, label, T::ONE]);
        // The derivative with respect to the label is softplus(-x) - softplus(x).
        Point { value: point.value, grad: [point.grad[0], -pred], hess: point.hess }
    }
}

/// Binary cross-entropy from probabilities.
#[derive(Clone, Copy)]
pub struct Bce {
    /// Added inside the logarithms; Gluon has 1e-12.
    pub epsilon: f64,
}

impl Elementwise<3> for Bce {
    const COST: f64 = 1.0;

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label, pos_weight]: [T; 3]) -> Point<T, 3> {
        let epsilon = T::from_f64(self.epsilon);
        let (yes, no) = (pred + epsilon, T::ONE - pred + epsilon);
        let (log_yes, log_no) = (yes.log::<S>(), (epsilon - pred).log1p::<S>());
        let (positive, negative) = (pos_weight * label, T::ONE - label);
        // 0 / 0 is 0 here: the term is not there.
        let over = |weight: T, x: T| if weight == T::ZERO { T::ZERO } else { weight / x };
        Point {
            value: -(log_yes.weighted(positive) + log_no.weighted(negative)),
            grad: [
                over(negative, no) - over(positive, yes),
                log_no - log_yes.weighted(pos_weight),
                -log_yes.weighted(label),
            ],
            hess: over(over(positive, yes), yes) + over(over(negative, no), no),
        }
    }
}

impl Elementwise<2> for Bce {
    const COST: f64 = 1.0;

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        let Point { value, grad: [slope, to_label, _], hess } =
            Elementwise::<3>::point::<S, T>(self, [pred, label, T::ONE]);
        Point { value, grad: [slope, to_label], hess }
    }
}

//! Binary cross-entropy, from logits or from probabilities.
//!
//! With logit x, label z in [0, 1] and weight p of the positive term:
//! `loss = p z softplus(-x) + (1 - z) softplus(x)`, slope `(1 - z) sigmoid(x) - p z sigmoid(-x)`, second derivative
//! `(p z + 1 - z) sigmoid(x) sigmoid(-x)`. Infinite logits give the limit, 0 or infinity.
//!
//! Let w be the weight of the side that the logit speaks against, with the logit's sign: 1 - z for positive x, -p z
//! for negative. Then `loss = w x + (p z + 1 - z) softplus(-|x|)` and the slope is
//! `w - (p z + 1 - z) copysign(sigmoid(-|x|), x)`. A sure and right prediction keeps its digits, as w is then exactly
//! 0; the usual `max(x, 0) - x z + log(1 + exp(-|x|))` loses them.
//!
//! With a probability x in place of the logit: `loss = -p z log(x + e) - (1 - z) log(1 - x + e)` with e = 0 by default,
//! exact at x = 0 and x = 1, where a term whose weight is 0 is 0. Clamped, as PyTorch has it, logarithms are at least
//! -100 and derivatives are divided by x (1 - x) of at least 1e-12, so that a sure and wrong prediction stays finite; next
//! to 0 and 1 they are not the derivatives of the value. The derivative with respect to the label has no bounds.
//!
//! Sources: Apache MXNet Gluon, `SigmoidBinaryCrossEntropyLoss`; PyTorch, `BCELoss`.

use super::{COMMON, Elementwise, Point, with_optional, with_optional_weight};
use crate::math::LogisticParts;
use crate::math::Real;
use crate::registry::{
    Bound, Domain, Gradient, Input, OUT_OF_RANGE, SAMPLE_WEIGHT, ShapeRule, Spec, flag, float,
    label, optional, pred,
};
use crate::simd::Isa;

/// The row of the registry.
pub const SPEC: Spec = Spec {
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
        flag("clamp", false),
        OUT_OF_RANGE,
    ],
    kinks: "with clamp, where pred or 1 - pred is 1e-12 or exp(-100)",
    build: |p| {
        let (epsilon, clamp) = (p.float("epsilon"), p.flag("clamp"));
        let from_sigmoid = p.flag("from_sigmoid");
        p.only_if(from_sigmoid || !clamp, "clamp", ("from_sigmoid", true))?;
        p.only_if(from_sigmoid || epsilon == 0.0, "epsilon", ("from_sigmoid", true))?;
        p.only_if(!clamp || epsilon == 0.0, "epsilon", ("clamp", false))?;
        Ok(if clamp {
            with_optional_weight("pos_weight", ClampedBce)
        } else if from_sigmoid {
            with_optional_weight("pos_weight", Bce { epsilon })
        } else {
            with_optional::<_, _, 2, 3>("pos_weight", SigmoidBce, SigmoidBce)
        })
    },
    ..COMMON
};

crate::front::typed! {
    /// Binary cross-entropy of a logit or, with `from_sigmoid`, of a probability. Optional input: `pos_weight`.
    SigmoidBinaryCrossEntropyLoss(pred, label) {
        from_sigmoid: bool,
        epsilon: f64,
        clamp: bool,
        out_of_range: &str,
    }
}

/// Binary cross-entropy from logits.
#[derive(Clone, Copy)]
pub struct SigmoidBce;

impl SigmoidBce {
    /// Value, slope and second derivative. `against` is the weight of the class that `pred` speaks against, with the
    /// sign of `pred`; `total` is the weight of both.
    #[inline(always)]
    pub(super) fn weighted<S: Isa, T: Real>(
        pred: T,
        logistic: LogisticParts<T>,
        against: T,
        total: T,
    ) -> [T; 3] {
        let small = logistic.sigmoid_neg_abs;
        // 0 times infinity is 0 here.
        let opposed = if against == T::ZERO { T::ZERO } else { pred };
        [
            opposed.mul_add::<S>(against, logistic.softplus_neg_abs.weighted(total)),
            against - small.copysign(pred).weighted(total),
            total * (small * (T::ONE - small)),
        ]
    }
}

impl Elementwise<3> for SigmoidBce {
    const COST: f64 = 0.6;

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label, pos_weight]: [T; 3]) -> Point<T, 3> {
        // A sigmoid that is subnormal has lost digits, which a large weight would show.
        let is_far = pred.abs() > T::NEAR;
        let [lift, unit] = if is_far { T::LIFT } else { [T::ZERO, T::ONE] };
        let lifted = (pred.abs() - lift).logistic::<S>();
        let (positive, negative) = (pos_weight * label, T::ONE - label);
        let below = T::ONE.copysign(pred) < T::ZERO; // -0 too, as `copysign` has it
        let against = if below { -positive } else { negative };
        let total = (positive + negative) * unit;
        let [value, slope, hess] = Self::weighted::<S, T>(pred, lifted, against, total);
        let small = lifted.softplus_neg_abs * unit;
        let (softplus, softplus_neg) = (small + T::ZERO.max(pred), small + T::ZERO.max(-pred));
        let to_label = softplus_neg.weighted(pos_weight) - softplus;
        Point { value, grad: [slope, to_label, softplus_neg.weighted(label)], hess }
    }
}

impl Elementwise<2> for SigmoidBce {
    const COST: f64 = 0.6;

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label]: [T; 2]) -> Point<T, 2> {
        // A sum, because the units that add have less to do than those that compare.
        let step = T::HALF + T::HALF.copysign(pred);
        let [value, slope, hess] =
            Self::weighted::<S, T>(pred, pred.logistic::<S>(), step - label, T::ONE);
        // The derivative with respect to the label is softplus(-x) - softplus(x).
        Point { value, grad: [slope, -pred], hess }
    }
}

/// Binary cross-entropy from probabilities.
#[derive(Clone, Copy)]
pub struct Bce {
    /// Added inside the logarithms; Gluon has 1e-12.
    pub epsilon: f64,
}

/// 0 / 0 is 0 here: the term is not there.
#[inline(always)]
fn over<T: Real>(weight: T, x: T) -> T {
    if weight == T::ZERO { T::ZERO } else { weight / x }
}

fn of_probability(declared: Input) -> Input {
    match declared.shape {
        ShapeRule::First => declared.of(Domain::PredictedProbability),
        _ => declared,
    }
}

impl Bce {
    /// The probabilities of both sides, shifted, and their logarithms.
    #[inline(always)]
    fn logs<S: Isa, T: Real>(self, pred: T) -> ([T; 2], [T; 2]) {
        let epsilon = T::from_f64(self.epsilon);
        // What epsilon lost, which counts where it cancels a tiny `pred`.
        let low = T::from_f64(self.epsilon - epsilon.to_f64());
        let (yes, rest) = (pred + epsilon, T::ONE - pred);
        let no = rest + epsilon;
        // What `no` lost to rounding, which is all there is of a tiny `pred`.
        let lost = ((T::ONE - rest - pred) + (epsilon - (no - rest))) + low;
        let lost_yes = T::lost(pred, epsilon, yes) + low;
        let lost_yes = if lost_yes.is_nan() { T::ZERO } else { lost_yes };
        let log_yes = yes.log::<S>() + over(lost_yes, yes);
        let log_no = no.log::<S>() + over(lost, no);
        ([yes, no], [log_yes, log_no])
    }
}

impl Elementwise<3> for Bce {
    const COST: f64 = 1.0;

    fn input(self, declared: Input) -> Input {
        of_probability(declared)
    }

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label, pos_weight]: [T; 3]) -> Point<T, 3> {
        let ([yes, no], [log_yes, log_no]) = self.logs::<S, T>(pred);
        let (positive, negative) = (pos_weight * label, T::ONE - label);
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

/// Binary cross-entropy from probabilities, finite for all of them, as are its derivatives with respect to them.
#[derive(Clone, Copy)]
pub struct ClampedBce;

impl ClampedBce {
    /// What logarithms are at least.
    const LOG: f64 = -100.0;
    /// What derivatives are divided by, at least: a number of f32, as in PyTorch.
    const PRODUCT: f64 = 1e-12_f32 as f64;
}

impl Elementwise<3> for ClampedBce {
    const COST: f64 = 1.0;

    fn input(self, declared: Input) -> Input {
        of_probability(declared)
    }

    #[expect(clippy::disallowed_macros, reason = "four numbers")]
    fn kinks(self, [pred, ..]: [f64; 3]) -> Vec<f64> {
        let (no, log) = (1.0 - pred, Self::LOG.exp());
        vec![pred - log, pred - Self::PRODUCT, no - log, no - Self::PRODUCT]
    }

    #[inline(always)]
    fn point<S: Isa, T: Real>(self, [pred, label, pos_weight]: [T; 3]) -> Point<T, 3> {
        let least = T::from_f64(Self::LOG);
        let (_, logs) = Bce { epsilon: 0.0 }.logs::<S, T>(pred);
        // A NaN stays: the bound is chosen where the logarithm is below it.
        let [cost_yes, cost_no] = logs.map(|log| -(if log < least { least } else { log }));
        let (yes, no) = (pred, T::ONE - pred);
        let (positive, negative) = (pos_weight * label, T::ONE - label);
        // 1 / p is (1 - p) / (p (1 - p)) with fewer roundings.
        let bound = T::from_f64(Self::PRODUCT);
        let is_clamped = yes * no < bound;
        let [one_by_yes, one_by_no] = if is_clamped { [no, yes] } else { [T::ONE; 2] };
        let [yes, no] = if is_clamped { [bound; 2] } else { [yes, no] };
        let (for_positive, for_negative) = (positive * one_by_yes / yes, negative * one_by_no / no);
        Point {
            value: cost_yes * positive + cost_no * negative,
            grad: [
                for_negative - for_positive,
                logs[1] - logs[0].weighted(pos_weight),
                cost_yes * label,
            ],
            hess: for_positive * one_by_yes / yes + for_negative * one_by_no / no,
        }
    }
}

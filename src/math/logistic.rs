//! The logistic function and what the losses of a logit need with it.

use super::exp::exp_nonpositive_pair;
use super::float::Float;
use super::log::log_sum;
use crate::simd::Isa;

/// What a loss of a logit `x` needs, from one exponential and one division; a field that is not read is not
/// computed.
///
/// Binary cross-entropy with label `z` is the sum of three terms of one sign,
/// `softplus_neg_abs + (1 - z) max(x, 0) + z max(-x, 0)`, and its gradient `(1 - z) sigmoid - z sigmoid_neg`.
/// Neither cancels, however sure the prediction is. Every field is within 2 ulp.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logistic<T> {
    /// `1 / (1 + exp(-x))`.
    pub sigmoid: T,
    /// `sigmoid(-x) = 1 - sigmoid(x)`, without the subtraction.
    pub sigmoid_neg: T,
    /// `softplus(-|x|) = log(1 + exp(-|x|))`.
    pub softplus_neg_abs: T,
}

/// All of [`Logistic`].
#[inline(always)]
pub(crate) fn logistic<T: Float, S: Isa>(x: T) -> Logistic<T> {
    let (t, t_low) = exp_nonpositive_pair::<T, S>(-x.abs());

    // 1 / (1 + t + t_low) = inverse + inverse_low, where 1 + t = sum + lost.
    let sum = t + T::ONE;
    let lost = t - (sum - T::ONE) + t_low;
    let inverse = T::ONE / sum;
    let residual = one_minus_product::<T, S>(inverse, sum);
    let inverse_low = inverse * (-inverse).mul_add::<S>(lost, residual);
    let large = inverse + inverse_low;
    let small = t.mul_add::<S>(inverse, t_low.mul_add::<S>(inverse, t * inverse_low));
    let negative = x < T::ZERO;

    // log1p(t): t is below sqrt(2) - 1, or (1 + t)/2 is above sqrt(1/2).
    let upper = t > T::SQRT_2 - T::ONE;
    let f = if upper { t.mul_add::<S>(T::HALF, -T::HALF) } else { t };
    let f_low = if upper { t_low * T::HALF } else { t_low };
    let minus_k = if upper { -T::ONE } else { T::ZERO };
    Logistic {
        sigmoid: if negative { small } else { large },
        sigmoid_neg: if negative { large } else { small },
        softplus_neg_abs: log_sum::<T, S>(f, f_low - f_low * f, minus_k),
    }
}

/// `1 - a b`, exact where `a b` is close to 1.
#[inline(always)]
fn one_minus_product<T: Float, S: Isa>(a: T, b: T) -> T {
    if S::FMA {
        (-a).mul_add::<S>(b, T::ONE)
    } else {
        let (a_high, b_high) = (a.high_half(), b.high_half());
        let (a_low, b_low) = (a - a_high, b - b_high);
        T::ONE - a_high * b_high - a_high * b_low - a_low * b_high - a_low * b_low
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use std::f64::consts::LN_2;

    #[test]
    fn the_parts_at_worked_points() {
        let log_3 = 3.0_f64.ln();
        let x = [0.0, log_3, -log_3, -800.0, 800.0, f64::NEG_INFINITY, f64::INFINITY];
        on_every_level!(x, |x, S| x.sigmoid::<S>(), |y: &[f64]| {
            assert_close(2.0, y, &[0.5, 0.75, 0.25, 0.0, 1.0, 0.0, 1.0]);
        });
        on_every_level!(x, |x, S| x.logistic::<S>().sigmoid_neg, |y: &[f64]| {
            assert_close(2.0, y, &[0.5, 0.25, 0.75, 1.0, 0.0, 1.0, 0.0]);
        });
        let log_4_3 = 2.0 * LN_2 - log_3;
        on_every_level!(x, |x, S| x.softplus::<S>(), |y: &[f64]| {
            assert_close(2.0, &y[..6], &[LN_2, 2.0 * LN_2, log_4_3, 0.0, 800.0, 0.0]);
            assert_same(&y[6..], &[f64::INFINITY]);
        });
        on_every_level!(x, |x, S| x.logistic::<S>().softplus_neg_abs, |y: &[f64]| {
            assert_close(2.0, y, &[LN_2, log_4_3, log_4_3, 0.0, 0.0, 0.0, 0.0]);
        });
    }

    #[test]
    fn a_sure_prediction_keeps_its_small_probability() {
        let x = [40.0];
        on_every_level!(x, |x, S| x.logistic::<S>().sigmoid_neg, |y: &[f64]| {
            assert_close(2.0, y, &[(-40.0_f64).exp()]);
        });
    }

    #[test]
    fn nan_stays_nan_in_every_part() {
        let x = [f32::NAN];
        let check = |y: &[f32]| assert_same(y, &x);
        on_every_level!(x, |x, S| x.sigmoid::<S>(), check);
        on_every_level!(x, |x, S| x.softplus::<S>(), check);
        on_every_level!(x, |x, S| x.logistic::<S>().sigmoid_neg, check);
        on_every_level!(x, |x, S| x.logistic::<S>().softplus_neg_abs, check);
    }
}

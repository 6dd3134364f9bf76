//! The logistic function and what the losses of a logit need with it.

use super::exp::exp_nonpositive_pair;
use super::format::Format;
use crate::simd::Isa;

/// What a loss of a logit `x` needs, from one exponential and one division; a field that is not read is not
/// computed. Every field is within 2 ulp.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogisticParts<T> {
    /// `1 / (1 + exp(-x))`.
    pub sigmoid: T,
    /// `sigmoid(-x) = 1 - sigmoid(x)`, small values too.
    pub sigmoid_neg: T,
    /// `sigmoid(-|x|)`, the smaller of the two.
    pub sigmoid_neg_abs: T,
    /// `softplus(-|x|) = log(1 + exp(-|x|))`.
    pub softplus_neg_abs: T,
}

/// All of [`LogisticParts`].
///
/// With `t = exp(-|x|)`, `l = log(1 + t)` and `q = t / (1 + t) = sigmoid(-|x|)`, `t + q` is `2 sinh(l)`, and
/// `v = t q = t - q` is `2 cosh(l) - 2`. So `l` is half of `t + q = 2t - v` times `l / sinh(l)`, an even function
/// of `l` and hence a function of `v`, whose polynomial needs half the degree of one in `t`.
#[inline(always)]
pub(crate) fn logistic<T: Format, S: Isa>(x: T) -> LogisticParts<T> {
    let (t, t_low) = exp_nonpositive_pair::<T, S>(-x.abs());
    let q = t / (T::ONE + t);
    let v = t * q;
    let small = t - v; // q again, with the rounding errors of q scaled down
    let large = T::ONE - small;
    let (sum, tail) = (t + small, v.sinh_tail::<S>());
    let softplus = if S::FMA {
        v.mul_add::<S>(sum.mul_add::<S>(tail, -T::HALF), t)
    } else {
        // The products round too: a smaller one, and what t lost.
        small + (v * (sum * tail + T::HALF) + (t_low - t_low * q))
    };
    let negative = x < T::ZERO;
    LogisticParts {
        sigmoid: if negative { small } else { large },
        sigmoid_neg: if negative { large } else { small },
        sigmoid_neg_abs: small,
        softplus_neg_abs: softplus,
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

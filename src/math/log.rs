//! `log`, of a sum too, and `log1p`.

use super::format::Format;
use crate::simd::Isa;

/// `log(1 + f) + k log(2)`, for `1 + f` between `sqrt(1/2)` and `sqrt(2)` and an integer `k` given negated.
#[inline(always)]
fn log_sum<T: Format, S: Isa>(f: T, minus_k: T) -> T {
    // Two-sum: k log(2) is 0 or exceeds f. Where all is 0 each term has the sign of f, hence `minus_k`.
    let sum = minus_k.mul_add::<S>(-T::LN2_HI, f);
    let lost = f - minus_k.mul_add::<S>(T::LN2_HI, sum);
    sum + (lost + minus_k.mul_add::<S>(-T::LN2_LO, f.log_tail::<S>()))
}

/// [`Format::binade`] of subnormal numbers, too: of `x`, or of what it is multiplied by to be normal, with the exponent of
/// `x`.
#[inline(always)]
fn normal_binade<T: Format>(x: T) -> (T, T, T) {
    let subnormal = x < T::MIN_POSITIVE;
    let (scale, shift) = T::NORMALIZE;
    let (m, minus_k, inverse) = (if subnormal { x * scale } else { x }).binade();
    (m, minus_k + if subnormal { shift } else { T::ZERO }, inverse)
}

/// `log(x)`, within 2 ulp; -inf at either zero, NaN below.
#[inline(always)]
pub(crate) fn log<T: Format, S: Isa>(x: T) -> T {
    let (m, minus_k, _) = normal_binade(x);
    limits(x, x, log_sum::<T, S>(m - T::ONE, minus_k))
}

/// `log(x + low)`, within 2 ulp, where `low` is what a sum lost that was rounded to `x`.
#[inline(always)]
pub(crate) fn log_of_sum<T: Format, S: Isa>(x: T, low: T) -> T {
    let (m, minus_k, inverse) = normal_binade(x);
    // A subnormal sum is exact. The power of two of a large one may be out of range, and what that lost is too little to be
    // seen.
    let f = low.mul_add::<S>(inverse, m - T::ONE);
    let f = if x < T::ONE_IS_LOST { f } else { m - T::ONE };
    limits(x, x, log_sum::<T, S>(f, minus_k))
}

/// The same, with the same bits, for a normal `x` up to 2, and faster; finite at 0.
#[inline(always)]
pub(crate) fn log_of_small_sum<T: Format, S: Isa>(x: T, low: T) -> T {
    let (m, minus_k, inverse) = x.binade();
    log_sum::<T, S>(low.mul_add::<S>(inverse, m - T::ONE), minus_k)
}

/// `log(1 + x)`, within 2 ulp; -inf at -1, NaN below; the sign of a zero is kept.
#[inline(always)]
pub(crate) fn log1p<T: Format, S: Isa>(x: T) -> T {
    let u = x + T::ONE;
    let (m, minus_k, inverse) = u.binade();
    // (1 + x) 2^-k - 1 from x, not from the rounded sum: one rounding, and none at k = 0, where the
    // doubly negated -0 keeps the sign of x = -0. Where the 1 is lost the power of two may be out of range.
    let f = x.mul_add::<S>(inverse, -(T::ONE - inverse));
    let f = if x > T::ONE_IS_LOST { m - T::ONE } else { f };
    limits(x, u, log_sum::<T, S>(f, minus_k))
}

/// `y = log(u)`, or its limit where `u` is not a positive number. `x` is NaN or infinite with `u`.
#[inline(always)]
fn limits<T: Format>(x: T, u: T, y: T) -> T {
    let y = if u > T::ZERO { y } else { T::NAN };
    let y = if u == T::ZERO { -T::INFINITY } else { y };
    if x < T::INFINITY { y } else { x }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::simd::Baseline;
    use std::f64::consts::{LN_2, LN_10};

    #[test]
    fn log_at_worked_points() {
        let least = f64::from_bits(1);
        on_every_level!([2.0, 10.0, 0.5, least], |x, S| x.log::<S>(), |y: &[f64]| {
            assert_close(2.0, y, &[LN_2, LN_10, -LN_2, -1074.0 * LN_2]);
        });
    }

    #[test]
    fn log_outside_its_domain() {
        let x = [-0.0, 0.0, 1.0, f32::INFINITY, -1e-45, f32::NEG_INFINITY, f32::NAN];
        let (low, nan) = (f32::NEG_INFINITY, f32::NAN);
        let y = [low, low, 0.0, f32::INFINITY, nan, nan, nan];
        on_every_level!(x, |x, S| x.log::<S>(), |got: &[f32]| assert_same(got, &y));
    }

    #[test]
    fn log_of_a_sum_has_what_rounding_lost() {
        const LOST: f64 = -1e-16;
        let x = [1.0, 0.3, 0.7, 1.4, 1.5, 0.999, 1e-3, 1e-300, 1e300, f64::MAX];
        on_every_level!(x, |x, S| x.log_of_sum::<S>(x * T::from_f64(LOST)), |y: &[f64]| {
            assert_close(2.0, y, &x.map(|x| x.ln() + LOST));
        });
        let x = [1.0, 0.3, 0.7, 1.4, 1.5, 0.999, 1e-3, 1e-30, 1e30, f32::MAX];
        on_every_level!(x, |x, S| x.log_of_sum::<S>(x * T::from_f64(3e-8)), |y: &[f32]| {
            for (y, x) in y.iter().zip(x) {
                let exact = f64::from(x).ln() + 3e-8;
                let ulp = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
                assert!((f64::from(*y) - exact).abs() <= 2.0 * ulp.abs(), "{x}: {y} for {exact}");
            }
        });
        assert!(0.0_f32.log_of_small_sum::<Baseline>(0.0).is_finite());
        on_every_level!(
            [1.0, 0.3, 1.9, 1e-300],
            |x, S| {
                let low = x * T::from_f64(LOST);
                x.log_of_small_sum::<S>(low) - x.log_of_sum::<S>(low)
            },
            |difference: &[f64]| assert_same(difference, &[0.0; 4])
        );
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let (x, y) = ([0.0, -0.0, inf, -1.0, nan], [-inf, -inf, inf, nan, nan]);
        on_every_level!(x, |x, S| x.log_of_sum::<S>(x - x), |got: &[f32]| assert_same(got, &y));
    }

    #[test]
    fn log1p_keeps_small_arguments_and_the_sign_of_zero() {
        let least = f64::from_bits(1);
        let x = [-0.0, 0.0, least, -least, 1e-20, -1.0, -1.5, f64::INFINITY, f64::NAN];
        let (low, nan) = (f64::NEG_INFINITY, f64::NAN);
        let y = [-0.0, 0.0, least, -least, 1e-20, low, nan, f64::INFINITY, nan];
        on_every_level!(x, |x, S| x.log1p::<S>(), |got: &[f64]| assert_same(got, &y));
        on_every_level!([1.0, 9.0, -0.5, f64::MAX], |x, S| x.log1p::<S>(), |y: &[f64]| {
            assert_close(2.0, y, &[LN_2, LN_10, -LN_2, 1024.0 * LN_2]);
        });
    }
}

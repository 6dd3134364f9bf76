//! `exp` and `expm1`.

use super::format::Format;
use crate::simd::Isa;

/// `x = n log(2) + r`.
pub(super) struct ReducedArgument<T> {
    /// `MAGIC + n`.
    pub n: T,
    /// The remainder, at most about `log(2)/2` in size.
    pub r: T,
    /// What `r` lost to rounding.
    pub r_low: T,
}

/// Splits `x`, which is NaN or inside `EXP_MIN..=EXP_MAX`; of others the result is of no use.
#[inline(always)]
pub(super) fn reduce<T: Format, S: Isa>(x: T) -> ReducedArgument<T> {
    let shifted = x.mul_add::<S>(T::LOG2_E, T::MAGIC);
    let n = shifted - T::MAGIC;
    let high = n.mul_add::<S>(-T::LN2_HI, x); // exact
    let r = n.mul_add::<S>(-T::LN2_LO, high);
    ReducedArgument { n: shifted, r, r_low: n.mul_add::<S>(-T::LN2_LO, high - r) }
}

/// `exp(x)`, within 2 ulp.
#[inline(always)]
pub(crate) fn exp<T: Format, S: Isa>(x: T) -> T {
    let x = T::EXP_MAX.min(T::EXP_MIN.max(x)); // both keep a NaN in `x`
    let ReducedArgument { n, r, .. } = reduce::<T, S>(x);
    let y = (r * r).mul_add::<S>(r.exp_tail::<S>(), r) + T::ONE;
    // 2^n may be out of range where the result is not: two steps, the first one exact.
    let negative = x < T::ZERO;
    let first = if negative { n.pow2(T::HALF_RANGE) } else { n.pow2(-T::HALF_RANGE) };
    let second =
        if negative { T::MAGIC.pow2(-T::HALF_RANGE) } else { T::MAGIC.pow2(T::HALF_RANGE) };
    y * first * second
}

/// `exp(x)` for `x <= 0` or NaN, within 2 ulp: nothing can overflow, which
/// saves a tenth of the time with AVX-512 and a quarter with AVX2.
#[inline(always)]
pub(crate) fn exp_nonpositive<T: Format, S: Isa>(x: T) -> T {
    exp_nonpositive_pair::<T, S>(x).0
}

/// `exp(x)` for `x <= 0` or NaN, and what it lost to its last rounding.
#[inline(always)]
pub(super) fn exp_nonpositive_pair<T: Format, S: Isa>(x: T) -> (T, T) {
    let ReducedArgument { n, r, .. } = reduce::<T, S>(T::EXP_MIN.max(x));
    let w = (r * r).mul_add::<S>(r.exp_tail::<S>(), r);
    // 2^n, subnormal where the result is.
    let scale = n.pow2(T::HALF_RANGE) * T::MAGIC.pow2(-T::HALF_RANGE);
    let y = scale.mul_add::<S>(w, scale);
    (y, scale.mul_add::<S>(w, scale - y))
}

/// `exp(x - max)` for `x <= max`, within 2 ulp of the exact difference.
#[inline(always)]
pub(crate) fn exp_difference<T: Format, S: Isa>(x: T, max: T) -> T {
    let Difference { rounded, n, w } = difference::<T, S>(x, max);
    let scale = n.pow2(T::HALF_RANGE) * T::MAGIC.pow2(-T::HALF_RANGE);
    let exp = scale.mul_add::<S>(w, scale);
    if rounded <= T::EXP_MIN { T::ZERO } else { exp }
}

/// The same, with the same bits, for `max - NEAR <= x <= max`: no result is subnormal.
#[inline(always)]
pub(crate) fn exp_near<T: Format, S: Isa>(x: T, max: T) -> T {
    let Difference { n, w, .. } = difference::<T, S>(x, max);
    (w + T::ONE).times_pow2(n)
}

/// `exp(x - max) = 2^n (1 + w)`.
struct Difference<T> {
    /// `x - max`.
    rounded: T,
    /// `MAGIC + n`.
    n: T,
    w: T,
}

/// What `x - max` rounds off, half an ulp of a number that may be large, is put back into the reduced argument.
#[inline(always)]
fn difference<T: Format, S: Isa>(x: T, max: T) -> Difference<T> {
    let rounded = x - max;
    let minuend = rounded + max;
    let lost = (x - minuend) - (max + (rounded - minuend));
    let ReducedArgument { n, r, .. } = reduce::<T, S>(rounded);
    let r = r + lost;
    Difference { rounded, n, w: (r * r).mul_add::<S>(r.exp_tail::<S>(), r) }
}

/// `exp(x) - 1`, within 2 ulp; the sign of a zero is kept.
#[inline(always)]
pub(crate) fn expm1<T: Format, S: Isa>(x: T) -> T {
    let clamped = T::EXP_MAX.min(T::EXPM1_MIN.max(x));
    let ReducedArgument { n, r, r_low } = reduce::<T, S>(clamped);
    // Half the result, because 2^n itself can be out of range.
    let scale = n.pow2(-1);
    let low = (r * r).mul_add::<S>(r.exp_tail::<S>(), r_low);
    let y = scale.mul_add::<S>(low, scale.mul_add::<S>(r, scale - T::HALF));
    if x.abs() < T::EXPM1_TINY { x } else { y + y }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use std::f64::consts::{E, LN_2};

    #[test]
    fn exp_at_worked_points() {
        on_every_level!([0.0, 1.0, -1.0, 10.0 * LN_2], |x, S| x.exp::<S>(), |y: &[f64]| {
            assert_close(2.0, y, &[1.0, E, 1.0 / E, 1024.0]);
        });
    }

    #[test]
    fn exp_at_the_ends_of_the_range() {
        let (low, high, nan) = (f32::NEG_INFINITY, f32::INFINITY, f32::NAN);
        let x = [low, -104.0, -103.0, -87.5, 88.7, 89.0, high, nan];
        // From 30-digit arithmetic.
        let (least, subnormal, large) = (f32::from_bits(1), 9.982_351e-39, 3.325_976_9e38);
        let ends = [0.0, 0.0, least, subnormal, large, high, high, nan];
        on_every_level!(x, |x, S| x.exp::<S>(), |y: &[f32]| assert_same(y, &ends));
    }

    #[test]
    fn exp_nonpositive_is_exp_where_it_may_be_called() {
        let x = [-0.0, -1e-30, -0.3, -0.35, -20.0, -700.0, -708.5, -744.0, -750.0, f64::NAN];
        on_every_level!(x, |x, S| x.exp::<S>(), |general: &[f64]| {
            on_every_level!(x, |x, S| x.exp_nonpositive::<S>(), |y: &[f64]| {
                assert_close(2.0, &y[..9], &general[..9]);
                assert!(y[9].is_nan());
            });
        });
    }

    #[test]
    fn exp_near_has_the_bits_of_exp_difference() {
        const MAX: f32 = 3.7;
        let x = [0.0, 0.1, 0.34, 0.35, 1.0, 20.3, 86.99, f32::NEAR].map(|gap| MAX - gap);
        on_every_level!(x, |x, S| x.exp_difference::<S>(T::from_f32(MAX)), |general: &[f32]| {
            on_every_level!(x, |x, S| x.exp_near::<S>(T::from_f32(MAX)), |y: &[f32]| {
                assert_same(y, general);
                assert!(y.iter().all(|y| y.is_normal()));
            });
        });
    }

    #[test]
    fn expm1_keeps_small_arguments_and_the_sign_of_zero() {
        let least = f64::from_bits(1);
        let x = [-0.0, 0.0, least, -least, 1e-20, -40.0, f64::NEG_INFINITY, 710.0, f64::NAN];
        let y = [-0.0, 0.0, least, -least, 1e-20, -1.0, -1.0, f64::INFINITY, f64::NAN];
        on_every_level!(x, |x, S| x.expm1::<S>(), |got: &[f64]| assert_same(got, &y));
        on_every_level!([LN_2, 1.0, -LN_2], |x, S| x.expm1::<S>(), |y: &[f64]| {
            assert_close(2.0, y, &[1.0, E - 1.0, -0.5]);
        });
    }
}

//! `exp` and `expm1`.

use super::float::Float;
use crate::simd::Isa;

/// `x = n log(2) + r`.
pub(super) struct Reduced<T> {
    /// `MAGIC + n`.
    pub n: T,
    /// The remainder, at most about `log(2)/2` in size.
    pub r: T,
    /// What `r` lost to rounding.
    pub r_low: T,
}

/// Splits `x`, which is NaN or inside `EXP_MIN..=EXP_MAX`.
#[inline(always)]
pub(super) fn reduce<T: Float, S: Isa>(x: T) -> Reduced<T> {
    let shifted = x.mul_add::<S>(T::LOG2_E, T::MAGIC);
    let n = shifted - T::MAGIC;
    let high = n.mul_add::<S>(-T::LN2_HI, x); // exact
    let r = n.mul_add::<S>(-T::LN2_LO, high);
    Reduced {
        n: shifted,
        r,
        r_low: n.mul_add::<S>(-T::LN2_LO, high - r),
    }
}

/// `exp(x)`, within 2 ulp.
#[inline(always)]
pub(crate) fn exp<T: Float, S: Isa>(x: T) -> T {
    let x = T::EXP_MAX.min(T::EXP_MIN.max(x)); // both keep a NaN in `x`
    let Reduced { n, r, .. } = reduce::<T, S>(x);
    let y = (r * r).mul_add::<S>(r.exp_tail::<S>(), r) + T::ONE;
    // 2^n may be out of range where the result is not: two steps, the first one exact.
    let negative = x < T::ZERO;
    let first = if negative {
        n.pow2(T::HALF_RANGE)
    } else {
        n.pow2(-T::HALF_RANGE)
    };
    let second = if negative {
        T::MAGIC.pow2(-T::HALF_RANGE)
    } else {
        T::MAGIC.pow2(T::HALF_RANGE)
    };
    y * first * second
}

/// `exp(x)` for `x <= 0` or NaN, within 2 ulp: nothing can overflow, which saves a few instructions.
#[inline(always)]
pub(crate) fn exp_nonpositive<T: Float, S: Isa>(x: T) -> T {
    let Reduced { n, r, .. } = reduce::<T, S>(T::EXP_MIN.max(x));
    let y = (r * r).mul_add::<S>(r.exp_tail::<S>(), r) + T::ONE;
    y * n.pow2(T::HALF_RANGE) * T::MAGIC.pow2(-T::HALF_RANGE)
}

/// `exp(x)` for `x <= 0` or NaN as a sum of two, the second far smaller, within 0.6 ulp.
#[inline(always)]
pub(super) fn exp_nonpositive_pair<T: Float, S: Isa>(x: T) -> (T, T) {
    let Reduced { n, r, .. } = reduce::<T, S>(T::EXP_MIN.max(x));
    let w = (r * r).mul_add::<S>(r.exp_tail::<S>(), r);
    let y = w + T::ONE;
    let scale = n.pow2(T::HALF_RANGE) * T::MAGIC.pow2(-T::HALF_RANGE);
    (y * scale, (w - (y - T::ONE)) * scale)
}

/// `exp(x) - 1`, within 2 ulp; the sign of a zero is kept.
#[inline(always)]
pub(crate) fn expm1<T: Float, S: Isa>(x: T) -> T {
    let clamped = T::EXP_MAX.min(T::EXPM1_MIN.max(x));
    let Reduced { n, r, r_low } = reduce::<T, S>(clamped);
    // Half the result, because 2^n itself can be out of range.
    let scale = n.pow2(-1);
    let low = (r * r).mul_add::<S>(r.exp_tail::<S>(), r_low);
    let y = scale.mul_add::<S>(low, scale.mul_add::<S>(r, scale - T::HALF));
    if x.abs() < T::EXPM1_TINY { x } else { y + y }
}

//! `log` and `log1p`.

use super::float::Float;
use crate::simd::Isa;

/// `log(1 + f) + low + k log(2)`, for `1 + f` between `sqrt(1/2)` and `sqrt(2)`, a `low` that is tiny beside `f`, and
/// an integer `k` given negated.
#[inline(always)]
pub(super) fn log_sum<T: Float, S: Isa>(f: T, low: T, minus_k: T) -> T {
    // Two-sum: k log(2) is 0 or exceeds f.
    let sum = minus_k.mul_add::<S>(-T::LN2_HI, f);
    let lost = f - minus_k.mul_add::<S>(T::LN2_HI, sum);
    let low = minus_k.mul_add::<S>(-T::LN2_LO, low);
    sum + (lost + (f.log_tail::<S>() + low))
}

/// `log(x)`, within 2 ulp; -inf at either zero, NaN below.
#[inline(always)]
pub(crate) fn log<T: Float, S: Isa>(x: T) -> T {
    let subnormal = x < T::MIN_POSITIVE;
    let (scale, shift) = T::NORMALIZE;
    let (m, minus_k, _) = (if subnormal { x * scale } else { x }).binade();
    let minus_k = minus_k + if subnormal { shift } else { T::ZERO };
    limits(x, x, log_sum::<T, S>(m - T::ONE, -T::ZERO, minus_k))
}

/// `log(1 + x)`, within 2 ulp; -inf at -1, NaN below; the sign of a zero is kept.
#[inline(always)]
pub(crate) fn log1p<T: Float, S: Isa>(x: T) -> T {
    let u = x + T::ONE;
    let (m, minus_k, inverse) = u.binade();
    // (1 + x) 2^-k - 1 from x, not from the rounded sum: one rounding, and none at k = 0. Where the 1 is lost
    // anyway the power of two may be out of range.
    let f = x.mul_add::<S>(inverse, inverse - T::ONE);
    let f = if x > T::ONE_IS_LOST { m - T::ONE } else { f };
    // A `low` of -0, the identity of addition, keeps the sign of x = -0.
    limits(x, u, log_sum::<T, S>(f, -T::ZERO, minus_k))
}

/// `y = log(u)`, or its limit where `u` is not a positive number. `x` is NaN or infinite with `u`.
#[inline(always)]
fn limits<T: Float>(x: T, u: T, y: T) -> T {
    let y = if u > T::ZERO { y } else { T::NAN };
    let y = if u == T::ZERO { -T::INFINITY } else { y };
    if x < T::INFINITY { y } else { x }
}

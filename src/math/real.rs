//! The functions of `f32` and `f64` as methods, with their bounds.

use crate::math::{self, LogisticParts};
use crate::num::Float;
use crate::simd::Isa;

/// `f32` or `f64` with its functions. All but `sqrt` take the instruction set that the code around them is compiled for.
#[allow(clippy::return_self_not_must_use)]
pub trait Real: Float {
    /// How far below the maximum [`Real::exp_near`] reaches: the exponential is a normal number.
    const NEAR: Self;
    /// How far below the maximum an exponential is small but of account: what lies further down is 0 with any factor, but
    /// for a few that are larger than 1e200.
    const FAR: Self;
    /// C and exp(-C): where exp(-x) is no normal number, C - x is exact and its exponential is one, for x up to C + NEAR.
    const LIFT: [Self; 2];

    /// `exp(self)`, within 2 ulp.
    fn exp<S: Isa>(self) -> Self;
    /// `exp(self)` for `self <= 0` or NaN, within 2 ulp, and faster.
    fn exp_nonpositive<S: Isa>(self) -> Self;
    /// `exp(self - max)` for `self <= max`, within 2 ulp of the exact difference.
    fn exp_difference<S: Isa>(self, max: Self) -> Self;
    /// The same, with the same bits, for `max - NEAR <= self <= max`, and faster.
    fn exp_near<S: Isa>(self, max: Self) -> Self;
    /// `exp(self) - 1`, within 2 ulp.
    fn expm1<S: Isa>(self) -> Self;
    /// Natural logarithm, within 2 ulp.
    fn log<S: Isa>(self) -> Self;
    /// `log(self + low)`, within 2 ulp, where `low` is what a sum lost that was rounded to `self`.
    fn log_of_sum<S: Isa>(self, low: Self) -> Self;
    /// The same, with the same bits, for a normal `self` up to 2, and faster; finite at 0.
    fn log_of_small_sum<S: Isa>(self, low: Self) -> Self;
    /// `log(1 + self)`, within 2 ulp.
    fn log1p<S: Isa>(self) -> Self;
    /// `sigmoid(self)`, `sigmoid(-self)` and `softplus(-|self|)` together.
    fn logistic<S: Isa>(self) -> LogisticParts<Self>;

    /// `1 / (1 + exp(-self))`, within 2 ulp.
    #[inline(always)]
    fn sigmoid<S: Isa>(self) -> Self {
        self.logistic::<S>().sigmoid
    }
    /// `log(1 + exp(self))`, within 2 ulp.
    #[inline(always)]
    fn softplus<S: Isa>(self) -> Self {
        self.logistic::<S>().softplus_neg_abs + Self::ZERO.max(self)
    }
    /// `log(sigmoid(self))`, within 2 ulp.
    #[inline(always)]
    fn log_sigmoid<S: Isa>(self) -> Self {
        -(-self).softplus::<S>()
    }
}

macro_rules! real {
    ($t:ident, $near:literal, $far:literal, $lift:expr) => {
        impl Real for $t {
            const NEAR: Self = $near;
            const FAR: Self = $far;
            const LIFT: [Self; 2] = $lift;

            #[inline(always)]
            fn exp<S: Isa>(self) -> Self {
                math::exp::<Self, S>(self)
            }
            #[inline(always)]
            fn exp_nonpositive<S: Isa>(self) -> Self {
                math::exp_nonpositive::<Self, S>(self)
            }
            #[inline(always)]
            fn exp_difference<S: Isa>(self, max: Self) -> Self {
                math::exp_difference::<$t, S>(self, max)
            }
            #[inline(always)]
            fn exp_near<S: Isa>(self, max: Self) -> Self {
                math::exp_near::<$t, S>(self, max)
            }
            #[inline(always)]
            fn expm1<S: Isa>(self) -> Self {
                math::expm1::<Self, S>(self)
            }
            #[inline(always)]
            fn log<S: Isa>(self) -> Self {
                math::log::<Self, S>(self)
            }
            #[inline(always)]
            fn log_of_sum<S: Isa>(self, low: Self) -> Self {
                math::log_of_sum::<Self, S>(self, low)
            }
            #[inline(always)]
            fn log_of_small_sum<S: Isa>(self, low: Self) -> Self {
                math::log_of_small_sum::<Self, S>(self, low)
            }
            #[inline(always)]
            fn log1p<S: Isa>(self) -> Self {
                math::log1p::<Self, S>(self)
            }
            #[inline(always)]
            fn logistic<S: Isa>(self) -> LogisticParts<Self> {
                math::logistic::<Self, S>(self)
            }
        }
    };
}

real!(f32, 87.0, 192.0, [64.0, 1.603_810_9e-28]);
real!(f64, 708.0, 1200.0, [512.0, 4.377_491_037_053_051e-223]);

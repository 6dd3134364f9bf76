//! The two types that losses are computed in, `f32` and `f64`, behind one trait.
//!
//! Every operation is branch-free where it matters, so that loops over slices vectorise. Selects are written
//! `if cond { a } else { b }` on values, never on effects.

use crate::num::Element;
use crate::simd::{self, Isa, SUM_LANES};
use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

/// The extreme sizes of some numbers.
#[derive(Clone, Copy, Debug)]
pub struct Sizes<T> {
    /// The smallest but 0; 0 if there is no other.
    pub least: T,
    /// The largest; a NaN counts as beyond infinity.
    pub most: T,
    /// Whether a number has a sign, be it -0.
    pub any_sign: bool,
}

/// `f32` or `f64`.
#[allow(clippy::return_self_not_must_use)]
pub trait Float:
    Element
    + Copy
    + Send
    + Sync
    + Debug
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + 'static
{
    /// The type of [`Float::key`].
    type Key: Ord + Copy;

    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// 1/2.
    const HALF: Self;
    /// 2.
    const TWO: Self;
    /// Positive infinity.
    const INFINITY: Self;
    /// The smallest normal number.
    const MIN_POSITIVE: Self;
    /// The largest finite number.
    const MAX: Self;
    /// A quiet NaN.
    const NAN: Self;

    /// Rounded to nearest.
    fn from_f64(x: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// Exact.
    fn from_f32(x: f32) -> Self;
    /// Rounded to nearest.
    fn to_f32(self) -> f32;
    /// Rounded to nearest.
    fn from_i64(x: i64) -> Self;
    /// Rounded to nearest.
    fn from_u64(x: u64) -> Self;
    /// An integer that orders as the number does, with -0 below 0 and every NaN beyond the infinity of its sign.
    fn key(self) -> Self::Key;
    /// The number of a key.
    fn from_key(key: Self::Key) -> Self;
    /// `|self|`.
    fn abs(self) -> Self;
    /// Square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// `self * a + b`, fused where the level has the instruction.
    fn mul_add<S: Isa>(self, a: Self, b: Self) -> Self;
    /// `|self|` with the sign of `sign`.
    fn copysign(self, sign: Self) -> Self;

    /// Sum of all chunks in f64: lane by lane, then the upper half of the lanes added to the lower until one is left.
    fn sum_chunks<S: Isa>(chunks: &[[Self; SUM_LANES]]) -> f64;
    /// The same, and what the sum has lost to rounding where that can be seen: 0 for `f32`, whose sums have room.
    fn sum_chunks_and_lost<S: Isa>(chunks: &[[Self; SUM_LANES]]) -> (f64, f64);

    /// Whether all are from 0 to `high`, as their bits show in one step each; -0 counts as below.
    fn all_up_to(x: &[Self], high: Self) -> bool;
    /// Whether all are 1 or -1.
    fn all_signs(x: &[Self]) -> bool;
    /// The extreme sizes of numbers, in one pass.
    fn sizes(x: &[Self]) -> Sizes<Self>;

    /// Element (i, j) to (j, i).
    fn transpose(block: [[Self; 4]; 4]) -> [[Self; 4]; 4];

    /// What `sum`, the rounded sum of two numbers, lost of them, exactly.
    #[inline(always)]
    fn lost(a: Self, b: Self, sum: Self) -> Self {
        let added = sum - a;
        (a - (sum - added)) + (b - added)
    }
    /// Whether a factor keeps its precision in this type: it is 0 or a normal number.
    #[inline(always)]
    fn fits(factor: f64) -> bool {
        let size = Self::from_f64(factor).abs();
        factor == 0.0 || (size >= Self::MIN_POSITIVE && size < Self::INFINITY)
    }
    /// Whether `self` is NaN.
    #[inline(always)]
    #[allow(clippy::eq_op)]
    fn is_nan(self) -> bool {
        self != self
    }
    /// The larger; `other` if `self` is NaN, and either if `other` is.
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
    /// `self * weight`; 0 where the weight is 0, whatever `self` is.
    #[inline(always)]
    fn weighted(self, weight: Self) -> Self {
        let product = self * weight;
        if weight == Self::ZERO { Self::ZERO } else { product }
    }
    /// `self` where `gap` is positive, 0 where it is not, and NaN where it is NaN.
    #[inline(always)]
    fn where_positive(self, gap: Self) -> Self {
        let inside = if gap.is_nan() { gap } else { self };
        if gap <= Self::ZERO { Self::ZERO } else { inside }
    }
    /// 1, -1 or 0 with the sign of `self`; NaN stays.
    #[inline(always)]
    fn sign(self) -> Self {
        let sign = Self::ONE.copysign(self);
        if self == Self::ZERO || self.is_nan() { self } else { sign }
    }
    /// The smaller, with the same rule.
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        if self < other { self } else { other }
    }
}

macro_rules! float {
    ($t:ident, $key:ident, $sum:ident, $sum_and_lost:ident, $transpose:ident) => {
        impl Float for $t {
            type Key = $key;

            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const HALF: Self = 0.5;
            const TWO: Self = 2.0;
            const INFINITY: Self = $t::INFINITY;
            const MIN_POSITIVE: Self = $t::MIN_POSITIVE;
            const MAX: Self = $t::MAX;
            const NAN: Self = $t::NAN;

            #[inline(always)]
            fn sum_chunks_and_lost<S: Isa>(chunks: &[[Self; SUM_LANES]]) -> (f64, f64) {
                S::$sum_and_lost(chunks)
            }
            #[inline(always)]
            fn sum_chunks<S: Isa>(chunks: &[[Self; SUM_LANES]]) -> f64 {
                S::$sum(chunks)
            }
            #[inline(always)]
            fn all_up_to(x: &[Self], high: Self) -> bool {
                let mut most = 0;
                for x in x {
                    most = x.to_bits().max(most);
                }
                most <= high.to_bits()
            }
            #[inline(always)]
            fn all_signs(x: &[Self]) -> bool {
                let mut others = 0;
                for x in x {
                    others |= $t::abs(*x).to_bits() ^ Self::ONE.to_bits();
                }
                others == 0
            }
            #[inline(always)]
            fn sizes(x: &[Self]) -> Sizes<Self> {
                let (mut before_least, mut most, mut signs) = (!Self::ZERO.to_bits(), 0, 0);
                for x in x {
                    let size = $t::abs(*x).to_bits();
                    signs |= x.to_bits();
                    most = size.max(most);
                    before_least = size.wrapping_sub(1).min(before_least);
                }
                let [least, most] = [before_least.wrapping_add(1), most].map($t::from_bits);
                Sizes { least, most, any_sign: $t::from_bits(signs).is_sign_negative() }
            }
            #[inline(always)]
            fn transpose(block: [[Self; 4]; 4]) -> [[Self; 4]; 4] {
                simd::$transpose(block)
            }
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn from_f32(x: f32) -> Self {
                x as $t
            }
            #[inline(always)]
            fn to_f32(self) -> f32 {
                self as f32
            }
            #[inline(always)]
            fn from_i64(x: i64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn from_u64(x: u64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn key(self) -> $key {
                let bits = self.to_bits() as $key;
                bits ^ ((bits >> ($key::BITS - 1)) & $key::MAX)
            }
            #[inline(always)]
            fn from_key(key: $key) -> Self {
                $t::from_bits((key ^ ((key >> ($key::BITS - 1)) & $key::MAX)) as _)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                $t::abs(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                $t::sqrt(self)
            }
            #[inline(always)]
            fn mul_add<S: Isa>(self, a: Self, b: Self) -> Self {
                if S::FMA { $t::mul_add(self, a, b) } else { self * a + b }
            }
            #[inline(always)]
            fn copysign(self, sign: Self) -> Self {
                $t::copysign(self, sign)
            }
        }
    };
}

float!(f32, i32, sum_f32, sum_f32_and_lost, transpose_f32);
float!(f64, i64, sum_f64, sum_f64_and_lost, transpose_f64);

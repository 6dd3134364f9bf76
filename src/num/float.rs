//! `f32` and `f64` as types that losses are computed in.

use crate::num::{Float, Sizes};
use crate::simd::{self, Isa, SUM_LANES};
use half::{bf16, f16};
use std::ops::{Add, BitOr};

/// Folds numbers, where neither order matters nor that the start or a number is taken twice.
///
/// The first and the last chunk are taken apart, so that all others are read from where a cache line begins.
#[inline(always)]
fn fold<T: Copy, B: Copy>(
    x: &[T],
    start: B,
    take: impl Fn(B, T) -> B,
    join: impl Fn(B, B) -> B,
) -> B {
    const LANES: usize = 64;
    const LINE: usize = 64;
    if x.len() < 2 * LANES {
        return x.iter().fold(start, |found, x| take(found, *x));
    }
    let mut found = [start; LANES];
    let mut take_chunk = |chunk: &[T; LANES]| {
        for (found, x) in found.iter_mut().zip(chunk) {
            *found = take(*found, *x);
        }
    };
    let line = x.as_ptr().align_offset(LINE).min(LANES);
    for chunk in x[line..].as_chunks().0 {
        take_chunk(chunk);
    }
    for chunk in [x.first_chunk(), x.last_chunk()].into_iter().flatten() {
        take_chunk(chunk);
    }
    found.into_iter().fold(start, join)
}

macro_rules! float {
    ($t:ident, $key:ident, $sum:ident, $sum_and_lost:ident, $transpose:ident, { $($runs:item)* }) => {
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
                let zero = Self::ZERO.to_bits();
                fold(x, zero, |most, x| x.to_bits().max(most), Ord::max) <= high.to_bits()
            }
            #[inline(always)]
            fn all_signs(x: &[Self]) -> bool {
                let [zero, one, sign] = [Self::ZERO, Self::ONE, -Self::ZERO].map($t::to_bits);
                let others = fold(x, zero, |others, x| (x.to_bits() ^ one) | others, BitOr::bitor);
                others & !sign == 0
            }
            #[inline(always)]
            fn all_finite<S: Isa>(x: &[Self]) -> bool {
                // Infinity times 0 is NaN, which stays.
                let add = |nothing, x: Self| Float::mul_add::<S>(x, Self::ZERO, nothing);
                fold(x, Self::ZERO, add, Add::add) == Self::ZERO
            }
            #[inline(always)]
            fn least(x: &[Self]) -> Self {
                // The keys of numbers of positive sign are their bits.
                let beyond = Self::INFINITY.key();
                let least = fold(x, beyond, |least, x| (x.to_bits() as $key).min(least), Ord::min);
                if least >= 0 {
                    return Self::from_key(least);
                }
                Self::from_key(x.iter().fold(beyond, |least, x| x.key().min(least)))
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
            $($runs)*
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

float!(f32, i32, sum_f32, sum_f32_and_lost, transpose_f32, {
    fn of_f16(from: &[f16], to: &mut [Self]) {
        simd::f32_of_f16(from, to);
    }
    fn to_f16(from: &[Self], to: &mut [f16]) {
        simd::f16_of_f32(from, to);
    }
    fn of_bf16(from: &[bf16], to: &mut [Self]) {
        simd::f32_of_bf16(from, to);
    }
    fn to_bf16(from: &[Self], to: &mut [bf16]) {
        simd::bf16_of_f32(from, to);
    }
});
float!(f64, i64, sum_f64, sum_f64_and_lost, transpose_f64, {
    fn of_f16(from: &[f16], to: &mut [Self]) {
        convert(from, to, |x| x.to_f32().into());
    }
    fn to_f16(from: &[Self], to: &mut [f16]) {
        convert(from, to, |x| f16::from_f32(x as f32));
    }
    fn of_bf16(from: &[bf16], to: &mut [Self]) {
        convert(from, to, |x| x.to_f32().into());
    }
    fn to_bf16(from: &[Self], to: &mut [bf16]) {
        convert(from, to, |x| bf16::from_f32(x as f32));
    }
});

fn convert<X: Copy, Y>(from: &[X], to: &mut [Y], f: impl Fn(X) -> Y) {
    for (x, y) in from.iter().zip(to) {
        *y = f(*x);
    }
}

//! The types that arrays hold, their names, sizes and conversions, and behind one trait the two of them that losses are
//! computed in.
//!
//! Operations of [`Float`] are branch-free where it matters, so that loops over slices vectorise. Selects are written
//! `if cond { a } else { b }` on values, never on effects.

use crate::error::Number;
use crate::num::sealed;
use crate::simd::{Isa, SUM_LANES};
use half::{bf16, f16};
use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

macro_rules! dtypes {
    ($($name:ident $t:ty, $text:literal, $x:ident $to:expr, $number:expr, $y:ident $of:expr
        $(, $to_run:ident, $of_run:ident)?;)*) => {
        /// An element type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DType {
            $(#[doc = $text] $name,)*
        }

        impl DType {
            /// The name that NumPy gives it.
            pub fn name(self) -> &'static str {
                match self { $(DType::$name => $text,)* }
            }
            /// The type of a name.
            pub fn named(name: &str) -> Option<Self> {
                match name { $($text => Some(DType::$name),)* _ => None }
            }
            /// Bytes of an element.
            pub fn size(self) -> usize {
                match self { $(DType::$name => size_of::<$t>(),)* }
            }
        }

        $(impl sealed::Sealed for $t {}

        impl Element for $t {
            const DTYPE: DType = DType::$name;
            #[inline(always)]
            fn to<T: Float>(self) -> T {
                let $x = self;
                $to
            }
            #[inline(always)]
            fn of<T: Float>($y: T) -> Self {
                $of
            }
            fn number(self) -> Number {
                let $x = self;
                Number::from($number)
            }
            $(
                fn to_run<T: Float>(from: &[Self], to: &mut [T]) {
                    T::$to_run(from, to);
                }
                fn of_run<T: Float>(from: &[T], to: &mut [Self]) {
                    T::$of_run(from, to);
                }
            )?
        })*

        /// Calls `$body` with the type alias `E` bound to the Rust type of a [`DType`].
        macro_rules! with_element {
            ($dtype:expr, $E:ident => $body:expr) => {
                match $dtype { $($crate::num::DType::$name => { type $E = $t; $body })* }
            };
        }
    };
}

dtypes! {
    F16 half::f16, "float16", x T::from_f32(x.to_f32()), x.to_f64(), y f16::from_f32(y.to_f32()), of_f16, to_f16;
    BF16 half::bf16, "bfloat16", x T::from_f32(x.to_f32()), x.to_f64(), y bf16::from_f32(y.to_f32()), of_bf16, to_bf16;
    F32 f32, "float32", x T::from_f32(x), f64::from(x), y y.to_f32();
    F64 f64, "float64", x T::from_f64(x), x, y y.to_f64();
    I8 i8, "int8", x T::from_i64(i64::from(x)), i128::from(x), y y.to_f64() as i8;
    I16 i16, "int16", x T::from_i64(i64::from(x)), i128::from(x), y y.to_f64() as i16;
    I32 i32, "int32", x T::from_i64(i64::from(x)), i128::from(x), y y.to_f64() as i32;
    I64 i64, "int64", x T::from_i64(x), i128::from(x), y y.to_f64() as i64;
    U8 u8, "uint8", x T::from_u64(u64::from(x)), i128::from(x), y y.to_f64() as u8;
    U16 u16, "uint16", x T::from_u64(u64::from(x)), i128::from(x), y y.to_f64() as u16;
    U32 u32, "uint32", x T::from_u64(u64::from(x)), i128::from(x), y y.to_f64() as u32;
    U64 u64, "uint64", x T::from_u64(x), i128::from(x), y y.to_f64() as u64;
    Bool crate::num::Boolean, "bool", x T::from_u64(u64::from(x.0 != 0)), i128::from(x.0 != 0), y Boolean(u8::from(y != T::ZERO));
}

impl DType {
    /// Whether losses are computed for predictions of this type.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
    }

    /// Whether it is a float type of two bytes.
    pub fn is_half(self) -> bool {
        matches!(self, DType::F16 | DType::BF16)
    }

    /// The type of results of predictions of several types: promoted as NumPy does; other types than floats count as
    /// `float64`.
    pub fn promote(so_far: Option<DType>, next: DType) -> DType {
        let next = if next.is_float() { next } else { DType::F64 };
        match so_far {
            None => next,
            Some(one) if one == next || next.size() < one.size() => one,
            Some(one) if next.size() > one.size() => next,
            Some(_) => DType::F32,
        }
    }
}

/// A byte that is a truth value; any bit pattern is valid.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Boolean(u8);

impl From<bool> for Boolean {
    fn from(x: bool) -> Self {
        Boolean(u8::from(x))
    }
}

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

/// A type that arrays hold.
pub trait Element: sealed::Sealed + Copy + 'static {
    /// Its tag.
    const DTYPE: DType;
    /// To a type of computation, rounded once.
    #[doc(hidden)]
    fn to<T: Float>(self) -> T;
    /// From a type of computation, rounded once (half types are computed in `f32`).
    #[doc(hidden)]
    fn of<T: Float>(x: T) -> Self;
    /// [`Element::to`] for a run of numbers.
    #[doc(hidden)]
    fn to_run<T: Float>(from: &[Self], to: &mut [T]) {
        for (x, y) in from.iter().zip(to) {
            *y = x.to();
        }
    }
    /// [`Element::of`] for a run of numbers.
    #[doc(hidden)]
    fn of_run<T: Float>(from: &[T], to: &mut [Self]) {
        for (x, y) in from.iter().zip(to) {
            *y = Self::of(*x);
        }
    }
    /// The number itself.
    fn number(self) -> Number;
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
    type Key: Ord + Copy + Default;

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
    /// Whether none is infinite or NaN.
    fn all_finite<S: Isa>(x: &[Self]) -> bool;
    /// The least number by [`Float::key`], or infinity if there is none.
    fn least(x: &[Self]) -> Self;
    /// The extreme sizes of numbers, in one pass.
    fn sizes(x: &[Self]) -> Sizes<Self>;

    /// A run of `float16`.
    fn of_f16(from: &[f16], to: &mut [Self]);
    /// A run to `float16`.
    fn to_f16(from: &[Self], to: &mut [f16]);
    /// A run of `bfloat16`.
    fn of_bf16(from: &[bf16], to: &mut [Self]);
    /// A run to `bfloat16`.
    fn to_bf16(from: &[Self], to: &mut [bf16]);

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

#[allow(clippy::single_component_path_imports, reason = "the only way to name a macro")]
pub(crate) use with_element;

//! The types that arrays hold: their names, sizes, and conversions from and to the types of computation.

use crate::error::Number;
use crate::num::Float;
use half::{bf16, f16};

macro_rules! dtypes {
    ($($name:ident $t:ty, $text:literal, $x:ident $to:expr, $number:expr, $y:ident $of:expr;)*) => {
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

        $(impl Element for $t {
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
    F16 half::f16, "float16", x T::from_f32(x.to_f32()), x.to_f64(), y f16::from_f32(y.to_f32());
    BF16 half::bf16, "bfloat16", x T::from_f32(x.to_f32()), x.to_f64(), y bf16::from_f32(y.to_f32());
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

/// A type that arrays hold.
pub trait Element: Copy + 'static {
    /// Its tag.
    const DTYPE: DType;
    /// To a type of computation, rounded once.
    fn to<T: Float>(self) -> T;
    /// From a type of computation, rounded once (half types are computed in `f32`).
    fn of<T: Float>(x: T) -> Self;
    /// The number itself.
    fn number(self) -> Number;
}

pub(crate) use with_element;

//! What the algorithms need of a floating-point format: its constants, its bits, its polynomials.
//!
//! The polynomials are minimax approximations, fitted by Remez exchange in 80-digit arithmetic with the error
//! weighted to be relative to the whole function, on the reduced interval widened by one per cent. Each
//! coefficient was then rounded to the format; the degrees leave the error below 1/16 ulp.

use crate::num::Float;
use crate::simd::Isa;

/// `c0 + x (c1 + x (c2 + ...))`.
macro_rules! horner {
    ($s:ident, $x:expr, $c:expr) => { $c };
    ($s:ident, $x:expr, $c:expr, $($rest:expr),+) => {
        Float::mul_add::<$s>($x, horner!($s, $x, $($rest),+), $c)
    };
}

pub(super) use horner;

/// The same with the even and the odd powers apart: one more product, and half as many operations in a row.
macro_rules! even_odd {
    ($s:ident, $x:expr, [$($even:expr),+], [$($odd:expr),+]) => {{
        let square = $x * $x;
        Float::mul_add::<$s>($x, horner!($s, square, $($odd),+), horner!($s, square, $($even),+))
    }};
}

/// A binary interchange format.
pub(crate) trait Format: Float {
    /// Adding it to a small `x` leaves `round(x)` in the low bits of the sum.
    const MAGIC: Self;
    /// `log2(e)`.
    const LOG2_E: Self;
    /// `log(2)`, short enough that its product with any exponent is exact.
    const LN2_HI: Self;
    /// `log(2) - LN2_HI`.
    const LN2_LO: Self;
    /// `exp` rounds to 0 from here down.
    const EXP_MIN: Self;
    /// `exp` overflows from here up.
    const EXP_MAX: Self;
    /// `expm1` rounds to -1 from here down.
    const EXPM1_MIN: Self;
    /// `x` itself is `expm1(x)` when `|x|` is smaller.
    const EXPM1_TINY: Self;
    /// Half the exponent range, in which every power of two and its inverse are normal.
    const HALF_RANGE: i32;
    /// `x + 1` is `x` from here up.
    const ONE_IS_LOST: Self;
    /// `2^k` that makes every subnormal number normal, and `k`.
    const NORMALIZE: (Self, Self);

    /// `2^(n + k)`, normal, where `self = MAGIC + n`.
    fn pow2(self, k: i32) -> Self;
    /// `self * 2^n` where both are normal numbers, and `magic = MAGIC + n`.
    fn times_pow2(self, magic: Self) -> Self;
    /// `(m, -k, 2^-k)` where `self = 2^k m`, with `m` between `sqrt(1/2)` and `sqrt(2)`, for a positive
    /// normal `self`. The exponent is negated so that it is `+0`, and its product with `-LN2_HI` `-0`, at `k = 0`.
    fn binade(self) -> (Self, Self, Self);
    /// `(exp(r) - 1 - r) / r^2` for `|r| <= log(2)/2`.
    fn exp_tail<S: Isa>(self) -> Self;
    /// `log(1 + f) - f` for `1 + f` between `sqrt(1/2)` and `sqrt(2)`.
    fn log_tail<S: Isa>(self) -> Self;
    /// `(l / sinh(l) - 1) / 2v` for `v = 2 cosh(l) - 2` and `l` from 0 to `log(2)`.
    fn sinh_tail<S: Isa>(self) -> Self;
}

macro_rules! format {
    (
        $t:ident, $u:ident, $sqrt_half:literal,
        { $($name:ident = $value:expr,)* }
        exp_tail($s:ident, $r:ident) = $exp_tail:expr,
        log_tail($f:ident) = $log_tail:expr,
        sinh_tail($v:ident) = $sinh_tail:expr,
    ) => {
        impl Format for $t {
            const MAGIC: Self = 1.5 * (1_u64 << ($t::MANTISSA_DIGITS - 1)) as $t;
            const LOG2_E: Self = std::$t::consts::LOG2_E;
            const ONE_IS_LOST: Self = (1_u64 << ($t::MANTISSA_DIGITS + 1)) as $t;
            const NORMALIZE: (Self, Self) =
                ((1_u64 << $t::MANTISSA_DIGITS) as $t, $t::MANTISSA_DIGITS as $t);
            const HALF_RANGE: i32 = $t::MAX_EXP / 2;
            $(const $name: Self = $value;)*

            #[inline(always)]
            fn pow2(self, k: i32) -> Self {
                const FIELD: u32 = $t::MANTISSA_DIGITS - 1;
                const BIAS: i32 = $t::MAX_EXP - 1;
                let exponent = ((BIAS + k) as $u) << FIELD;
                $t::from_bits((self.to_bits() << FIELD).wrapping_add(exponent))
            }
            #[inline(always)]
            fn times_pow2(self, magic: Self) -> Self {
                const FIELD: u32 = $t::MANTISSA_DIGITS - 1;
                $t::from_bits(self.to_bits().wrapping_add(magic.to_bits() << FIELD))
            }
            #[inline(always)]
            fn binade(self) -> (Self, Self, Self) {
                const FIELD: u32 = $t::MANTISSA_DIGITS - 1;
                const FRACTION: $u = (1 << FIELD) - 1;
                const BIAS: $u = $t::MAX_EXP as $u - 1;
                // Keeps the shifted exponent positive: not every level shifts 64-bit integers arithmetically.
                const LIFT: $u = $t::MAX_EXP as $u;
                const SHIFT: $t = (1_u64 << FIELD) as $t;
                let lifted =
                    self.to_bits().wrapping_sub($sqrt_half).wrapping_add(LIFT << FIELD);
                let m = (lifted & FRACTION).wrapping_add($sqrt_half);
                let k = $t::from_bits((lifted >> FIELD) | SHIFT.to_bits());
                let inverse = ((BIAS + LIFT) << FIELD).wrapping_sub(lifted & !FRACTION);
                ($t::from_bits(m), (SHIFT + LIFT as $t) - k, $t::from_bits(inverse))
            }
            #[inline(always)]
            fn exp_tail<$s: Isa>(self) -> Self {
                let $r = self;
                $exp_tail
            }
            #[inline(always)]
            fn log_tail<$s: Isa>(self) -> Self {
                let $f = self;
                $log_tail
            }
            #[inline(always)]
            fn sinh_tail<$s: Isa>(self) -> Self {
                let $v = self;
                $sinh_tail
            }
        }
    };
}

format! {
    f32, u32, 0x3f35_04f3, {
    LN2_HI = 0.693_145_75,
    LN2_LO = 1.428_606_8e-6,
    EXP_MIN = -104.0,
    EXP_MAX = 89.0,
    EXPM1_MIN = -18.0,
    EXPM1_TINY = 1e-8,
    }
    exp_tail(S, r) = even_odd!(
        S, r, [0.499_999_94, 0.041_668_456, 0.001_381_315_2], [0.166_665_15, 0.008_369_419]
    ),
    // A division would save four terms, and costs more than they do.
    log_tail(f) = {
        let p = horner!(
            S, f, 0.333_333_1, -0.250_000_1, 0.200_021_67, -0.166_680_9, 0.142_185_54,
            -0.124_030_836, 0.118_935_116, -0.116_943_37, 0.067_575_74
        );
        f * f * Float::mul_add::<S>(f, p, -0.5)
    },
    sinh_tail(v) = horner!(
        S, v, -0.083_333_306, 0.016_665_988, -0.003_565_109, 0.000_767_623_66, -0.000_129_906_46
    ),
}

format! {
    f64, u64, 0x3fe6_a09e_667f_3bcd, {
    LN2_HI = 0.693_147_180_559_890_3,
    LN2_LO = 5.497_923_018_708_371e-14,
    EXP_MIN = -746.0,
    EXP_MAX = 710.0,
    EXPM1_MIN = -38.0,
    EXPM1_TINY = 1e-17,
    }
    exp_tail(S, r) = even_odd!(
        S, r,
        [
            0.500_000_000_000_001_2, 0.041_666_666_666_519_15, 0.001_388_888_894_691_982,
            2.480_148_935_239_485e-5, 2.763_168_730_647_032_7e-7
        ],
        [
            0.166_666_666_666_663_85, 0.008_333_333_333_507_659, 0.000_198_412_694_861_674_27,
            2.755_759_718_090_046_5e-6, 2.499_899_463_513_257_8e-8
        ]
    ),
    // log(1 + f) = 2 atanh(s), s = f / (2 + f): an odd series, and s f = 2 s - ... folds the
    // leading terms into f - f^2/2, which are nearly exact.
    log_tail(f) = {
        let s = f / (f + 2.0);
        let z = s * s;
        let r = z * horner!(
            S, z, 0.666_666_666_666_673_6, 0.399_999_999_994_002_1, 0.285_714_287_459_127_1,
            0.222_221_981_822_514_54, 0.181_835_860_661_209_85, 0.153_134_599_221_138_87,
            0.148_021_870_780_761_04
        );
        let half_square = 0.5 * f * f;
        Float::mul_add::<S>(s, half_square + r, -half_square)
    },
    sinh_tail(v) = even_odd!(
        S, v,
        [
            -0.083_333_333_333_331_98, -0.003_571_428_567_047_968_7, -0.000_180_374_480_041_859_58,
            -9.696_469_114_905_565e-6, -4.779_078_305_815_887e-7
        ],
        [
            0.016_666_666_666_536_153, 0.000_793_650_720_690_779_1, 4.162_086_488_277_419e-5,
            2.245_324_874_797_655_7e-6, 6.853_894_321_397_558e-8
        ]
    ),
}

//! Vectors of eight `f64`, each in one register where the level has registers of that size.
//!
//! Elsewhere in the crate such loops are left to the compiler. Where several loops over eight numbers follow each
//! other, it splits the vectors and joins the pieces in another way; so the levels with registers spell out their
//! instructions here.

use super::{Baseline, Isa};
use std::array;

/// Eight numbers.
pub type F64x8 = [f64; GROUP];

/// How many numbers that is.
pub const GROUP: usize = 8;

/// Arithmetic on vectors. The results are the same on all levels, up to whether `mul_add` is fused.
pub trait F64x8Ops: Sized {
    /// `a * b`.
    #[inline(always)]
    fn mul(a: &F64x8, b: &F64x8) -> F64x8 {
        array::from_fn(|i| a[i] * b[i])
    }
    /// `a + b`.
    #[inline(always)]
    fn add(a: &F64x8, b: &F64x8) -> F64x8 {
        array::from_fn(|i| a[i] + b[i])
    }
    /// `a * b + c`, fused where the level has the instruction.
    #[inline(always)]
    fn mul_add(a: &F64x8, b: &F64x8, c: &F64x8) -> F64x8
    where
        Self: Isa,
    {
        array::from_fn(|i| if Self::FMA { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] })
    }
    /// The sum of each row: of neighbours, then of neighbouring sums, then of both halves. In registers eight rows take
    /// little more time than one.
    #[inline(always)]
    fn row_sums(rows: &[F64x8; 8]) -> F64x8 {
        array::from_fn(|i| {
            let [a, b, c, d, e, f, g, h] = rows[i];
            ((a + b) + (c + d)) + ((e + f) + (g + h))
        })
    }
    /// The last number of `before`, then all of `x` but its last one. From registers this does not wait for the two
    /// vectors to be stored, as a load from across their border would.
    #[inline(always)]
    fn delayed(before: &F64x8, x: &F64x8) -> F64x8 {
        array::from_fn(|i| if i == 0 { before[7] } else { x[i - 1] })
    }
    /// All of `x` but its first number, then the first one of `after`.
    #[inline(always)]
    fn advanced(x: &F64x8, after: &F64x8) -> F64x8 {
        array::from_fn(|i| if i == 7 { after[0] } else { x[i + 1] })
    }
}

impl F64x8Ops for Baseline {}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{F64x8, F64x8Ops};
    use crate::simd::registers::{numbers, registers};
    use crate::simd::x86::{Avx2, Avx512};
    use std::arch::x86_64 as arch;

    /// The operations of a level that has the registers.
    macro_rules! f64x8 {
        ($level:ident, $features:literal, { $(fn $name:ident($($x:ident: $type:ty),*) $body:block)* }) => {
            impl F64x8Ops for $level {
                $(
                    #[inline(always)]
                    fn $name($($x: $type),*) -> F64x8 {
                        #[inline]
                        #[target_feature(enable = $features)]
                        fn in_registers($($x: $type),*) -> F64x8 $body
                        // SAFETY: code that names a level runs in its shell only, where the features are there.
                        unsafe { in_registers($($x),*) }
                    }
                )*
            }
        };
    }

    #[inline(always)]
    fn load(x: &F64x8) -> arch::__m512d {
        registers(*x)
    }

    #[inline(always)]
    fn vector(x: arch::__m512d) -> F64x8 {
        numbers(x)
    }

    /// Eight of sixteen numbers, from number `FROM` on.
    #[target_feature(enable = "avx512f")]
    fn between<const FROM: i32>(low: &F64x8, high: &F64x8) -> F64x8 {
        let [low, high] = [low, high].map(|x| arch::_mm512_castpd_si512(load(x)));
        vector(arch::_mm512_castsi512_pd(arch::_mm512_alignr_epi64::<FROM>(high, low)))
    }

    /// Adds neighbours within two vectors, those of `a` at the even places of the sum.
    #[target_feature(enable = "avx512f")]
    fn pairs(a: arch::__m512d, b: arch::__m512d) -> arch::__m512d {
        arch::_mm512_add_pd(arch::_mm512_unpacklo_pd(a, b), arch::_mm512_unpackhi_pd(a, b))
    }

    /// Adds neighbouring pairs of numbers within two vectors, those of `a` in the lower half of the sum.
    #[target_feature(enable = "avx512f")]
    fn fours(a: arch::__m512d, b: arch::__m512d) -> arch::__m512d {
        const EVEN: i32 = 0b10_00_10_00;
        const ODD: i32 = 0b11_01_11_01;
        arch::_mm512_add_pd(
            arch::_mm512_shuffle_f64x2::<EVEN>(a, b),
            arch::_mm512_shuffle_f64x2::<ODD>(a, b),
        )
    }

    /// The four numbers in the middle of eight.
    #[target_feature(enable = "avx2")]
    fn middle(low: arch::__m256d, high: arch::__m256d) -> arch::__m256d {
        arch::_mm256_permute2f128_pd::<0x21>(low, high)
    }

    /// The numbers at the odd places of `a` and those at the even ones of `b`, in turn.
    #[target_feature(enable = "avx2")]
    fn odd_and_even(a: arch::__m256d, b: arch::__m256d) -> arch::__m256d {
        arch::_mm256_shuffle_pd::<0b0101>(a, b)
    }

    /// Two registers.
    type Halves = [arch::__m256d; 2];

    #[inline(always)]
    fn halves(x: &F64x8) -> Halves {
        registers(*x)
    }

    #[inline(always)]
    fn joined(x: Halves) -> F64x8 {
        numbers(x)
    }

    f64x8!(Avx2, "avx2,fma", {
        fn mul(a: &F64x8, b: &F64x8) {
            let ([a, c], [b, d]) = (halves(a), halves(b));
            joined([arch::_mm256_mul_pd(a, b), arch::_mm256_mul_pd(c, d)])
        }
        fn add(a: &F64x8, b: &F64x8) {
            let ([a, c], [b, d]) = (halves(a), halves(b));
            joined([arch::_mm256_add_pd(a, b), arch::_mm256_add_pd(c, d)])
        }
        fn mul_add(a: &F64x8, b: &F64x8, c: &F64x8) {
            let ([a, d], [b, e], [c, f]) = (halves(a), halves(b), halves(c));
            joined([arch::_mm256_fmadd_pd(a, b, c), arch::_mm256_fmadd_pd(d, e, f)])
        }
        fn delayed(before: &F64x8, x: &F64x8) {
            let ([_, before], [low, high]) = (halves(before), halves(x));
            joined([odd_and_even(middle(before, low), low), odd_and_even(middle(low, high), high)])
        }
        fn advanced(x: &F64x8, after: &F64x8) {
            let ([low, high], [after, _]) = (halves(x), halves(after));
            joined([odd_and_even(low, middle(low, high)), odd_and_even(high, middle(high, after))])
        }
    });

    f64x8!(Avx512, "avx512f", {
        fn mul(a: &F64x8, b: &F64x8) {
            vector(arch::_mm512_mul_pd(load(a), load(b)))
        }
        fn add(a: &F64x8, b: &F64x8) {
            vector(arch::_mm512_add_pd(load(a), load(b)))
        }
        fn mul_add(a: &F64x8, b: &F64x8, c: &F64x8) {
            vector(arch::_mm512_fmadd_pd(load(a), load(b), load(c)))
        }
        fn row_sums(rows: &[F64x8; 8]) {
            let [a, b, c, d, e, f, g, h] = rows.each_ref().map(load);
            vector(fours(fours(pairs(a, b), pairs(c, d)), fours(pairs(e, f), pairs(g, h))))
        }
        fn delayed(before: &F64x8, x: &F64x8) {
            between::<7>(before, x)
        }
        fn advanced(x: &F64x8, after: &F64x8) {
            between::<1>(x, after)
        }
    });
}

#[cfg(test)]
mod tests {
    use super::F64x8;
    use crate::simd::{Isa, Kernel, Level, dispatch};

    struct All<'a>(&'a [f64]);

    impl Kernel for All<'_> {
        type Output = [F64x8; 6];

        #[inline(always)]
        fn run<S: Isa>(self) -> [F64x8; 6] {
            let [a, b, c] = [0, 8, 16].map(|at| self.0[at..].as_chunks().0[0]);
            [
                S::mul(&a, &b),
                S::add(&a, &b),
                S::mul_add(&a, &b, &c),
                S::delayed(&a, &b),
                S::advanced(&a, &b),
                S::row_sums(&[a, b, c, b, a, c, [1.0; 8], b]),
            ]
        }
    }

    #[test]
    fn every_level_does_what_it_says() {
        let x: Vec<f64> = (0..24).map(f64::from).collect();
        // Whole numbers this small are exact, fused or not.
        let expected = [
            [0.0, 9.0, 20.0, 33.0, 48.0, 65.0, 84.0, 105.0],
            [8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0, 22.0],
            [16.0, 26.0, 38.0, 52.0, 68.0, 86.0, 106.0, 128.0],
            [7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0],
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            [28.0, 92.0, 156.0, 92.0, 28.0, 156.0, 8.0, 92.0],
        ];
        for level in Level::available() {
            assert_eq!(dispatch(level, All(&x)), expected, "{level:?}");
        }
    }
}

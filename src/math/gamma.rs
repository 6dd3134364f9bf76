//! `lgamma` and `log(t!)`, in f64: f32 widens, which makes it exact to the last bit but one.
//!
//! Slower than the other functions, but as free of branches. Both polynomials are minimax fits (Remez
//! exchange in 80-digit arithmetic, error relative to the function).

use super::format::horner;
use super::log::log;
use crate::num::Float;
use crate::simd::Isa;

/// `log(Gamma(x))` for `x >= 0`, within 4 ulp, next to its zeros at 1 and 2 too; NaN below 0.
#[inline(always)]
pub(crate) fn lgamma<S: Isa>(x: f64) -> f64 {
    let below = x < 1.0;
    let (small, product) = log_factorial_small::<S>(if below { x } else { x - 1.0 });
    let moderate = x < LARGE;
    let l = log::<f64, S>(if moderate && !below { product } else { x });
    // log Gamma(x) = log(x!) - log x: terms of one sign.
    let y = if below { small - l } else { small + l };
    if moderate { y } else { stirling::<S>(x, l) }
}

/// `log(t!) = lgamma(t + 1)` for `t >= 0`, within 4 ulp, next to its zeros at 0 and 1 too; NaN below 0.
#[inline(always)]
pub(crate) fn log_factorial<S: Isa>(t: f64) -> f64 {
    let (small, product) = log_factorial_small::<S>(t);
    let moderate = t < LARGE;
    let l = log::<f64, S>(if moderate && t >= 0.0 { product } else { t });
    if moderate { small + l } else { stirling::<S>(t, l) + l }
}

/// Where Stirling's series takes over.
const LARGE: f64 = 8.0;

/// For `t` from 0 to `LARGE`, `(log(y!), p)` with `log(t!) = log(y!) + log(p)` and `y` below 2; no term is negative
/// where `p` is not 1, so nothing cancels.
#[inline(always)]
fn log_factorial_small<S: Isa>(t: f64) -> (f64, f64) {
    let (mut y, mut product) = (t, 1.0);
    for _ in 0..6 {
        let above = y >= 2.0;
        product *= if above { y } else { 1.0 };
        y -= if above { 1.0 } else { 0.0 };
    }
    // log(y!) / (y (y - 1)) has no zero and no pole from 0 to 2.
    let z = y - 1.0;
    (
        y * z
            * horner!(
                S,
                z,
                0.422_784_335_098_467_13,
                -0.100_317_301_674_354_24,
                0.032_965_000_621_157_016,
                -0.012_384_192_193_334_196,
                0.004_998_641_164_621_073,
                -0.002_108_130_835_274_002_5,
                0.000_915_376_924_173_175_2,
                -0.000_405_707_375_733_335_77,
                0.000_182_552_613_848_537_7,
                -8.309_532_844_050_879e-5,
                3.816_908_719_824_848e-5,
                -1.766_051_003_566_235_2e-5,
                8.221_187_850_637_236e-6,
                -3.851_755_907_008_549_5e-6,
                1.811_527_777_138_431e-6,
                -8.415_089_841_103_155e-7,
                3.956_184_133_948_728e-7,
                -2.120_136_723_800_617_3e-7,
                1.045_843_190_979_546_6e-7,
                -1.875_007_563_955_052e-8,
                5.556_899_574_765_576_6e-9,
                -2.994_518_780_068_660_4e-8,
                1.640_648_489_434_85e-8,
                7.640_265_833_673_371e-9,
                -4.386_549_146_434_808e-9,
                -3.060_047_048_830_042e-9,
                1.586_091_976_785_969_9e-9
            ),
        product,
    )
}

/// `log(Gamma(x))` for `x >= LARGE`, where `log_x = log(x)`.
#[inline(always)]
fn stirling<S: Isa>(x: f64, log_x: f64) -> f64 {
    /// `(log(2 pi) - 1) / 2`.
    const OFFSET: f64 = 0.418_938_533_204_672_7;
    let inverse = 1.0 / x;
    let z = inverse * inverse;
    let series = horner!(
        S,
        z,
        0.083_333_333_333_333_31,
        -0.002_777_777_777_750_349_7,
        0.000_793_650_779_585_551_6,
        -0.000_595_234_585_185_622_4,
        0.000_841_272_330_644_597_1,
        -0.001_880_801_982_954_788,
        0.004_885_027_000_289_061
    );
    Float::mul_add::<S>(x - 0.5, log_x - 1.0, Float::mul_add::<S>(inverse, series, OFFSET))
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use std::f64::consts::{LN_2, PI};

    /// Factorials up to 18! are exact in f64.
    const FACTORIALS: [f64; 9] =
        [2.0, 6.0, 24.0, 120.0, 720.0, 5040.0, 40_320.0, 362_880.0, 6_402_373_705_728_000.0];

    #[test]
    fn logarithms_of_factorials() {
        let t = [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 18.0];
        let expected = FACTORIALS.map(f64::ln);
        on_every_level!(t, |t, S| t.log_factorial::<S>(), |y: &[f64]| assert_close(
            4.0, y, &expected
        ));
        let x = t.map(|t| t + 1.0);
        on_every_level!(x, |x, S| x.lgamma::<S>(), |y: &[f64]| assert_close(4.0, y, &expected));
    }

    #[test]
    fn lgamma_at_halves() {
        // Gamma(1/2) = sqrt(pi), and Gamma(x + 1) = x Gamma(x).
        let half = PI.ln() / 2.0;
        let expected = [half, half - LN_2, half + 0.75_f64.ln(), half + 1.875_f64.ln()];
        let x = [0.5, 1.5, 2.5, 3.5];
        on_every_level!(x, |x, S| x.lgamma::<S>(), |y: &[f64]| assert_close(4.0, y, &expected));
    }

    #[test]
    fn zeros_and_limits() {
        let x = [-0.5, 0.0, 1.0, 2.0, f32::INFINITY, f32::NAN];
        let y = [f32::NAN, f32::INFINITY, 0.0, 0.0, f32::INFINITY, f32::NAN];
        on_every_level!(x, |x, S| x.lgamma::<S>(), |got: &[f32]| {
            assert_same(&got.iter().map(|v| v + 0.0).collect::<Vec<_>>(), &y);
        });
        let t = [-0.5, 0.0, 1.0, f32::INFINITY, f32::NAN];
        let y = [f32::NAN, 0.0, 0.0, f32::INFINITY, f32::NAN];
        on_every_level!(t, |t, S| t.log_factorial::<S>(), |got: &[f32]| {
            assert_same(&got.iter().map(|v| v + 0.0).collect::<Vec<_>>(), &y);
        });
    }
}

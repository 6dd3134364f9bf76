//! `log(t!)` of slices of f64: f32 widens, which makes it exact to the last bit but one.
//!
//! Slower than the other functions, but as free of branches. Both polynomials are minimax fits (Remez
//! exchange in 80-digit arithmetic, error relative to the function).

use super::digamma::log_factorial_slope;
use super::format::horner;
use super::log::log;
use crate::num::Float;
use crate::simd::{Isa, Kernel, Level, dispatch};

/// Replaces each t by log(t!).
pub(crate) fn log_factorials(level: Level, t: &mut [f64]) {
    dispatch(level, LogFactorials::<false>(t));
}

/// Replaces each t by the derivative of log(t!).
pub(crate) fn log_factorial_slopes(level: Level, t: &mut [f64]) {
    dispatch(level, LogFactorials::<true>(t));
}

/// Numbers to replace: by the derivatives for `SLOPE`.
struct LogFactorials<'a, const SLOPE: bool>(&'a mut [f64]);

impl<const SLOPE: bool> Kernel for LogFactorials<'_, SLOPE> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        for t in self.0 {
            *t = if SLOPE { log_factorial_slope::<S>(*t) } else { log_factorial::<S>(*t) };
        }
    }
}

/// `log(t!) = log(Gamma(t + 1))` for `t >= 0`, within 4 ulp, next to its zeros at 0 and 1 too; NaN below 0.
#[inline(always)]
fn log_factorial<S: Isa>(t: f64) -> f64 {
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
    use super::super::testing::{assert_close, assert_same};
    use super::*;
    use std::f64::consts::{LN_2, PI};

    /// Factorials up to 18! are exact in f64.
    const FACTORIALS: [f64; 9] =
        [2.0, 6.0, 24.0, 120.0, 720.0, 5040.0, 40_320.0, 362_880.0, 6_402_373_705_728_000.0];

    /// The logarithms at every level, alone and in the middle of many.
    fn on_every_level(t: &[f64], check: impl Fn(&[f64])) {
        for level in Level::available() {
            let mut many = t.repeat(37);
            log_factorials(level, &mut many);
            for (i, &t) in t.iter().enumerate() {
                let mut alone = [t];
                log_factorials(level, &mut alone);
                assert_same(&alone, &many[i..=i]);
            }
            assert_same(&many, &many[..t.len()].repeat(37));
            check(&many[..t.len()]);
        }
    }

    #[test]
    fn whole_numbers() {
        let t = [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 18.0];
        on_every_level(&t, |y| assert_close(4.0, y, &FACTORIALS.map(f64::ln)));
    }

    #[test]
    fn halves() {
        // (-1/2)! = sqrt(pi), and t! = t (t - 1)!.
        let half = PI.ln() / 2.0;
        let expected = [half - LN_2, half + 0.75_f64.ln(), half + 1.875_f64.ln()];
        on_every_level(&[0.5, 1.5, 2.5], |y| assert_close(4.0, y, &expected));
    }

    #[test]
    fn slopes_between_halves() {
        // psi(t + 1) - psi(t) = 1 / t.
        for level in Level::available() {
            let (below, mut slopes): (Vec<f64>, Vec<f64>) =
                (1..300).map(|k| (f64::from(k) / 2.0, f64::from(k) / 2.0 + 1.0)).unzip();
            log_factorial_slopes(level, &mut slopes);
            for (k, pair) in (2..).zip(slopes.windows(3)) {
                assert!((pair[2] - pair[0] - 1.0 / (below[k - 2] + 2.0)).abs() < 1e-14, "{k}");
            }
        }
    }

    #[test]
    fn zeros_and_limits() {
        let t = [-0.5, 0.0, 1.0, f64::INFINITY, f64::NAN];
        let expected = [f64::NAN, 0.0, 0.0, f64::INFINITY, f64::NAN];
        on_every_level(&t, |y| {
            assert_same(&y.iter().map(|v| v + 0.0).collect::<Vec<_>>(), &expected);
        });
    }
}

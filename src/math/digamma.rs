//! The derivative of `log(t!)`.

use super::log1p;
use crate::simd::Isa;

/// The Euler-Mascheroni constant.
const GAMMA: f64 = 0.577_215_664_901_532_9;

/// The derivative of `log(t!)`, digamma(t + 1), at `t >= 0`: within 4 ulp of the sum of its two parts, the harmonic
/// number H(t) and -gamma. NaN below 0.
///
/// H(t) is the sum of t / (k (k + t)) for k up to 8, and then digamma(9 + t) - digamma(9) from the asymptotic series,
/// seven terms of which leave less than half an ulp. All parts are positive, so nothing cancels but the -gamma.
#[inline(always)]
pub(super) fn log_factorial_slope<S: Isa>(t: f64) -> f64 {
    const SHIFT: usize = 8;
    const START: f64 = SHIFT as f64 + 1.0;
    // B(2k) / (2k).
    const TERMS: [f64; 7] = [
        1.0 / 12.0,
        -1.0 / 120.0,
        1.0 / 252.0,
        -1.0 / 240.0,
        1.0 / 132.0,
        -691.0 / 32760.0,
        1.0 / 12.0,
    ];
    let below_log = |y: f64| {
        let inverse = 1.0 / y;
        let square = inverse * inverse;
        let terms = TERMS.iter().rev();
        0.5 * inverse + square * terms.fold(0.0, |sum, term| sum * square + term)
    };
    let mut harmonic = log1p::<f64, S>(t / START) + (below_log(START) - below_log(START + t));
    for k in (1..=SHIFT).rev() {
        let k = k as f64;
        harmonic += 1.0 / (k * (k / t + 1.0));
    }
    if t < 0.0 { f64::NAN } else { harmonic - GAMMA }
}

#[cfg(test)]
mod tests {
    use super::{GAMMA, log_factorial_slope};
    use crate::simd::Baseline;

    #[test]
    fn known_points() {
        let harmonic = |n: u32| (1..=n).rev().map(|k| 1.0 / f64::from(k)).sum::<f64>();
        for t in [0, 1, 2, 9, 100] {
            let (slope, expected) =
                (log_factorial_slope::<Baseline>(f64::from(t)), harmonic(t) - GAMMA);
            assert!((slope - expected).abs() <= 4.0 * f64::EPSILON * expected.abs(), "{t}");
        }
        assert!(log_factorial_slope::<Baseline>(-1.0).is_nan());
        assert_eq!(log_factorial_slope::<Baseline>(f64::INFINITY), f64::INFINITY);
    }
}

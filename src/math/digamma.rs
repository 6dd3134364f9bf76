//! The digamma function, the derivative of `log(Gamma)`.

use crate::real::Real;
use crate::simd::Isa;

/// `digamma(x)` for `x >= 1`, within 4 ulp away from its zero at 1.46; NaN below 0.
///
/// The recurrence digamma(x) = digamma(x + 1) - 1/x moves the argument to 9 and above, where seven terms of the
/// asymptotic series, with the Bernoulli numbers B(2k) / (2k), leave less than half an ulp.
#[inline(always)]
pub(crate) fn digamma<S: Isa>(x: f64) -> f64 {
    const SHIFT: usize = 8;
    const TERMS: [f64; 7] = [
        1.0 / 12.0,
        -1.0 / 120.0,
        1.0 / 252.0,
        -1.0 / 240.0,
        1.0 / 132.0,
        -691.0 / 32760.0,
        1.0 / 12.0,
    ];
    let mut shift = 0.0;
    for k in 0..SHIFT {
        shift += 1.0 / (x + k as f64);
    }
    let y = x + SHIFT as f64;
    let inverse = 1.0 / y;
    let square = inverse * inverse;
    let series = TERMS.iter().rev().fold(0.0, |sum, term| Real::mul_add::<S>(sum, square, *term));
    let value = Real::log::<S>(y) - 0.5 * inverse - series * square - shift;
    if x < 0.0 { f64::NAN } else { value }
}

#[cfg(test)]
mod tests {
    use super::digamma;
    use crate::simd::Baseline;

    #[test]
    fn known_points() {
        // -gamma; 1 - gamma; H(9) - gamma.
        let gamma = 0.577_215_664_901_532_9;
        let harmonic: f64 = (1..10).map(|k| 1.0 / f64::from(k)).sum();
        for (x, expected) in [(1.0, -gamma), (2.0, 1.0 - gamma), (10.0, harmonic - gamma)] {
            assert!((digamma::<Baseline>(x) - expected).abs() < 1e-15 * expected.abs().max(1.0));
        }
        assert!(digamma::<Baseline>(-1.0).is_nan());
        assert_eq!(digamma::<Baseline>(f64::INFINITY), f64::INFINITY);
    }
}

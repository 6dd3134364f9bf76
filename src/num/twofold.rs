//! Numbers as an unevaluated sum of two `f64`: about 106 bits, for what is one number for each row.
//!
//! Source: the double-word arithmetic of Dekker, and of Joldes, Muller and Popescu, "Tight and rigorous error bounds for
//! basic building blocks of double-word arithmetic" (2017): errors of a few units of 2^-106.

use crate::simd::Isa;

/// A number of the arithmetic that a row's scalars are computed in.
pub trait Scalar: Copy {
    /// The sum of a number and a much smaller one.
    fn of(high: f64, low: f64) -> Self;
    /// The nearest `f64`.
    fn high(self) -> f64;
    /// What that leaves out.
    fn low(self) -> f64;
    /// The product.
    fn times<S: Isa>(self, other: Self) -> Self;
    /// The quotient.
    fn over<S: Isa>(self, other: Self) -> Self;
    /// The square root.
    fn root<S: Isa>(self) -> Self;
}

impl Scalar for f64 {
    #[inline(always)]
    fn of(high: f64, low: f64) -> Self {
        high + low
    }
    #[inline(always)]
    fn high(self) -> f64 {
        self
    }
    #[inline(always)]
    fn low(self) -> f64 {
        0.0
    }
    #[inline(always)]
    fn times<S: Isa>(self, other: Self) -> Self {
        self * other
    }
    #[inline(always)]
    fn over<S: Isa>(self, other: Self) -> Self {
        self / other
    }
    #[inline(always)]
    fn root<S: Isa>(self) -> Self {
        self.sqrt()
    }
}

/// `high + low`, where `high` is the nearest `f64` to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Twofold {
    high: f64,
    low: f64,
}

impl Scalar for Twofold {
    #[inline(always)]
    fn of(high: f64, low: f64) -> Self {
        let sum = high + low;
        Twofold { high: sum, low: finite_or_zero(low - (sum - high)) }
    }
    #[inline(always)]
    fn high(self) -> f64 {
        self.high
    }
    #[inline(always)]
    fn low(self) -> f64 {
        self.low
    }
    #[inline(always)]
    fn times<S: Isa>(self, other: Self) -> Self {
        let [product, error] = two_product::<S>(self.high, other.high);
        Self::of(product, finite_or_zero(error + (self.high * other.low + self.low * other.high)))
    }
    #[inline(always)]
    fn over<S: Isa>(self, other: Self) -> Self {
        let quotient = self.high / other.high;
        let [product, error] = two_product::<S>(quotient, other.high);
        let rest = ((self.high - product) - error) + (self.low - quotient * other.low);
        Self::of(quotient, finite_or_zero(rest / other.high))
    }
    #[inline(always)]
    fn root<S: Isa>(self) -> Self {
        let root = self.high.sqrt();
        let [square, error] = two_product::<S>(root, root);
        let rest = ((self.high - square) - error) + self.low;
        Self::of(root, finite_or_zero(rest / (root + root)))
    }
}

/// Infinities and 0 leave a NaN where the error of an operation is computed.
#[inline(always)]
fn finite_or_zero(error: f64) -> f64 {
    if error.abs() < f64::INFINITY { error } else { 0.0 }
}

/// A product and what rounding it lost, exactly where neither overflows nor underflows.
#[inline(always)]
pub fn two_product<S: Isa>(a: f64, b: f64) -> [f64; 2] {
    let product = a * b;
    if S::FMA {
        return [product, a.mul_add(b, -product)];
    }
    let ([a_high, a_low], [b_high, b_low]) = (halves(a), halves(b));
    [product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low]
}

/// A number as a sum of two of 26 bits each: their products are exact.
#[inline(always)]
fn halves(x: f64) -> [f64; 2] {
    const SPLITTER: f64 = ((1_u64 << 27) + 1) as f64;
    let wide = SPLITTER * x;
    let high = wide - (wide - x);
    [high, x - high]
}

/// A sum and what rounding it lost, exactly.
#[inline(always)]
pub fn two_sum(a: f64, b: f64) -> [f64; 2] {
    let sum = a + b;
    let added = sum - a;
    [sum, (a - (sum - added)) + (b - added)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Baseline;

    #[test]
    fn what_rounding_loses_is_kept() {
        let third = Twofold::of(1.0, 0.0).over::<Baseline>(Twofold::of(3.0, 0.0));
        let one = third.times::<Baseline>(Twofold::of(3.0, 0.0));
        assert_eq!(one.high(), 1.0);
        assert!(one.low().abs() < 1e-31);
        // sqrt(2), to 40 digits: 1.4142135623730950488016887242096980785697.
        let root = Twofold::of(2.0, 0.0).root::<Baseline>();
        assert_eq!(root.high(), std::f64::consts::SQRT_2);
        assert!((root.low() - -9.667_293_313_452_913e-17).abs() < 1e-31);
    }

    #[test]
    fn products_are_exact() {
        let (a, b) = (1.0 + f64::EPSILON, 1.0 - f64::EPSILON);
        assert_eq!(two_product::<Baseline>(a, b), [1.0, -f64::EPSILON * f64::EPSILON]);
        assert_eq!(two_sum(1.0, f64::EPSILON / 4.0), [1.0, f64::EPSILON / 4.0]);
    }

    #[test]
    fn limits() {
        let [zero, infinity] = [0.0, f64::INFINITY].map(|x| Twofold::of(x, 0.0));
        assert_eq!(zero.root::<Baseline>(), zero);
        assert_eq!(infinity.root::<Baseline>(), infinity);
        assert_eq!(infinity.times::<Baseline>(infinity), infinity);
    }
}

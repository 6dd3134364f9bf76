//! What derivatives are multiplied by. It is an f64, which the type of computation may not be able to hold.

use crate::math::Real;

/// A factor of all rows, or of each.
pub enum Scale {
    /// One for all.
    All(f64),
    /// One for each.
    Each(Vec<f64>),
}

impl Scale {
    /// The factor of a row.
    pub fn of(&self, row: usize) -> f64 {
        match self {
            Scale::All(scale) => *scale,
            Scale::Each(scales) => scales[row],
        }
    }

    /// Divides all by one factor, which it returns, if `T` cannot hold them with all their digits.
    pub fn normalise<T: Real>(&mut self) -> f64 {
        let scales = match self {
            Scale::All(scale) => std::slice::from_mut(scale),
            Scale::Each(scales) => scales,
        };
        if scales.iter().all(|&scale| T::fits(scale)) {
            return 1.0;
        }
        let largest = scales.iter().fold(0.0, |largest: f64, scale| largest.max(scale.abs()));
        if largest == f64::INFINITY {
            return 1.0;
        }
        for scale in scales {
            *scale /= largest;
        }
        largest
    }
}

/// A factor of derivatives as one that `T` holds with all its digits, and the rest, to be multiplied by in f64.
#[inline(always)]
pub fn split<T: Real>(factor: f64) -> [f64; 2] {
    if T::fits(factor) { [factor, 1.0] } else { [1.0, factor] }
}

/// Multiplies by the rest of a factor, see [`split`].
#[inline(always)]
pub fn multiply<T: Real>(x: &mut [T], rest: f64) {
    if rest != 1.0 {
        multiply_wide(x, rest);
    }
}

/// Multiplies in f64 by a factor that the type of computation does not hold, which is rare.
#[cold]
#[inline(never)]
pub fn multiply_wide<T: Real>(x: &mut [T], factor: f64) {
    for x in x {
        *x = T::from_f64(x.to_f64() * factor);
    }
}

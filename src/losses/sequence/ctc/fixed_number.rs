//! Logarithms as fixed-point numbers: exact to 2^-64, and long enough for any sum of the inputs.

use std::array;
use std::cmp::Ordering;

/// Words for sums below 2^191: any sum of 2^60 inputs that are `f32`.
pub const SHORT_NUMBER: usize = 4;
/// Words for any sum of `f64`.
pub const LONG: usize = 18;
/// Sums of [`SHORT_NUMBER`] numbers have to stay below this.
pub const SHORT_LIMIT: f64 = (1_u128 << 95) as f64 * (1_u128 << 95) as f64;

/// A logarithm in two's complement: K words, the lowest first, which holds the fraction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FixedNumber<const K: usize>([u64; K]);

impl<const K: usize> FixedNumber<K> {
    /// The logarithm of 1.
    pub const ZERO: Self = FixedNumber([0; K]);
    /// The logarithm of 0, below all others.
    pub const NEG_INFINITY: Self = {
        let mut words = [0; K];
        words[K - 1] = 1 << 63;
        FixedNumber(words)
    };

    /// `x * 2^twos`, rounded to a multiple of 2^-64 towards 0.
    pub fn of(x: f64, twos: i32) -> Self {
        const FIELD: u64 = 52;
        if x == f64::NEG_INFINITY {
            return Self::NEG_INFINITY;
        }
        let exponent = ((x.to_bits() >> FIELD) & 0x7ff) as i32;
        let fraction = x.to_bits() & ((1 << FIELD) - 1);
        // Subnormal numbers are far below the last place.
        let mantissa = if exponent == 0 { 0 } else { fraction | 1 << FIELD };
        let shift = exponent - 1023 - FIELD as i32 + 64 + twos;
        let mut words = [0; K];
        if shift < 0 {
            words[0] = mantissa.checked_shr(shift.unsigned_abs()).unwrap_or(0);
        } else {
            let (word, bits) = (shift as usize / 64, shift % 64);
            words[word] = mantissa << bits;
            if bits > 0 && word + 1 < K {
                words[word + 1] = mantissa >> (64 - bits);
            }
        }
        let number = FixedNumber(words);
        if x < 0.0 { Self::ZERO.minus(number) } else { number }
    }

    pub fn plus(self, other: Self) -> Self {
        let mut carry = false;
        FixedNumber(array::from_fn(|i| {
            let (sum, first) = self.0[i].overflowing_add(other.0[i]);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            carry = first | second;
            sum
        }))
    }

    pub fn minus(self, other: Self) -> Self {
        let mut borrow = false;
        FixedNumber(array::from_fn(|i| {
            let (difference, first) = self.0[i].overflowing_sub(other.0[i]);
            let (difference, second) = difference.overflowing_sub(u64::from(borrow));
            borrow = first | second;
            difference
        }))
    }

    fn is_negative(self) -> bool {
        self.0[K - 1] >> 63 == 1
    }

    /// The logarithm of a product of numbers, from their logarithms.
    pub fn times(self, other: Self) -> Self {
        if self == Self::NEG_INFINITY || other == Self::NEG_INFINITY {
            Self::NEG_INFINITY
        } else {
            self.plus(other)
        }
    }

    /// The nearest `f64`, or one beside it.
    pub fn to_f64(self) -> f64 {
        const WORD: f64 = 18_446_744_073_709_551_616.0;
        if self == Self::NEG_INFINITY {
            return f64::NEG_INFINITY;
        }
        let size = if self.is_negative() { Self::ZERO.minus(self) } else { self };
        let whole = size.0[1..].iter().rev().fold(0.0, |sum, &word| sum * WORD + word as f64);
        let size = whole + size.0[0] as f64 / WORD;
        if self.is_negative() { -size } else { size }
    }

    /// `exp(self - top)`, for a `top` that is not less.
    fn relative_to(self, top: Self) -> f64 {
        let below = top.minus(self);
        if self == Self::NEG_INFINITY || below.0[2..].iter().any(|&word| word > 0) {
            return 0.0;
        }
        (-below.to_f64()).exp()
    }

    /// The logarithm of a sum of numbers, from their logarithms.
    pub fn sum(terms: impl Iterator<Item = Self> + Clone) -> Self {
        let top = terms.clone().max().unwrap_or(Self::NEG_INFINITY);
        if top == Self::NEG_INFINITY {
            return top;
        }
        let total: f64 = terms.map(|term| term.relative_to(top)).sum();
        top.plus(Self::of(total.ln(), 0))
    }

    /// The i-th number of a state row. Rows are made of the bits of `f64` because other arithmetics' rows are `f64`.
    pub fn read(row: &[f64], i: usize) -> Self {
        let words = &row[i * K..][..K];
        FixedNumber(array::from_fn(|word| words[word].to_bits()))
    }

    /// Writes the i-th number of a state row.
    pub fn write(self, row: &mut [f64], i: usize) {
        row[i * K..][..K].copy_from_slice(&self.0.map(f64::from_bits));
    }
}

impl<const K: usize> Ord for FixedNumber<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        let top = |number: &Self| number.0[K - 1] as i64;
        let rest = self.0[..K - 1].iter().rev().cmp(other.0[..K - 1].iter().rev());
        top(self).cmp(&top(other)).then(rest)
    }
}

impl<const K: usize> PartialOrd for FixedNumber<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact_however_far_apart() {
        let number = |x: f64| FixedNumber::<LONG>::of(x, 0);
        let far = number(-1e300).plus(number(0.375)).plus(number(1e-9));
        let near = far.minus(number(-1e300));
        assert!((near.to_f64() - (0.375 + 1e-9)).abs() <= f64::EPSILON);
        for x in [0.0, 1.0, -1.0, 0.1, -1e-10, 1e10, -3.4e38, f64::MAX, -f64::MAX] {
            assert!((number(x).to_f64() - x).abs() <= 1e-19, "{x}");
        }
        assert_eq!(FixedNumber::<SHORT_NUMBER>::of(-3.0, 2).to_f64(), -12.0);
    }

    #[test]
    fn numbers_have_the_order_of_what_they_stand_for() {
        let sorted = [f64::NEG_INFINITY, -1e30, -2.5, -1e-15, 0.0, 1e-15, 0.7, 1.0, 1e40];
        let numbers = sorted.map(|x| FixedNumber::<SHORT_NUMBER>::of(x, 0));
        assert!(numbers.is_sorted_by(|a, b| a < b));
        let sum = FixedNumber::sum(
            [0.25_f64, 0.5, 0.0].map(|p| FixedNumber::<SHORT_NUMBER>::of(p.ln(), 0)).into_iter(),
        );
        assert!((sum.to_f64().exp() - 0.75).abs() < 1e-15);
    }
}

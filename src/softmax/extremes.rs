//! The extremes of rows of logits, which decide how their exponentials are computed.
//!
//! A step looks at [`STEP`] elements and keeps an extreme for each place of it, so that the compiler keeps them in registers;
//! the last elements, where they fill no step, are looked at together with those before.

use crate::math::Real;
use crate::simd::{Isa, Kernel, fold};
use std::hint;

/// Elements of a row that are worked on in one step.
pub const STEP: usize = 16;

/// What is known of rows before their exponentials are.
pub struct RowExtremes<'a, T> {
    /// The largest element of each, of two zeros either; NaN is passed over.
    pub max: &'a mut [T],
    /// The smallest one; -infinity if any is not finite.
    pub least: &'a mut [T],
    /// Where the largest stands first, 0 if none is above -infinity. Of rows of 2^32 elements and more it says nothing.
    pub at: &'a mut [u32],
}

/// Finds the extremes of rows.
pub struct FindExtremes<'f, 'a, T, I> {
    pub rows: I,
    pub found: &'f mut RowExtremes<'a, T>,
}

impl<'r, T: Real, I: Iterator<Item = &'r [T]>> Kernel for FindExtremes<'_, '_, T, I> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let RowExtremes { max, least, at } = self.found;
        for (r, x) in self.rows.enumerate() {
            let (mut high, mut low) = ([-T::INFINITY; STEP], [T::INFINITY; STEP]);
            // 0 unless an element is not finite; then NaN.
            let mut not_finite = [T::ZERO; STEP];
            // Where the step begins that has the largest first.
            let mut from = [0_u32; STEP];
            let mut step = |begin: u32, x: &[T; STEP]| {
                for i in 0..STEP {
                    from[i] = if x[i] > high[i] { begin } else { from[i] };
                    high[i] = x[i].max(high[i]);
                    low[i] = x[i].min(low[i]);
                    not_finite[i] = x[i].mul_add::<S>(T::ZERO, not_finite[i]);
                }
            };
            let (whole, rest) = x.as_chunks::<STEP>();
            let mut begin = 0_u32;
            for x in whole {
                step(begin, x);
                begin = begin.wrapping_add(STEP as u32);
            }
            if !rest.is_empty() {
                step((x.len() as u32).wrapping_sub(STEP as u32), &last_step(x));
            }
            max[r] = fold(high, T::max);
            least[r] = bounded_below(fold(low, T::min) + fold(not_finite, T::add));
            let mut places = [0; STEP];
            for i in 0..STEP {
                // Copies before the first element of a short row come out large.
                let place = from[i].wrapping_add(i as u32);
                places[i] = if high[i] == max[r] { place } else { u32::MAX };
            }
            // Otherwise the compiler takes the places one by one.
            at[r] = fold(hint::black_box(places), u32::min);
        }
    }
}

/// -infinity for NaN, and other numbers as they are.
#[inline(always)]
pub fn bounded_below<T: Real>(least: T) -> T {
    least.max(-T::INFINITY)
}

/// The last elements of a row. A row with too few of them begins with copies of its first element.
#[inline(always)]
pub fn last_step<T: Real>(x: &[T]) -> [T; STEP] {
    if let Some(&last) = x.last_chunk() {
        return last;
    }
    let mut last = [x[0]; STEP];
    last[STEP - x.len()..].copy_from_slice(x);
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{self, Level};

    #[test]
    fn extremes_are_those_of_a_loop() {
        compare::<f32>();
        compare::<f64>();
    }

    fn compare<T: Real>() {
        let inf = T::INFINITY;
        let some = [T::ZERO, T::ONE, -T::ZERO, T::NAN, -inf, -T::ONE, -T::NAN, inf, T::HALF];
        for n in 0..=50 {
            for seed in 0..60 {
                // Of fewer and fewer kinds, for rows without infinity or NaN.
                let kinds = 1 + seed % some.len();
                let x = |i: usize| some[(i * i * 31 + i * 17 + seed * 7919) / 13 % kinds];
                let x: Vec<T> = (0..n).map(x).collect();
                let max = x.iter().fold(-inf, |max, &x| if x > max { x } else { max });
                let at = x.iter().position(|&x| x == max && max > -inf).unwrap_or(0);
                let finite = x.iter().all(|x| x.abs() < inf);
                let least = x.iter().fold(inf, |least, &x| if x < least { x } else { least });
                let expected = (max, at as u32, if finite { least } else { -inf });
                for level in Level::available() {
                    let (mut max, mut least, mut at) = ([T::ONE], [T::ONE], [1]);
                    let mut found = RowExtremes { max: &mut max, least: &mut least, at: &mut at };
                    let rows = std::iter::once(x.as_slice());
                    simd::dispatch(level, FindExtremes { rows, found: &mut found });
                    assert!(
                        (max[0], at[0], least[0]) == expected,
                        "{x:?}: {max:?} {at:?} {least:?}"
                    );
                }
            }
        }
    }
}

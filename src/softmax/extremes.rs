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
pub struct Extremes<'a, T> {
    /// The largest element of each; NaN is passed over.
    pub max: &'a mut [T],
    /// The smallest one; -infinity if any is not finite.
    pub least: &'a mut [T],
    /// Where the largest stands first, 0 if there is none but NaN.
    pub at: &'a mut [u32],
}

/// Finds the extremes of rows.
pub struct FindExtremes<'f, 'a, T, I> {
    pub rows: I,
    pub found: &'f mut Extremes<'a, T>,
}

impl<'r, T: Real, I: Iterator<Item = &'r [T]>> Kernel for FindExtremes<'_, '_, T, I> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let Extremes { max, least, at } = self.found;
        for (r, x) in self.rows.enumerate() {
            let (mut high, mut low) = ([-T::INFINITY; STEP], [T::INFINITY; STEP]);
            // 0 unless an element is not finite; then NaN.
            let mut odd = [T::ZERO; STEP];
            // Where the step begins that has the largest first.
            let mut from = [0_u32; STEP];
            let mut step = |begin: u32, x: &[T; STEP]| {
                for i in 0..STEP {
                    from[i] = if x[i] > high[i] { begin } else { from[i] };
                    high[i] = x[i].max(high[i]);
                    low[i] = x[i].min(low[i]);
                    odd[i] = x[i].mul_add::<S>(T::ZERO, odd[i]);
                }
            };
            let (whole, rest) = x.as_chunks::<STEP>();
            for (c, x) in (0..).zip(whole) {
                step(c * STEP as u32, x);
            }
            if !rest.is_empty() {
                step((x.len() as u32).wrapping_sub(STEP as u32), &last(x));
            }
            max[r] = fold(high, T::max);
            least[r] = bounded_below(fold(low, T::min) + fold(odd, T::add));
            for i in 0..STEP {
                // Copies before the first element of a short row come out large.
                let place = from[i].wrapping_add(i as u32);
                from[i] = if high[i] == max[r] { place } else { u32::MAX };
            }
            // Otherwise the compiler takes the places one by one.
            at[r] = fold(hint::black_box(from), u32::min);
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
pub fn last<T: Real>(x: &[T]) -> [T; STEP] {
    if let Some(&last) = x.last_chunk() {
        return last;
    }
    let mut last = [x[0]; STEP];
    last[STEP - x.len()..].copy_from_slice(x);
    last
}

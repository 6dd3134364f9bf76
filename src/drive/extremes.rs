//! What a run notices of the numbers that pass through it: boosters must be given no NaN, no infinity and no tiny second
//! derivative, and to look for them afterwards would take as long as to compute them.

use crate::num::Float;
use crate::simd::{Isa, Kernel, dispatch};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

/// Whether predictions and derivatives are finite, and the least second derivative.
pub struct Extremes {
    /// Whether a run has looked.
    seen: AtomicBool,
    not_finite: AtomicBool,
    /// The key of the least second derivative.
    least: AtomicI64,
}

impl Extremes {
    /// Those of no numbers.
    #[cfg(any(feature = "python", test))]
    pub fn new() -> Self {
        let least = AtomicI64::new(f64::INFINITY.key());
        Extremes { seen: AtomicBool::new(false), not_finite: AtomicBool::new(false), least }
    }

    /// Says that a run looks at its numbers.
    pub fn look(&self) {
        self.seen.store(true, Relaxed);
    }

    /// Looks at some elements.
    pub fn add<S: Isa, T: Float>(&self, pred: &[T], grad: Option<&[T]>, hess: Option<&[T]>) {
        for x in [Some(pred), grad, hess].into_iter().flatten() {
            if !dispatch(S::LEVEL, AllFinite(x)) {
                self.not_finite.store(true, Relaxed);
            }
        }
        if let Some(hess) = hess {
            let least = dispatch(S::LEVEL, Least(hess));
            self.least.fetch_min(least.to_f64().key(), Relaxed);
        }
    }

    /// Whether all numbers are finite, and the least second derivative, infinity if there is none. Nothing if no run has
    /// looked.
    #[cfg(any(feature = "python", test))]
    pub fn found(&self) -> Option<(bool, f64)> {
        let found = (!self.not_finite.load(Relaxed), f64::from_key(self.least.load(Relaxed)));
        self.seen.load(Relaxed).then_some(found)
    }
}

/// [`Float::all_finite`].
struct AllFinite<'x, T>(&'x [T]);

impl<T: Float> Kernel for AllFinite<'_, T> {
    type Output = bool;
    #[inline(always)]
    fn run<S: Isa>(self) -> bool {
        T::all_finite::<S>(self.0)
    }
}

/// [`Float::least`].
struct Least<'x, T>(&'x [T]);

impl<T: Float> Kernel for Least<'_, T> {
    type Output = T;
    #[inline(always)]
    fn run<S: Isa>(self) -> T {
        T::least(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Baseline;

    #[test]
    fn what_is_not_finite_is_noticed_wherever_it_is() {
        for len in [1, 100, 128, 300] {
            for at in 0..len {
                for x in [f32::NAN, -f32::NAN, f32::INFINITY, -f32::INFINITY] {
                    let mut numbers = vec![f32::MAX; len];
                    let all_finite = |numbers: &[f32]| {
                        let extremes = Extremes::new();
                        extremes.look();
                        extremes.add::<Baseline, _>(numbers, None, None);
                        extremes.found().is_some_and(|(all_finite, _)| all_finite)
                    };
                    assert!(all_finite(&numbers));
                    numbers[at] = x;
                    assert!(!all_finite(&numbers), "{x} at {at} of {len}");
                }
            }
        }
    }

    #[test]
    fn the_least_number_is_found_wherever_it_is() {
        for len in [1, 100, 128, 300] {
            for (at, x) in (0..len).flat_map(|at| [0.5, 0.0, -0.0, -3.0].map(|x| (at, x))) {
                let mut numbers = vec![2.0; len];
                numbers[at] = x;
                let extremes = Extremes::new();
                extremes.look();
                extremes.add::<Baseline, f64>(&[], None, Some(&numbers));
                let least = extremes.found().map(|(_, least)| least);
                assert_eq!(least.map(f64::to_bits), Some(f64::to_bits(x)), "at {at} of {len}");
            }
        }
    }
}

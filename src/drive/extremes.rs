//! What a run notices of the numbers that pass through it: boosters must be given no NaN, no infinity and no tiny second
//! derivative, and to look for them afterwards would take as long as to compute them.

use crate::num::Float;
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
    #[cfg(feature = "python")]
    pub fn new() -> Self {
        let least = AtomicI64::new(f64::INFINITY.key());
        Extremes { seen: AtomicBool::new(false), not_finite: AtomicBool::new(false), least }
    }

    /// Says that a run looks at its numbers.
    pub fn look(&self) {
        self.seen.store(true, Relaxed);
    }

    /// Looks at some elements.
    #[inline(always)]
    pub fn add<T: Float>(&self, pred: &[T], grad: Option<&[T]>, hess: Option<&[T]>) {
        let mut most = T::ZERO.key();
        for x in [Some(pred), grad, hess].into_iter().flatten() {
            most = x.iter().fold(most, |most, x| most.max(x.abs().key()));
        }
        if most >= T::INFINITY.key() {
            self.not_finite.store(true, Relaxed);
        }
        if let Some(hess) = hess {
            let least = hess.iter().fold(T::INFINITY.key(), |least, x| least.min(x.key()));
            self.least.fetch_min(T::from_key(least).to_f64().key(), Relaxed);
        }
    }

    /// Whether all numbers are finite, and the least second derivative, infinity if there is none. Nothing if no run has
    /// looked.
    #[cfg(feature = "python")]
    pub fn found(&self) -> Option<(bool, f64)> {
        let found = (!self.not_finite.load(Relaxed), f64::from_key(self.least.load(Relaxed)));
        self.seen.load(Relaxed).then_some(found)
    }
}

//! Groups of eight states, each in one register where the CPU has such registers.

use crate::simd::F64x8;
use std::hint;

/// The groups of a row; a remainder that fills no group is left out.
#[inline(always)]
pub fn as_groups(x: &[f64]) -> &[F64x8] {
    x.as_chunks().0
}

/// To be called in every round of a loop over groups. Each group is a vector already; without this the compiler sees a
/// loop that it could vectorise across groups, and gathers and scatters their elements.
#[inline(always)]
pub fn keep_groups_apart() {
    hint::black_box(());
}

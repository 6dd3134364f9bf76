//! Groups of eight states, each in one register where the CPU has such registers.

use crate::simd::F64x8;
use std::hint;

/// The groups of a row; a remainder that fills no group is left out.
#[inline(always)]
pub fn as_groups(x: &[f64]) -> &[F64x8] {
    x.as_chunks().0
}

/// All elements of a vector in one: the upper half onto the lower half, until one is left.
#[inline(always)]
pub fn fold<T: Copy, const N: usize>(mut x: [T; N], f: impl Fn(T, T) -> T) -> T {
    let mut n = N / 2;
    while n > 0 {
        for i in 0..n {
            x[i] = f(x[i], x[i + n]);
        }
        n /= 2;
    }
    x[0]
}

/// To be called in every round of a loop over groups. Each group is a vector already; without this the compiler sees a
/// loop that it could vectorise across groups, and gathers and scatters their elements.
#[inline(always)]
pub fn keep_groups_apart() {
    hint::black_box(());
}

//! State rows of the lattice: a row of blanks, a row of labels of the same width, and a group of zeros.
//!
//! The rows touch, so the place before label 0 is the last blank's padding, and the place behind the last label is in
//! the group of zeros: a step may read one place too far in either row and finds a 0 there.

use super::frames::GROUP;
use super::target::CtcTarget;
use crate::simd::F64x8;
use std::ops::Range;

/// Some groups of the blanks and of the labels of a state row.
#[inline(always)]
pub fn blanks_and_labels<'a>(
    row: &'a [F64x8],
    target: &CtcTarget,
    groups: &Range<usize>,
) -> [&'a [F64x8]; 2] {
    let (blanks, labels) = row.split_at(target.width() / GROUP);
    [blanks, labels].map(|states| &states[groups.start..][..groups.len()])
}

/// As [`blanks_and_labels`], to write.
#[inline(always)]
pub fn blanks_and_labels_mut<'a>(
    row: &'a mut [F64x8],
    target: &CtcTarget,
    groups: &Range<usize>,
) -> [&'a mut [F64x8]; 2] {
    let (blanks, labels) = row.split_at_mut(target.width() / GROUP);
    [blanks, labels].map(|states| &mut states[groups.start..][..groups.len()])
}

/// The places of some groups in a state row: those of the blanks, and those of the labels.
#[inline(always)]
pub fn places(target: &CtcTarget, groups: &Range<usize>) -> [Range<usize>; 2] {
    [0, target.width()].map(|first| first + groups.start * GROUP..first + groups.end * GROUP)
}

/// Copies some groups of a state row, and zeros elsewhere.
pub fn copy_groups(from: &[f64], to: &mut [f64], target: &CtcTarget, groups: &Range<usize>) {
    to[..target.row_len()].fill(0.0);
    for places in places(target, groups) {
        to[places.clone()].copy_from_slice(&from[places]);
    }
}

/// Numbers of a state row of mantissas and of a row of the exponents that belong to them.
pub fn state_len(target: &CtcTarget) -> usize {
    2 * target.row_len()
}

/// The state row of mantissas and exponents before any frame.
pub fn start(state: &mut [f64], first: usize) {
    state.fill(0.0);
    state[first] = 1.0;
}

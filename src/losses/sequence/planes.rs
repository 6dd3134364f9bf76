//! Rows of a lattice: planes of numbers, and vector steps along them.

use super::LANES;
use super::target::Target;
use crate::error::Result;
pub(super) use crate::simd::Octet;
use crate::{memory, threads};
use std::hint;
use std::mem;
use std::ops::{Deref, DerefMut, Range};
use std::slice::ChunksExactMut;

/// Numbers from the start of a cache line on, so that no group of them is split between two lines.
#[derive(Default)]
pub(super) struct Lines {
    memory: Vec<f64>,
    start: usize,
    len: usize,
}

impl Lines {
    const LINE: usize = 64;
    const SLACK: usize = Self::LINE / size_of::<f64>() - 1;

    /// The first `len` numbers of what grows as needed; they may be any.
    pub fn sized(&mut self, len: usize) -> Result<&mut [f64]> {
        sized(&mut self.memory, len.saturating_add(Self::SLACK))?;
        let start = self.memory.as_ptr().align_offset(Self::LINE).min(Self::SLACK);
        (self.start, self.len) = (start, len);
        Ok(self)
    }

    /// What it takes, numbers.
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }
}

impl Deref for Lines {
    type Target = [f64];

    fn deref(&self) -> &[f64] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [f64] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// The first `len` elements of a buffer that grows as needed.
pub(super) fn sized<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> Result<&mut [T]> {
    // What the system takes some milliseconds to give.
    const UNCHECKED: usize = 1 << 21;
    memory::reserve(buffer, len.saturating_sub(buffer.len()))?;
    while buffer.len() < len {
        threads::check()?;
        memory::grow(buffer, len.min(buffer.len() + UNCHECKED), T::default())?;
    }
    Ok(&mut buffer[..len])
}

/// `2^bits` for whole `bits`: 0 below, and 2^1023 above the range of normal numbers.
#[inline(always)]
pub(super) fn power_of_two(bits: f64) -> f64 {
    const SHIFT: f64 = (1_u64 << 52) as f64;
    let bits = bits.min(1023.0);
    let power = f64::from_bits((bits.max(-1022.0) + (SHIFT + 1023.0)).to_bits() << 52);
    if bits < -1022.0 { 0.0 } else { power }
}

/// `(m, k)` with `x = m * 2^k` and m in [1, 2), for a positive normal x.
#[inline(always)]
pub(super) fn split(x: f64) -> (f64, f64) {
    const SHIFT: f64 = (1_u64 << 52) as f64;
    const MANTISSA: u64 = (1 << 52) - 1;
    let k = f64::from_bits((x.to_bits() >> 52) | SHIFT.to_bits()) - (SHIFT + 1023.0);
    (f64::from_bits((x.to_bits() & MANTISSA) | 1.0_f64.to_bits()), k)
}

/// All elements of a vector in one, halves by halves.
#[inline(always)]
pub(super) fn fold<T: Copy, const N: usize>(mut x: [T; N], f: impl Fn(T, T) -> T) -> T {
    let mut n = N / 2;
    while n > 0 {
        for i in 0..n {
            x[i] = f(x[i], x[i + n]);
        }
        n /= 2;
    }
    x[0]
}

/// Where groups are gone through: the compiler must not see a loop that it could make vectors of across groups, gathering
/// and scattering their elements. Each group is a vector already.
#[inline(always)]
pub(super) fn one_by_one() {
    hint::black_box(());
}

/// The groups of a slice.
#[inline(always)]
pub(super) fn lanes(x: &[f64]) -> &[Octet] {
    x.as_chunks().0
}

/// Some groups of the two planes of a row.
#[inline(always)]
pub(super) fn planes<'a>(
    row: &'a [Octet],
    target: &Target,
    groups: &Range<usize>,
) -> [&'a [Octet]; 2] {
    let (blank, label) = row.split_at(target.width / LANES);
    [blank, label].map(|plane| &plane[groups.start..][..groups.len()])
}

/// The same, to write.
#[inline(always)]
pub(super) fn planes_mut<'a>(
    row: &'a mut [Octet],
    target: &Target,
    groups: &Range<usize>,
) -> [&'a mut [Octet]; 2] {
    let (blank, label) = row.split_at_mut(target.width / LANES);
    [blank, label].map(|plane| &mut plane[groups.start..][..groups.len()])
}

/// Copies the groups of a row that are valid, and zeros elsewhere.
pub(super) fn copy_row(from: &[f64], to: &mut [f64], target: &Target, groups: &Range<usize>) {
    to[..target.row()].fill(0.0);
    for plane in [0, target.width] {
        let valid = plane + groups.start * LANES..plane + groups.end * LANES;
        to[valid.clone()].copy_from_slice(&from[valid]);
    }
}

/// Rows each of which is made from the one before: all that there are, then the last two in turn.
pub(super) struct Steps<'a, T> {
    pub last: &'a mut [T],
    next: &'a mut [T],
    fresh: ChunksExactMut<'a, T>,
}

impl<'a, T> Steps<'a, T> {
    pub fn new(rows: &'a mut [T], len: usize) -> Self {
        let mut fresh = rows.chunks_exact_mut(len);
        Steps { last: &mut [], next: fresh.next().unwrap_or_default(), fresh }
    }

    /// The row before, none for the first one, and the row to be made.
    #[inline(always)]
    pub fn pair(&mut self) -> (&[T], &mut [T]) {
        (self.last, self.next)
    }

    /// Goes on to the next row.
    #[inline(always)]
    pub fn turn(&mut self) {
        mem::swap(&mut self.last, &mut self.next);
        if let Some(fresh) = self.fresh.next() {
            self.next = fresh;
        }
    }
}

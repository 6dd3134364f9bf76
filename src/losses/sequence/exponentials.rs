//! Sums of the exponentials of a frame: all but the largest apart, so that nothing is lost when they are tiny.

use super::LANES;
use super::frames::BATCH;
use super::planes::Octet;
use crate::real::Real;
use crate::simd::Isa;
use std::array;

/// Elements of a vector step along the classes.
pub(super) const STEP: usize = 16;

/// Vector steps whose sums are kept in the type of the row.
const STEPS: usize = 16;

/// Exponentials in sums: all but the largest ones, and how many of these there are, each of them 1.
#[derive(Clone, Copy)]
pub(super) struct Sums<R> {
    others: [f64; STEP],
    pub largest: [R; STEP],
}

impl<R: Real> Sums<R> {
    pub const NONE: Self = Sums { others: [0.0; STEP], largest: [R::ZERO; STEP] };

    #[inline(always)]
    fn add(&mut self, part: &Part<R>) {
        for i in 0..STEP {
            self.others[i] += part.others[i].to_f64();
            self.largest[i] += part.largest[i];
        }
    }
}

/// The sums of a batch of frames, to be added up side by side.
pub(super) struct Folded {
    others: [Octet; BATCH],
    largest: [Octet; BATCH],
}

impl Folded {
    pub const NONE: Self = Folded { others: [[0.0; LANES]; BATCH], largest: [[0.0; LANES]; BATCH] };

    #[inline(always)]
    pub fn put<S: Isa, R: Real>(&mut self, i: usize, sums: &Sums<R>) {
        let halves = sums.others.as_chunks().0;
        self.others[i] = S::add(&halves[0], &halves[1]);
        self.largest[i] =
            array::from_fn(|l| (sums.largest[l] + sums.largest[l + STEP / 2]).to_f64());
    }

    /// The sum of all but one of the largest, for each frame.
    #[inline(always)]
    pub fn other<S: Isa>(&self) -> [f64; BATCH] {
        let mut other = [0.0; BATCH];
        let rows = self.others.as_chunks().0.iter().zip(self.largest.as_chunks().0);
        for (other, (others, largest)) in other.as_chunks_mut::<LANES>().0.iter_mut().zip(rows) {
            let (others, largest) = (S::row_sums(others), S::row_sums(largest));
            *other = array::from_fn(|i| others[i] + (largest[i] - 1.0));
        }
        other
    }
}

/// The sums of `exp(x, max)`, which is `exp(x - max)`, over all elements. Stores them if `STORE`.
#[inline(always)]
pub(super) fn exponentials<R: Real, const STORE: bool>(
    x: &[R],
    max: R,
    out: &mut [R],
    exp: impl Fn(R, R) -> R,
) -> Sums<R> {
    let mut sums = Sums::NONE;
    let (whole, rest) = x.as_chunks::<STEP>();
    let (out, out_rest) = out.as_chunks_mut::<STEP>();
    for (block, steps) in whole.chunks(STEPS).enumerate() {
        let mut part = Part::NONE;
        for (k, x) in steps.iter().enumerate() {
            let e = part.step(x, max, &exp);
            if STORE {
                out[block * STEPS + k] = e;
            }
        }
        sums.add(&part);
    }
    if !rest.is_empty() {
        // Padded with numbers whose exponential is 0.
        let mut last = [-R::INFINITY; STEP];
        last[..rest.len()].copy_from_slice(rest);
        let mut part = Part::NONE;
        let e = part.step(&last, max, &exp);
        if STORE {
            out_rest.copy_from_slice(&e[..rest.len()]);
        }
        sums.add(&part);
    }
    sums
}

/// [`Sums`] over a few steps, in the type of the row.
struct Part<R> {
    others: [R; STEP],
    largest: [R; STEP],
}

impl<R: Real> Part<R> {
    const NONE: Self = Part { others: [R::ZERO; STEP], largest: [R::ZERO; STEP] };

    /// Adds exponentials, and returns them.
    #[inline(always)]
    fn step(&mut self, x: &[R; STEP], max: R, exp: &impl Fn(R, R) -> R) -> [R; STEP] {
        let mut e = [R::ZERO; STEP];
        for i in 0..STEP {
            e[i] = exp(x[i], max);
            let largest = x[i] == max;
            self.others[i] += if largest { R::ZERO } else { e[i] };
            self.largest[i] += if largest { R::ONE } else { R::ZERO };
        }
        e
    }
}

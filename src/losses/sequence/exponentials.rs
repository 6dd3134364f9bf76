//! The exponentials of a frame and their sums: all but the largest apart, so that nothing is lost when they are tiny.

use super::LANES;
use super::frames::BATCH;
use super::planes::{Octet, fold};
use crate::math::Real;
use crate::num::Float;
use crate::simd::Isa;
use std::array;

/// Elements of a vector step along the classes.
pub(super) const STEP: usize = 16;

/// Vector steps whose sums are kept in the type of the row.
const STEPS: usize = 16;

/// What is known of a row before its exponentials are.
#[derive(Clone, Copy)]
pub(super) struct Extremes<R> {
    /// The largest element; NaN is passed over.
    pub max: R,
    /// Whether all elements are finite and not further below it than [`Real::NEAR`].
    near: bool,
}

impl<R: Real> Extremes<R> {
    pub const NONE: Self = Extremes { max: R::ZERO, near: false };

    #[inline(always)]
    pub fn of<S: Isa>(x: &[R]) -> Self {
        let (mut high, mut low) = ([-R::INFINITY; STEP], [R::INFINITY; STEP]);
        // 0, or NaN where an element is not finite.
        let mut odd = [R::ZERO; STEP];
        let mut step = |x: &[R; STEP]| {
            for i in 0..STEP {
                high[i] = x[i].max(high[i]);
                low[i] = x[i].min(low[i]);
                odd[i] = x[i].mul_add::<S>(R::ZERO, odd[i]);
            }
        };
        let (whole, rest) = x.as_chunks::<STEP>();
        whole.iter().for_each(&mut step);
        if !rest.is_empty() {
            step(&last(x));
        }
        let max = fold(high, Float::max);
        let mut near = true;
        for i in 0..STEP {
            near &= max - (low[i] + odd[i]) <= R::NEAR;
        }
        Extremes { max, near }
    }
}

/// The last elements of a row, and others of it before them if it has too few.
#[inline(always)]
fn last<R: Real>(x: &[R]) -> [R; STEP] {
    if let Some(&last) = x.last_chunk() {
        return last;
    }
    let mut last = [x[0]; STEP];
    last[STEP - x.len()..].copy_from_slice(x);
    last
}

/// The exponentials of several frames in sums: all but the largest ones, and how many of these there are, each of them 1.
pub(super) struct Sums<R> {
    /// Of all blocks of steps but the last.
    before: [Octet; BATCH],
    last: [Part<R>; BATCH],
}

impl<R: Real> Sums<R> {
    pub const NONE: Self = Sums { before: [[0.0; LANES]; BATCH], last: [Part::NONE; BATCH] };

    /// The sum of all but one of the largest, for each frame.
    #[inline(always)]
    pub fn other<S: Isa>(&self) -> [f64; BATCH] {
        let (mut others, mut largest) = ([[0.0; LANES]; BATCH], [[0.0; LANES]; BATCH]);
        for (i, part) in self.last.iter().enumerate() {
            others[i] = S::add(&self.before[i], &part.others());
            largest[i] = part.largest();
        }
        let mut other = [0.0; BATCH];
        let rows = others.as_chunks().0.iter().zip(largest.as_chunks().0);
        for (other, (others, largest)) in other.as_chunks_mut::<LANES>().0.iter_mut().zip(rows) {
            let (others, largest) = (S::row_sums(others), S::row_sums(largest));
            *other = array::from_fn(|i| others[i] + (largest[i] - 1.0));
        }
        other
    }

    /// Fills `out` with `exp(x - max)` of frame i, and adds them up.
    #[inline(always)]
    pub fn exponentials<S: Isa>(
        &mut self,
        i: usize,
        x: &[R],
        &Extremes { max, near }: &Extremes<R>,
        out: &mut [R],
    ) {
        if max == -R::INFINITY {
            // Nothing to be relative to, unless there is a NaN.
            out.fill(R::ZERO);
            let possible = x.iter().all(|&x| x < R::INFINITY);
            self.before[i] = [0.0; LANES];
            self.last[i] = Part::NONE;
            self.last[i].largest[0] = if possible { R::ONE } else { R::NAN };
        } else if near {
            self.steps::<S>(i, x, out, |x| x.exp_near::<S>(max), max);
        } else {
            self.steps::<S>(i, x, out, |x| x.exp_difference::<S>(max), max);
        }
    }

    #[inline(always)]
    fn steps<S: Isa>(&mut self, i: usize, x: &[R], out: &mut [R], exp: impl Fn(R) -> R, max: R) {
        let (whole, rest) = x.as_chunks::<STEP>();
        let blocks = whole.chunks(STEPS).zip(out.as_chunks_mut::<STEP>().0.chunks_mut(STEPS));
        let mut part = Part::NONE;
        self.before[i] = [0.0; LANES];
        for (block, (x, out)) in blocks.enumerate() {
            if block > 0 {
                self.before[i] = S::add(&self.before[i], &part.others());
                part.others = [R::ZERO; STEP];
            }
            for (x, out) in x.iter().zip(out) {
                *out = part.step(x, max, &exp, 0);
            }
        }
        if !rest.is_empty() {
            let from = STEP - rest.len();
            let e = part.step(&last(x), max, &exp, from);
            out[x.len() - rest.len()..].copy_from_slice(&e[from..]);
        }
        self.last[i] = part;
    }
}

/// Sums of the exponentials of a frame by their place in a step: all but the largest, not more of them than [`STEPS`]
/// steps, and how many are the largest.
#[derive(Clone, Copy)]
struct Part<R> {
    others: [R; STEP],
    largest: [R; STEP],
}

impl<R: Real> Part<R> {
    const NONE: Self = Part { others: [R::ZERO; STEP], largest: [R::ZERO; STEP] };

    #[inline(always)]
    fn others(&self) -> Octet {
        array::from_fn(|i| self.others[i].to_f64() + self.others[i + LANES].to_f64())
    }

    #[inline(always)]
    fn largest(&self) -> Octet {
        array::from_fn(|i| (self.largest[i] + self.largest[i + LANES]).to_f64())
    }

    /// Returns exponentials, and adds them up from `from` on.
    #[inline(always)]
    fn step(&mut self, x: &[R; STEP], max: R, exp: &impl Fn(R) -> R, from: usize) -> [R; STEP] {
        let mut e = [R::ZERO; STEP];
        for i in 0..STEP {
            e[i] = exp(x[i]);
            let [other, largest] = [self.others[i], self.largest[i]];
            let counted =
                if x[i] == max { [other, largest + R::ONE] } else { [other + e[i], largest] };
            [self.others[i], self.largest[i]] = if i < from { [other, largest] } else { counted };
        }
        e
    }
}

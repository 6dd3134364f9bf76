//! The softmax of the frames of a sequence: of many short rows at once, whose sums stay in the type of the row.
//!
//! Where the forms of this folder give each row the bits that it has alone and add up in f64, this one is for losses that
//! add up paths through all frames of a sequence in f64 anyway, and for which a row is a small part of the work: it takes two
//! thirds of the time. The exponentials are the same. Every largest logit, not only the first, is counted apart from the sum
//! of all other exponentials, so that this sum loses nothing when it is tiny: the loss of a sure model consists of it.

use crate::math::Real;
use crate::num::Float;
use crate::simd::{F64x8, GROUP, Isa, fold};
use std::array;

/// The most frames that are worked on together, to keep the pipeline full.
pub const FRAMES_TOGETHER: usize = 16;

/// Elements of a vector step along the classes.
const STEP: usize = 16;

/// Vector steps whose sums are kept in the type of the row.
const STEPS: usize = 16;

/// The softmax of up to [`FRAMES_TOGETHER`] frames.
pub struct FrameSoftmax<R> {
    /// The largest logits; NaN is passed over.
    pub max: [R; FRAMES_TOGETHER],
    /// The sums of exp(x - max), one of the largest left out.
    pub others: [f64; FRAMES_TOGETHER],
    /// Their parts over all blocks of [`STEPS`] steps but the last.
    before: [F64x8; FRAMES_TOGETHER],
    last: [PartialSums<R>; FRAMES_TOGETHER],
}

/// The extremes of a row, which decide how its exponentials are computed.
#[derive(Clone, Copy)]
struct FrameExtremes<R> {
    /// The largest element; NaN is passed over.
    max: R,
    /// Whether all elements are finite, and none lies further below the largest than [`Real::NEAR`].
    near: bool,
}

impl<R: Real> FrameExtremes<R> {
    const NONE: Self = FrameExtremes { max: R::ZERO, near: false };

    #[inline(always)]
    fn of<S: Isa>(x: &[R]) -> Self {
        let (mut high, mut low) = ([-R::INFINITY; STEP], [R::INFINITY; STEP]);
        // Stays 0 unless an element is not finite; then it becomes NaN.
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
        FrameExtremes { max, near }
    }
}

/// The last elements of a row. A row with too few of them begins with copies of its first element.
#[inline(always)]
fn last<R: Real>(x: &[R]) -> [R; STEP] {
    if let Some(&last) = x.last_chunk() {
        return last;
    }
    let mut last = [x[0]; STEP];
    last[STEP - x.len()..].copy_from_slice(x);
    last
}

impl<R: Real> FrameSoftmax<R> {
    /// Of no frames.
    pub const NONE: Self = FrameSoftmax {
        max: [R::ZERO; FRAMES_TOGETHER],
        others: [0.0; FRAMES_TOGETHER],
        before: [[0.0; GROUP]; FRAMES_TOGETHER],
        last: [PartialSums::NONE; FRAMES_TOGETHER],
    };

    /// Of the logits `x`, with exp(x - max) in `exps`. Each step is taken for all frames before the next.
    #[inline(always)]
    pub fn fill<S: Isa>(&mut self, x: &[&[R]], exps: &mut [&mut [R]]) {
        let mut extremes = [FrameExtremes::NONE; FRAMES_TOGETHER];
        for ((x, extremes), max) in x.iter().zip(&mut extremes).zip(&mut self.max) {
            *extremes = FrameExtremes::of::<S>(x);
            *max = extremes.max;
        }
        for (i, (x, exps)) in x.iter().zip(exps).enumerate() {
            self.exponentials::<S>(i, x, extremes[i], exps);
        }
        self.others = self.excluding_max::<S>();
    }

    #[inline(always)]
    fn excluding_max<S: Isa>(&self) -> [f64; FRAMES_TOGETHER] {
        let (mut others, mut largest) =
            ([[0.0; GROUP]; FRAMES_TOGETHER], [[0.0; GROUP]; FRAMES_TOGETHER]);
        for (i, part) in self.last.iter().enumerate() {
            others[i] = S::add(&self.before[i], &part.others());
            largest[i] = part.largest();
        }
        let mut sums = [0.0; FRAMES_TOGETHER];
        let rows = others.as_chunks().0.iter().zip(largest.as_chunks().0);
        for (sum, (others, largest)) in sums.as_chunks_mut::<GROUP>().0.iter_mut().zip(rows) {
            let (others, largest) = (S::row_sums(others), S::row_sums(largest));
            *sum = array::from_fn(|i| others[i] + (largest[i] - 1.0));
        }
        sums
    }

    /// Fills `out` with `exp(x - max)` of frame i, and adds them up.
    #[inline(always)]
    fn exponentials<S: Isa>(
        &mut self,
        i: usize,
        x: &[R],
        FrameExtremes { max, near }: FrameExtremes<R>,
        out: &mut [R],
    ) {
        if max == -R::INFINITY {
            // All logits are -inf, or NaN: there is no finite one to subtract.
            out.fill(R::ZERO);
            let possible = x.iter().all(|&x| x < R::INFINITY);
            self.before[i] = [0.0; GROUP];
            self.last[i] = PartialSums::NONE;
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
        let mut part = PartialSums::NONE;
        self.before[i] = [0.0; GROUP];
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

/// Sums of the exponentials of a frame, one for each place of a step: all but the largest, over at most [`STEPS`]
/// steps; and how many are the largest.
#[derive(Clone, Copy)]
struct PartialSums<R> {
    others: [R; STEP],
    largest: [R; STEP],
}

impl<R: Real> PartialSums<R> {
    const NONE: Self = PartialSums { others: [R::ZERO; STEP], largest: [R::ZERO; STEP] };

    #[inline(always)]
    fn others(&self) -> F64x8 {
        array::from_fn(|i| self.others[i].to_f64() + self.others[i + GROUP].to_f64())
    }

    #[inline(always)]
    fn largest(&self) -> F64x8 {
        array::from_fn(|i| (self.largest[i] + self.largest[i + GROUP]).to_f64())
    }

    /// Returns the exponentials of a step, and adds up those from place `from` on.
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

//! The first pass over the frames: the softmax of every row, and the emissions of the labels and the blank.
//!
//! Emissions are relative to the largest logit of their frame, `e = exp(x - shift)`, so that none exceeds 1. The
//! lattice adds up paths through these; the rest of the loss is the `base` of each frame, `log(sum of exp(x)) - shift`.
//! It is computed from the sum of all exponentials but the largest, so that nothing is lost when that sum is tiny.
//!
//! The exponentials of a row are written to the gradient, if one is wanted, in the type of the row, and the emissions
//! are read from them. Where an emission is too small for that type, the emissions of the frame are computed again in
//! `f64`, relative to the largest of them. The emissions of log-probabilities are always computed like that: there is
//! no sum of a softmax, and a loss can be small beside what the emissions of many frames lose to a narrow type.
//!
//! Emissions further than [`FAR_LOGIT`] below the largest are 0 at first, for they are masks as a rule. The status says
//! how far away they were, so that the lattice can tell whether a path through one of them matters.

use super::GROUP;
use super::array::{FrameArray, FrameArrayMut, FrameRow, FrameRowMut};
use super::blocks::ALONE;
use super::emissions::{FAR_LOGIT, Frame};
use super::layout::EmissionLayout;
use crate::drive::scale::multiply_wide;
use crate::error::Result;
use crate::math::Real;
use crate::num::Float;
use crate::simd::{Isa, Kernel, dispatch, fold};
use crate::softmax::{FRAMES_TOGETHER, FrameSoftmax};
use crate::{memory, threads};
use std::array;
use std::ops::Range;

/// The most elements of the rows that are worked on together.
const TOGETHER_ELEMENTS: usize = 4096;

/// Elements of the rows between two looks at whether the call is to stop.
const UNCHECKED_ELEMENTS: usize = 1 << 17;

/// Elements of a log-probability row that are looked at together.
const CHECKED: usize = 16;

/// Emissions below this are computed again in `f64`.
const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

/// What frames hold, and what the gradient is the derivative by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// Numbers of any size; the softmax is part of the loss.
    Logits,
    /// Logarithms of probabilities, which need not add up to 1. The gradient is the derivative by them.
    LogProbs,
    /// Logarithms of probabilities, with the gradient by the logits of a softmax that is taken to have made them.
    LogProbsTorch,
}

/// What is unusual in the inputs of some frames of a sample.
#[derive(Clone, Copy, Debug)]
pub struct FrameStatus {
    /// Some input is NaN or +inf.
    pub nan: bool,
    /// In some frame all classes that occur have probability 0.
    pub impossible: bool,
    /// The least distance from the largest emission of a frame at which an emission was set to 0, in nats; infinite if
    /// none was.
    pub nearest_far: f64,
    /// The greatest distance of any emission, in nats.
    pub furthest: f64,
}

impl FrameStatus {
    pub const ORDINARY: Self =
        FrameStatus { nan: false, impossible: false, nearest_far: f64::INFINITY, furthest: 0.0 };

    /// The status of two ranges of frames together.
    pub fn and(self, other: Self) -> Self {
        FrameStatus {
            nan: self.nan | other.nan,
            impossible: self.impossible | other.impossible,
            nearest_far: self.nearest_far.min(other.nearest_far),
            furthest: self.furthest.max(other.furthest),
        }
    }
}

/// The pass over a range of frames of sample `n`. No two passes over the same frame run at once.
pub struct FramePass<'a, R> {
    pub rows: &'a FrameArray<'a, R>,
    pub n: usize,
    pub input: InputKind,
    pub layout: &'a EmissionLayout,
    /// The first frame of the range.
    pub first: usize,
    /// Where the terms of each frame of the range go.
    pub frames: &'a mut [Frame],
    /// Where their emission rows go, if they are kept.
    pub table: Option<&'a mut [f64]>,
    /// Where the softmax, times a factor, goes.
    pub grad: Option<(&'a FrameArrayMut<'a, R>, f64)>,
}

impl<R: Real> Kernel for FramePass<'_, R> {
    type Output = Result<FrameStatus>;

    #[inline(always)]
    fn run<S: Isa>(mut self) -> Result<FrameStatus> {
        let (classes, stride) = (self.rows.width(), self.layout.stride());
        let together = (TOGETHER_ELEMENTS / classes.max(1)).clamp(1, FRAMES_TOGETHER);
        let most = together.min(self.frames.len());
        let in_place = self.grad.is_some_and(|(grad, _)| grad.is_direct());
        let zeros = |len| memory::filled(R::ZERO, len);
        let mut scratch = PassScratch {
            rows: zeros(self.rows.buffer_len() * most)?,
            exps: zeros(if in_place { 0 } else { classes * most })?,
            emissions: memory::filled(0.0, if self.table.is_some() { 0 } else { stride })?,
        };
        let mut softmax = FrameSoftmax::NONE;
        let mut status = FrameStatus::ORDINARY;
        let unchecked = (UNCHECKED_ELEMENTS / (classes + stride)).max(1).next_multiple_of(together);
        for begin in (0..self.frames.len()).step_by(together) {
            if begin % unchecked == 0 {
                threads::check()?;
            }
            let frames = begin..self.frames.len().min(begin + together);
            match self.input {
                InputKind::Logits => {
                    self.logits::<S>(frames, &mut scratch, &mut softmax, &mut status);
                }
                _ => self.log_probs::<S>(frames, &mut scratch, &mut status),
            }
        }
        status.nan |= self.frames.iter().any(|frame| frame.base.is_nan());
        Ok(status)
    }
}

/// Memory for the frames that are worked on together.
struct PassScratch<R> {
    /// The inputs of each row, if they are not read where they are.
    rows: Vec<R>,
    /// The exponentials of all classes of each row, if they are not written to the gradient at once.
    exps: Vec<R>,
    /// An emission row, if the table is not kept.
    emissions: Vec<f64>,
}

impl<'a, R: Real> FramePass<'a, R> {
    /// The inputs of frame t of the range.
    #[inline(always)]
    fn row(&self, t: usize) -> FrameRow<'a, R> {
        self.rows.row(self.n, self.first + t)
    }

    /// The row of the gradient for frame t of the range.
    #[inline(always)]
    fn grad_row<'g>(&self, grad: &'g FrameArrayMut<'_, R>, t: usize) -> FrameRowMut<'g, R> {
        // SAFETY: no other pass has the frame, and this one writes through one row of it at a time.
        unsafe { grad.row(self.n, self.first + t) }
    }

    /// The terms, the emissions and the gradient of some frames of logits. Each step is taken for all of these frames
    /// before the next step: every step is a long chain of operations, and the chains of several frames overlap.
    #[inline(always)]
    fn logits<S: Isa>(
        &mut self,
        frames: Range<usize>,
        scratch: &mut PassScratch<R>,
        softmax: &mut FrameSoftmax<R>,
        status: &mut FrameStatus,
    ) {
        let PassScratch { rows: buffer, exps, emissions } = scratch;
        let (layout, count) = (self.layout, frames.len());
        let mut exps_of: [&mut [R]; FRAMES_TOGETHER] = array::from_fn(|_| Default::default());
        let mut rows: [&[R]; FRAMES_TOGETHER] = Default::default();
        let mut spare = exps.chunks_exact_mut(self.rows.width().max(1));
        let mut buffers = buffer.chunks_exact_mut(self.rows.width().max(1));
        for (i, t) in frames.clone().enumerate() {
            rows[i] = self.row(t).load(buffers.next().unwrap_or_default());
            let spare = spare.next().unwrap_or_default();
            exps_of[i] = match self.grad {
                Some((grad, _)) => self.grad_row(grad, t).buffer(spare),
                None => spare,
            };
        }
        let (rows, exps_of) = (&rows[..count], &mut exps_of[..count]);
        softmax.fill::<S>(rows, exps_of);
        status.nan |= softmax.max[..count].contains(&R::INFINITY);
        let sums = &softmax.others;
        let (mut base, mut factor) = ([0.0; FRAMES_TOGETHER], [0.0; FRAMES_TOGETHER]);
        for i in 0..FRAMES_TOGETHER {
            base[i] = sums[i].log1p::<S>();
            factor[i] = 1.0 / (1.0 + sums[i]);
        }
        for (i, (exps, t)) in exps_of.iter().zip(frames.clone()).enumerate() {
            let of = |class: usize| exps[class].to_f64();
            let least = match &mut self.table {
                Some(table) => layout.gather(of, &mut table[t * layout.stride()..]),
                None => {
                    layout.distinct.iter().fold(1.0, |least, &[_, c]| of(c as usize).min(least))
                }
            };
            let (shift, bits) = (softmax.max[i].to_f64(), bits_below_1(least));
            self.frames[t] = Frame { shift, base: base[i], factor: factor[i], bits, in_f64: false };
        }
        if let Some((grad, scale)) = self.grad {
            for (i, (exps, t)) in exps_of.iter_mut().zip(frames.clone()).enumerate() {
                multiply(exps, scale * factor[i]);
                if !grad.is_direct() {
                    self.grad_row(grad, t).store(exps);
                }
            }
        }
        for (x, t) in rows.iter().zip(frames) {
            if self.frames[t].bits > bits_below_1(SMALLEST) {
                let Frame { shift, base, factor, .. } = self.frames[t];
                let own = self.emit_in_f64::<S>(t, x, emissions, status);
                // Where all logits are -inf there is no largest one to be relative to.
                let above = if shift == f64::NEG_INFINITY { 0.0 } else { shift - own.shift };
                let factor = factor * (-above).exp_nonpositive::<S>();
                self.frames[t] = Frame { base: base + above, factor, ..own };
            }
        }
    }

    /// As [`FramePass::logits`] for log-probabilities.
    #[inline(always)]
    fn log_probs<S: Isa>(
        &mut self,
        frames: Range<usize>,
        scratch: &mut PassScratch<R>,
        status: &mut FrameStatus,
    ) {
        let PassScratch { rows: buffer, exps, emissions } = scratch;
        let torch = self.input == InputKind::LogProbsTorch;
        for t in frames {
            let x = self.row(t).load(buffer);
            status.nan |= !is_possible(x);
            let own = self.emit_in_f64::<S>(t, x, emissions, status);
            let factor = if torch { Real::exp::<S>(own.shift) } else { 0.0 };
            self.frames[t] = Frame { base: -own.shift, factor, ..own };
            let Some((grad, scale)) = self.grad else { continue };
            let out = self.grad_row(grad, t);
            if !torch {
                out.fill(0..grad.width(), R::ZERO);
                continue;
            }
            let exps = out.buffer(exps.get_mut(..grad.width()).unwrap_or_default());
            exps.iter_mut().zip(x).for_each(|(y, x)| *y = x.exp::<S>());
            multiply(exps, scale);
            if !grad.is_direct() {
                self.grad_row(grad, t).store(exps);
            }
        }
    }

    /// Computes the emissions of frame t, whose inputs are `x`, in `f64`, relative to the largest of them, and the terms of
    /// the frame.
    #[inline(always)]
    fn emit_in_f64<S: Isa>(
        &mut self,
        t: usize,
        x: &[R],
        scratch: &mut [f64],
        status: &mut FrameStatus,
    ) -> Frame {
        let row = row_of(&mut self.table, scratch, t, self.layout);
        let lowest = self.layout.gather(|class| x[class].to_f64(), row);
        let (frame, own) = dispatch(S::LEVEL, EmitInF64 { row, lowest });
        *status = status.and(own);
        frame
    }
}

/// Turns the inputs of a frame's labels, the least of which is `lowest`, into emissions. Returns the terms of the frame
/// and its status. It is a kernel of its own because the passes over all types of inputs call it.
struct EmitInF64<'a> {
    row: &'a mut [f64],
    lowest: f64,
}

impl Kernel for EmitInF64<'_> {
    type Output = (Frame, FrameStatus);

    #[inline(always)]
    fn run<S: Isa>(self) -> (Frame, FrameStatus) {
        let EmitInF64 { row, lowest } = self;
        let row = row.as_chunks_mut::<GROUP>().0;
        let (mut max, mut least) = ([f64::NEG_INFINITY; GROUP], [1.0; GROUP]);
        let [mut nearest, mut furthest] = [[f64::INFINITY; GROUP], [0.0; GROUP]];
        for x in &*row {
            for i in 0..GROUP {
                max[i] = Float::max(x[i], max[i]);
            }
        }
        let max = fold(max, Float::max);
        // Where all of them are -inf there is no largest one to be relative to.
        let shift = if max == f64::NEG_INFINITY { 0.0 } else { max };
        for x in row {
            let mut e = *x;
            for i in 0..GROUP {
                e[i] = x[i].exp_difference::<S>(shift);
                let distance = shift - x[i];
                least[i] = Float::min(if distance > FAR_LOGIT { 1.0 } else { e[i] }, least[i]);
                // A distance may be out of range where the input is not.
                let possible =
                    if x[i] > f64::NEG_INFINITY { Float::min(distance, f64::MAX) } else { 0.0 };
                furthest[i] = Float::max(possible, furthest[i]);
                nearest[i] = Float::min(
                    if possible > FAR_LOGIT { possible } else { f64::INFINITY },
                    nearest[i],
                );
            }
            *x = e;
        }
        let (nearest_far, furthest) = (fold(nearest, Float::min), fold(furthest, Float::max));
        let bits = bits_below_1(fold(least, Float::min));
        let bits = if shift - lowest > FAR_LOGIT { Float::max(bits, ALONE) } else { bits };
        let impossible = max == f64::NEG_INFINITY;
        let status = FrameStatus { nan: false, impossible, nearest_far, furthest };
        (Frame { shift, bits, in_f64: true, ..Frame::default() }, status)
    }
}

/// The emission row of frame t, to be written.
fn row_of<'a>(
    table: &'a mut Option<&mut [f64]>,
    scratch: &'a mut [f64],
    t: usize,
    layout: &EmissionLayout,
) -> &'a mut [f64] {
    match table {
        Some(table) => &mut table[t * layout.stride()..][..layout.stride()],
        None => scratch,
    }
}

/// How many bits a number lies below 1, rounded up; infinite for 0 and for numbers too small to be normal.
#[inline(always)]
fn bits_below_1(x: f64) -> f64 {
    if x < f64::MIN_POSITIVE { f64::INFINITY } else { (1023 - (x.to_bits() >> 52) as i64) as f64 }
}

/// Multiplies a row by a factor, which may exceed the largest number of the row's type.
#[inline(always)]
fn multiply<R: Real>(row: &mut [R], factor: f64) {
    let narrow = R::from_f64(factor);
    if narrow.abs() == R::INFINITY {
        multiply_wide(row, factor);
    } else {
        for x in row {
            *x *= narrow;
        }
    }
}

/// Whether all elements are below +inf and none is NaN.
#[inline(always)]
fn is_possible<R: Real>(row: &[R]) -> bool {
    let count = |part: &[R]| part.iter().map(|&x| usize::from(x < R::INFINITY)).sum::<usize>();
    row.chunks(CHECKED).all(|part| count(part) == part.len())
}

//! One pass over the frames: softmax of every row, and the emissions of the labels and the blank.
//!
//! Emissions are relative to the largest logit of their frame, `e = exp(x - shift)`, so that none exceeds 1. What that
//! leaves out of the loss is the frame's `base`, kept outside the lattice: `log(sum of exp(x)) - shift`, computed from the
//! mass of all classes but the largest, so that nothing is lost when that mass is tiny.
//!
//! The exponentials of a row go to the gradient, if there is one, in the type of the row. They are all that the emissions
//! need, too, unless one of these is too small for a number: then those of the frame are computed anew, relative to the
//! largest that occurs and in `f64`. So are those of log-probabilities, always: without the sum of a softmax a loss can be
//! small beside what the emissions of many frames lose to a narrow type.
//!
//! Emissions further than [`FAR`] below the largest are left out, as if they were 0: that is what masks are for. Where no
//! path avoids them, or none that outweighs them, [`Fixed`](super::fixed::Fixed) takes the inputs as they are.

use super::blocks::ALONE;
use super::exponentials::{Extremes, STEP, Sums};
use super::planes::fold;
use super::rows::{Element, Row, Rows, RowsMut};
use super::target::Target;
use super::{Input, LANES};
use crate::error::Result;
use crate::math::Real;
use crate::num::Float;
use crate::simd::{Isa, Kernel, Level, dispatch};
use crate::{memory, threads};
use std::array;
use std::f64::consts::LOG2_E;
use std::ops::Range;

/// Frames that are worked on together, at most, to keep the pipeline full.
pub(super) const BATCH: usize = 16;

/// Elements of the rows that are worked on together.
const TOGETHER: usize = 4096;

/// Elements of the rows after which to ask whether to go on.
const UNCHECKED: usize = 1 << 17;

/// Natural logarithms of emissions are taken to be -inf from here down. In bits they are exact below 2^20.
pub(super) const FAR: f64 = (1 << 19) as f64;

/// Emissions below are computed anew.
const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

/// What a frame adds to the loss and to the gradient beside its emissions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frame {
    /// The input whose emission is 1.
    pub shift: f64,
    /// The frame's part of the loss with all emissions 1.
    pub base: f64,
    /// The gradient at a class is this times its emission, less its occupancy.
    pub factor: f64,
    /// How far, in bits, the smallest emission that is not 0 lies below 1; at least [`ALONE`] if one is 0.
    pub bits: f64,
    /// Whether emissions are computed in `f64`, relative to the largest of them.
    pub wide: bool,
}

/// What is out of the ordinary in the frames of a sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Status {
    /// Some input is NaN or +inf.
    pub nan: bool,
    /// In some frame all classes that occur have probability 0.
    pub impossible: bool,
    /// The least distance of emissions that were left out, in nats, infinite if none was; and the greatest of any.
    pub far: [f64; 2],
}

impl Status {
    pub const ORDINARY: Self = Status { nan: false, impossible: false, far: [f64::INFINITY, 0.0] };

    /// That of two ranges of frames.
    pub fn and(self, other: Self) -> Self {
        Status {
            nan: self.nan | other.nan,
            impossible: self.impossible | other.impossible,
            far: [self.far[0].min(other.far[0]), self.far[1].max(other.far[1])],
        }
    }
}

/// The pass over a range of frames of sample `n`.
pub(super) struct Survey<'a, E> {
    pub rows: &'a Rows<'a, E>,
    pub n: usize,
    pub input: Input,
    pub target: &'a Target,
    pub first: usize,
    /// One for each frame of the range.
    pub frames: &'a mut [Frame],
    /// Their emission rows, if all are to be kept.
    pub table: Option<&'a mut [f64]>,
    /// Where the softmax, times a factor, goes.
    pub grad: Option<(&'a RowsMut<'a, E>, f64)>,
}

impl<E: Element> Kernel for Survey<'_, E> {
    type Output = Result<Status>;

    #[inline(always)]
    fn run<S: Isa>(mut self) -> Result<Status> {
        let (classes, stride) = (self.rows.width(), self.target.stride());
        let together = (TOGETHER / classes.max(1)).clamp(1, BATCH);
        let in_place = self.grad.is_some_and(|(grad, _)| E::DIRECT && grad.is_dense());
        let zeros = |len| memory::filled(E::Real::ZERO, len);
        let mut scratch = Scratch {
            row: zeros(self.rows.scratch_len())?,
            exps: zeros(if in_place { 0 } else { classes * together })?,
            emissions: memory::filled(0.0, if self.table.is_some() { 0 } else { stride })?,
        };
        let mut sums = Sums::NONE;
        let mut status = Status::ORDINARY;
        let unchecked = (UNCHECKED / (classes + stride)).max(1).next_multiple_of(together);
        for begin in (0..self.frames.len()).step_by(together) {
            if begin % unchecked == 0 {
                threads::check()?;
            }
            let frames = begin..self.frames.len().min(begin + together);
            match self.input {
                Input::Logits => self.softmax::<S>(frames, &mut scratch, &mut sums, &mut status),
                _ => self.log_probs::<S>(frames, &mut scratch, &mut status),
            }
        }
        status.nan |= self.frames.iter().any(|frame| frame.base.is_nan());
        Ok(status)
    }
}

/// What frames are worked on in.
struct Scratch<R> {
    /// A row of all classes, to read, if it has to be converted.
    row: Vec<R>,
    /// Rows of all classes, to write, if they do not go to the gradient as they are.
    exps: Vec<R>,
    /// An emission row, if none is kept.
    emissions: Vec<f64>,
}

/// Each step is taken for all frames before the next one, for its chain of operations is long, and those of different
/// frames run side by side.
impl<E: Element> Survey<'_, E> {
    #[inline(always)]
    fn softmax<S: Isa>(
        &mut self,
        frames: Range<usize>,
        scratch: &mut Scratch<E::Real>,
        sums: &mut Sums<E::Real>,
        status: &mut Status,
    ) {
        let Scratch { row: buffer, exps, emissions } = scratch;
        let (n, target, count) = (self.n, self.target, frames.len());
        let mut rows = [Row::EMPTY; BATCH];
        let mut exps_of: [&mut [E::Real]; BATCH] = array::from_fn(|_| Default::default());
        let mut spare = exps.chunks_exact_mut(self.rows.width().max(1));
        for (i, t) in (self.first + frames.start..).take(count).enumerate() {
            rows[i] = self.rows.row(n, t);
            let spare = spare.next().unwrap_or_default();
            exps_of[i] = match self.grad {
                // SAFETY: this is the only survey of this sample, and its frames are not in another range.
                Some((grad, _)) => unsafe { grad.row(n, t) }.buffer(spare),
                None => spare,
            };
        }
        let (rows, exps_of) = (&rows[..count], &mut exps_of[..count]);
        let mut extremes = [Extremes::NONE; BATCH];
        for (row, extremes) in rows.iter().zip(&mut extremes) {
            *extremes = Extremes::of::<S>(row.load(buffer));
            status.nan |= extremes.max == E::Real::INFINITY;
        }
        for (i, (row, exps)) in rows.iter().zip(&mut *exps_of).enumerate() {
            sums.exponentials::<S>(i, row.load(buffer), &extremes[i], exps);
        }
        let others = sums.other::<S>();
        let (mut base, mut factor) = ([0.0; BATCH], [0.0; BATCH]);
        for i in 0..BATCH {
            base[i] = others[i].log1p::<S>();
            factor[i] = 1.0 / (1.0 + others[i]);
        }
        for (i, (exps, t)) in exps_of.iter().zip(frames.clone()).enumerate() {
            let of = |class: usize| exps[class].to_f64();
            let least = match &mut self.table {
                Some(table) => place(target, of, &mut table[t * target.stride()..]),
                None => target.classes.iter().fold(1.0, |least, &[_, c]| of(c as usize).min(least)),
            };
            let (shift, bits) = (extremes[i].max.to_f64(), bits_below_1(least));
            self.frames[t] = Frame { shift, base: base[i], factor: factor[i], bits, wide: false };
        }
        if let Some((grad, scale)) = self.grad {
            for (i, exps) in exps_of.iter_mut().enumerate() {
                multiply(exps, scale * factor[i]);
                if !(E::DIRECT && grad.is_dense()) {
                    // SAFETY: as above; what was written is in scratch.
                    unsafe { grad.row(n, self.first + frames.start + i) }.store(exps);
                }
            }
        }
        for t in frames {
            if self.frames[t].bits > bits_below_1(SMALLEST) {
                let Frame { shift, base, factor, .. } = self.frames[t];
                let own = self.emit_wide::<S>(t, emissions, status);
                // With all classes impossible there is nothing that it could be above.
                let above = if shift == f64::NEG_INFINITY { 0.0 } else { shift - own.shift };
                let factor = factor * (-above).exp_nonpositive::<S>();
                self.frames[t] = Frame { base: base + above, factor, ..own };
            }
        }
    }

    #[inline(always)]
    fn log_probs<S: Isa>(
        &mut self,
        frames: Range<usize>,
        scratch: &mut Scratch<E::Real>,
        status: &mut Status,
    ) {
        let Scratch { row: buffer, exps, emissions } = scratch;
        let torch = self.input == Input::LogProbsTorch;
        for t in frames {
            let row = self.rows.row(self.n, self.first + t);
            status.nan |= !is_possible(row.load(buffer));
            let own = self.emit_wide::<S>(t, emissions, status);
            let factor = if torch { Real::exp::<S>(own.shift) } else { 0.0 };
            self.frames[t] = Frame { base: -own.shift, factor, ..own };
            let Some((rows, scale)) = self.grad else { continue };
            // SAFETY: it is held for this step only, as above.
            let mut out = unsafe { rows.row(self.n, self.first + t) };
            if !torch {
                out.fill(0..rows.width(), E::of(0.0));
                continue;
            }
            let direct = E::DIRECT && rows.is_dense();
            let exps = out.buffer(exps.get_mut(..rows.width()).unwrap_or_default());
            exps.iter_mut().zip(row.load(buffer)).for_each(|(y, x)| *y = x.exp::<S>());
            multiply(exps, scale);
            if !direct {
                // SAFETY: as above; what was written is in scratch.
                unsafe { rows.row(self.n, self.first + t) }.store(exps);
            }
        }
    }

    /// The emissions of frame t in `f64`, relative to the largest of them, and what is known of the frame.
    #[inline(always)]
    fn emit_wide<S: Isa>(&mut self, t: usize, scratch: &mut [f64], status: &mut Status) -> Frame {
        let x = self.rows.row(self.n, self.first + t);
        let row = row_of(&mut self.table, scratch, t, self.target);
        let lowest = place(self.target, |class| x.at(class).to(), row);
        let row = row.as_chunks_mut::<LANES>().0;
        let (mut max, mut least) = ([f64::NEG_INFINITY; LANES], [1.0; LANES]);
        let [mut nearest, mut furthest] = [[f64::INFINITY; LANES], [0.0; LANES]];
        for x in &*row {
            for i in 0..LANES {
                max[i] = Float::max(x[i], max[i]);
            }
        }
        let max = fold(max, Float::max);
        status.impossible |= max == f64::NEG_INFINITY;
        // With all of them -inf there is nothing to be relative to.
        let shift = if max == f64::NEG_INFINITY { 0.0 } else { max };
        for x in row {
            let e = x.map(|x| x.exp_difference::<S>(shift));
            for i in 0..LANES {
                let gap = shift - x[i];
                least[i] = Float::min(if gap > FAR { 1.0 } else { e[i] }, least[i]);
                // A distance may be out of range where the input is not.
                let possible =
                    if x[i] > f64::NEG_INFINITY { Float::min(gap, f64::MAX) } else { 0.0 };
                furthest[i] = Float::max(possible, furthest[i]);
                nearest[i] =
                    Float::min(if possible > FAR { possible } else { f64::INFINITY }, nearest[i]);
            }
            *x = e;
        }
        let far = [fold(nearest, Float::min), fold(furthest, Float::max)];
        *status = status.and(Status { far, ..Status::ORDINARY });
        let bits = bits_below_1(fold(least, Float::min));
        let bits = if shift - lowest > FAR { Float::max(bits, ALONE) } else { bits };
        Frame { shift, bits, wide: true, ..Frame::default() }
    }
}

/// The emission row of frame t, to be written.
fn row_of<'a>(
    table: &'a mut Option<&mut [f64]>,
    scratch: &'a mut [f64],
    t: usize,
    target: &Target,
) -> &'a mut [f64] {
    match table {
        Some(table) => &mut table[t * target.stride()..][..target.stride()],
        None => scratch,
    }
}

/// Fills an emission row with what `of` gives for each class, the blank's behind the labels. Returns the least.
#[inline(always)]
fn place(target: &Target, of: impl Fn(usize) -> f64, row: &mut [f64]) -> f64 {
    let blank = [of(target.blank as usize); LANES];
    let mut least = blank;
    let (labels, blanks) = row.split_at_mut(target.width);
    for (out, classes) in labels.as_chunks_mut().0.iter_mut().zip(target.labels()) {
        *out = classes.map(|class| of(class as usize));
        for (least, &x) in least.iter_mut().zip(&*out) {
            *least = Float::min(x, *least);
        }
    }
    blanks[..LANES].copy_from_slice(&blank);
    fold(least, Float::min)
}

/// How far, in bits and rounded up, a number lies below 1; infinite for 0 and what is too small for a normal number.
#[inline(always)]
fn bits_below_1(x: f64) -> f64 {
    if x < f64::MIN_POSITIVE { f64::INFINITY } else { (1023 - (x.to_bits() >> 52) as i64) as f64 }
}

/// Multiplies a row by a factor that the type of the row may have no room for.
#[inline(always)]
fn multiply<R: Real>(row: &mut [R], factor: f64) {
    let narrow = R::from_f64(factor);
    if narrow.abs() == R::INFINITY {
        for x in row {
            *x = R::from_f64(x.to_f64() * factor);
        }
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
    row.chunks(STEP).all(|part| count(part) == part.len())
}

/// A form of emission rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `exp(x - shift)`.
    Linear,
    /// `m` and then `k`, with `m * 2^k = exp(x - shift)` and m near 1.
    Wide,
    /// `x - shift`.
    Log,
    /// Two numbers that add up to `(x - shift) / 2` exactly, none left out.
    Exact,
}

impl Form {
    /// Numbers of an emission.
    pub fn parts(self) -> usize {
        if matches!(self, Form::Wide | Form::Exact) { 2 } else { 1 }
    }
}

/// Where emission rows come from when they are not kept.
pub(super) trait Source: Sync {
    /// Computes those of some frames.
    fn fill(&self, form: Form, frames: Range<usize>, out: &mut [f64]) -> Result<()>;
}

/// The inputs of sample `n`.
pub(super) struct Inputs<'a, E> {
    pub level: Level,
    pub rows: &'a Rows<'a, E>,
    pub n: usize,
    pub target: &'a Target,
    pub frames: &'a [Frame],
}

impl<E: Element> Source for Inputs<'_, E> {
    fn fill(&self, form: Form, frames: Range<usize>, out: &mut [f64]) -> Result<()> {
        dispatch(self.level, Fill { inputs: self, form, frames, out })
    }
}

struct Fill<'a, 'b, E> {
    inputs: &'a Inputs<'b, E>,
    form: Form,
    frames: Range<usize>,
    out: &'a mut [f64],
}

impl<E: Element> Kernel for Fill<'_, '_, E> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        let Inputs { rows, n, target, frames, .. } = *self.inputs;
        let stride = target.stride();
        // Fewer classes than places: each class's exponential is taken once.
        let few = rows.width() < stride && self.form == Form::Linear;
        let zeros = |len| memory::filled(E::Real::ZERO, if few { len } else { 0 });
        let (mut exps, mut buffer) = (zeros(rows.width())?, zeros(rows.scratch_len())?);
        for (t, out) in self.frames.zip(self.out.chunks_exact_mut(self.form.parts() * stride)) {
            let x = rows.row(n, t);
            let Frame { shift, wide, .. } = frames[t];
            let (out, second) = out.split_at_mut(stride);
            // Nothing reaches what is behind the labels.
            let beyond = target.len..target.width;
            match self.form {
                Form::Linear if wide => {
                    place(target, |class| x.at(class).to(), out);
                    for e in out {
                        *e = e.exp_difference::<S>(shift);
                    }
                }
                Form::Linear => {
                    let shift = E::Real::from_f64(shift);
                    let exp = |x: E::Real| x.exp_difference::<S>(shift);
                    if few {
                        let x = x.load(&mut buffer);
                        exps.iter_mut().zip(x).for_each(|(e, &x)| *e = exp(x));
                        place(target, |class| exps[class].to_f64(), out);
                    } else {
                        place(target, |class| x.at(class).to(), out);
                        for e in out {
                            *e = exp(E::Real::from_f64(*e)).to_f64();
                        }
                    }
                }
                Form::Wide => {
                    place(target, |class| x.at(class).to(), out);
                    for (m, k) in out.iter_mut().zip(second) {
                        (*m, *k) = wide_exp::<S>(*m, shift);
                    }
                    out[beyond].fill(0.0);
                }
                Form::Log => {
                    place(target, |class| x.at(class).to(), out);
                    for x in &mut *out {
                        let e = *x - shift;
                        *x = if e < -FAR { f64::NEG_INFINITY } else { e };
                    }
                    out[beyond].fill(f64::NEG_INFINITY);
                }
                Form::Exact => {
                    place(target, |class| x.at(class).to(), out);
                    for (x, low) in out.iter_mut().zip(second) {
                        (*x, *low) = difference(0.5 * *x, 0.5 * shift);
                    }
                    out[beyond].fill(f64::NEG_INFINITY);
                }
            }
        }
        Ok(())
    }
}

/// `x - shift`, and what that lost to rounding.
#[inline(always)]
fn difference(x: f64, shift: f64) -> (f64, f64) {
    let rounded = x - shift;
    let minuend = rounded + shift;
    (rounded, (x - minuend) - (shift + (rounded - minuend)))
}

/// `exp(x - shift)` for `x <= shift` as m and k, with `exp(x - shift) = m * 2^k`.
#[inline(always)]
fn wide_exp<S: Isa>(x: f64, shift: f64) -> (f64, f64) {
    const LN2_HI: f64 = 0.693_147_180_369_123_8; // 33 bits, so that its products with k are exact below 2^20
    const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;
    let (x, lost) = difference(x, shift);
    let k = (x * LOG2_E).round_ties_even();
    let r = Float::mul_add::<S>(k, -LN2_LO, Float::mul_add::<S>(k, -LN2_HI, x)) + lost;
    let m = Real::exp::<S>(r);
    if x < -FAR { (0.0, 0.0) } else { (m, k) }
}

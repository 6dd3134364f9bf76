//! One pass over the frames: softmax of every row, and the emissions of the classes that occur in the label sequence.
//!
//! Emissions are relative to the largest one of their frame, `e = exp(x - shift)`, so that none exceeds 1 and one of
//! them is 1. What that leaves out of the loss is the frame's `base`, kept outside the lattice. For logits it is
//! `log(sum of exp(x)) - shift`, computed from the mass of all classes but the largest: nothing is lost when that mass
//! is tiny.
//!
//! If few of many classes occur, the softmax goes to the gradient here, in the type of the row, and the classes that occur
//! are written over once their occupancies are known. If many do, emissions are computed for all of them, which is all
//! that their softmax needs, too.

use super::exponentials::{Folded, STEP, Sums, exponentials};
use super::rows::{Element, Rows, RowsMut};
use super::target::Target;
use super::{Input, LANES};
use crate::losses::rowwise::softmax;
use crate::real::Real;
use crate::simd::{Isa, Kernel, Level, dispatch};
use std::f64::consts::LOG2_E;
use std::ops::Range;

/// Frames that are gathered before their exponentials are taken, to keep the pipeline full.
pub(super) const BATCH: usize = 16;

/// Elements of the rows that are worked on together.
const TOGETHER: usize = 4096;

/// What a frame adds to the loss and to the gradient beside its emissions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frame {
    /// The largest input of a class that has a place in the emission rows.
    pub shift: f64,
    /// The frame's part of the loss with all emissions 1.
    pub base: f64,
    /// The gradient at a class is this times its emission, less its occupancy.
    pub factor: f64,
    /// How far, in bits, the smallest emission that is not 0 lies below 1.
    pub bits: f64,
}

/// What makes a sample's loss something else than a finite number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Defect {
    /// Some input is NaN or +inf.
    pub nan: bool,
    /// In some frame all classes that occur have probability 0.
    pub impossible: bool,
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
    type Output = Defect;

    #[inline(always)]
    fn run<S: Isa>(mut self) -> Defect {
        let stride = self.target.stride;
        let many = if self.target.dense || E::DIRECT { 0 } else { self.rows.width() };
        let mut scratch = Scratch {
            x: vec![-E::Real::INFINITY; BATCH * stride],
            e: vec![E::Real::ZERO; BATCH * stride],
            row: vec![E::Real::ZERO; many],
            exps: vec![E::Real::ZERO; many * together(many)],
        };
        let mut defect = Defect::default();
        for begin in (0..self.frames.len()).step_by(BATCH) {
            let end = self.frames.len().min(begin + BATCH);
            self.batch::<S>(begin..end, &mut scratch, &mut defect);
        }
        defect.nan |= self.frames.iter().any(|frame| frame.base.is_nan());
        defect
    }
}

/// What a batch of frames is worked on in.
struct Scratch<R> {
    /// Inputs of the classes that have a place in the emission rows.
    x: Vec<R>,
    /// Their emissions.
    e: Vec<R>,
    /// A row of all classes, to read, if it has to be converted.
    row: Vec<R>,
    /// Rows of all classes, to write, if they have to be converted.
    exps: Vec<R>,
}

/// How many rows of a softmax are worked on together: as many as fit the first-level cache.
fn together(width: usize) -> usize {
    (TOGETHER / width.max(1)).clamp(1, BATCH)
}

/// Each step is taken for all frames of a batch before the next one, for its chain of operations is long, and those of
/// different frames run side by side.
impl<E: Element> Survey<'_, E> {
    #[inline(always)]
    fn batch<S: Isa>(
        &mut self,
        frames: Range<usize>,
        scratch: &mut Scratch<E::Real>,
        defect: &mut Defect,
    ) {
        let (target, stride) = (self.target, self.target.stride);
        let size = frames.len() * stride;
        let (x, e) = (&mut scratch.x[..size], &mut scratch.e[..size]);
        for (t, x) in frames.clone().zip(x.chunks_exact_mut(stride)) {
            gather(self.rows.row(self.n, self.first + t), target, x);
        }
        for (frame, x) in self.frames[frames.clone()].iter_mut().zip(x.chunks_exact(stride)) {
            let max = softmax::max(x).to_f64();
            defect.nan |= max == f64::INFINITY;
            defect.impossible |= max == f64::NEG_INFINITY;
            // With all of them -inf there is nothing to be relative to.
            frame.shift = if max == f64::NEG_INFINITY { 0.0 } else { max };
        }
        let rows = x.chunks_exact(stride).zip(e.chunks_exact_mut(stride));
        let rows = self.frames[frames.clone()].iter_mut().zip(rows);
        if target.dense {
            let mut sums = Folded::NONE;
            for (i, (frame, (x, e))) in rows.enumerate() {
                let shift = E::Real::from_f64(frame.shift);
                let exp = E::Real::exp_difference::<S>;
                sums.put::<S, _>(i, &exponentials::<E::Real, true>(x, shift, e, exp));
            }
            // For logits `base` and `factor` hold the parts that `finish` makes them from.
            for (frame, other) in self.frames[frames.clone()].iter_mut().zip(sums.other::<S>()) {
                (frame.base, frame.factor) = (0.0, other);
            }
        } else {
            rows.for_each(|(frame, (x, e))| emit::<S, _>(x, frame.shift, e));
        }
        if let Some(table) = &mut self.table {
            widen(e, &mut table[frames.start * stride..frames.end * stride]);
        }
        let rows = x.chunks_exact(stride).zip(e.chunks_exact(stride));
        let mut row = Vec::new();
        for (t, (x, e)) in frames.clone().zip(rows) {
            self.frames[t].bits = depth(x, e);
            if needs_wide::<E::Real>(self.input, self.frames[t].bits) {
                let row = if let Some(table) = &mut self.table {
                    &mut table[t * stride..][..stride]
                } else {
                    row.resize(stride, 0.0);
                    &mut row[..]
                };
                self.frames[t].bits = emit_wide::<S, _>(x, self.frames[t].shift, row);
            }
        }
        match self.input {
            Input::Logits if target.dense => {}
            Input::Logits => {
                for begin in frames.clone().step_by(together(self.rows.width())) {
                    let end = frames.end.min(begin + together(self.rows.width()));
                    self.softmax::<S>(begin..end, scratch, defect);
                }
            }
            Input::LogProbs | Input::LogProbsTorch => {
                for t in frames.clone() {
                    let row = self.rows.row(self.n, self.first + t);
                    defect.nan |= !is_possible(row);
                    let torch = self.input == Input::LogProbsTorch;
                    let frame = &mut self.frames[t];
                    frame.base = -frame.shift;
                    frame.factor = if torch { frame.shift } else { 0.0 };
                    // SAFETY: it is held until the next frame only, as below.
                    match unsafe { self.out(t) } {
                        Some((out, scale)) if torch => {
                            let Scratch { row: x, exps, .. } = scratch;
                            scaled_exp::<S, E>(E::load(row, x), out, scale, exps);
                        }
                        Some((out, _)) => out.fill(E::of(0.0)),
                        None => {}
                    }
                }
            }
        }
        finish::<S>(self.input, &mut self.frames[frames]);
    }

    /// Where the softmax of frame t goes, and its factor, if it is wanted here.
    ///
    /// # Safety
    /// Nobody else holds the row of the frame.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    unsafe fn out(&self, t: usize) -> Option<(&mut [E], f64)> {
        let (rows, scale) = self.grad.filter(|_| !self.target.dense)?;
        // SAFETY: this is the only survey of this sample, and its frames are not in another range.
        Some((unsafe { rows.row(self.n, self.first + t) }, scale))
    }

    /// The parts of `base` and `factor` of a few frames, from all classes, and their gradient without occupancies.
    #[inline(always)]
    fn softmax<S: Isa>(
        &mut self,
        frames: Range<usize>,
        scratch: &mut Scratch<E::Real>,
        defect: &mut Defect,
    ) {
        let Scratch { row: buffer, exps, .. } = scratch;
        let many = buffer.len();
        let mut max = [-E::Real::INFINITY; BATCH];
        let mut folded = Folded::NONE;
        for (t, max) in frames.clone().zip(&mut max) {
            *max = softmax::max(E::load(self.rows.row(self.n, self.first + t), buffer));
            defect.nan |= *max == E::Real::INFINITY;
            defect.impossible |= *max == -E::Real::INFINITY;
        }
        let exp = |x: E::Real, max: E::Real| (x - max).exp_nonpositive::<S>();
        for (i, t) in frames.clone().enumerate() {
            let x = E::load(self.rows.row(self.n, self.first + t), buffer);
            // SAFETY: as above.
            let sums = match unsafe { self.out(t) } {
                // Nothing to be relative to, unless there is a NaN.
                _ if max[i] == -E::Real::INFINITY => {
                    let possible = x.iter().all(|&x| x < E::Real::INFINITY);
                    let mut sums = Sums::NONE;
                    sums.largest[0] = if possible { E::Real::ONE } else { E::Real::NAN };
                    sums
                }
                Some((out, _)) => {
                    let out = E::buffer(out, &mut exps[i * many..][..many]);
                    exponentials::<_, true>(x, max[i], out, exp)
                }
                None => exponentials::<_, false>(x, max[i], &mut [], exp),
            };
            folded.put::<S, _>(i, &sums);
        }
        let frame_data = self.frames[frames.clone()].iter_mut();
        for ((frame, max), other) in frame_data.zip(max).zip(folded.other::<S>()) {
            frame.base = max.to_f64() - frame.shift;
            frame.factor = other;
        }
        for (i, t) in frames.enumerate() {
            // SAFETY: as above.
            let Some((out, scale)) = (unsafe { self.out(t) }) else { break };
            let factor = E::Real::from_f64(scale / (1.0 + self.frames[t].factor));
            let exps = &mut exps[i * many..][..many];
            for y in E::buffer(out, exps) {
                *y *= factor;
            }
            E::store(out, exps);
            if max[i] == -E::Real::INFINITY {
                out.fill(E::of(0.0));
            }
        }
    }
}

/// Completes `base` and `factor`, frame by frame side by side.
#[inline(always)]
fn finish<S: Isa>(input: Input, frames: &mut [Frame]) {
    match input {
        Input::Logits => {
            for group in frames.chunks_mut(LANES) {
                let mut parts = [[0.0; LANES]; 2];
                for (i, frame) in group.iter().enumerate() {
                    (parts[0][i], parts[1][i]) = (frame.base, frame.factor);
                }
                let [mut base, mut factor] = parts;
                for i in 0..LANES {
                    let (above, other) = (base[i], factor[i]);
                    base[i] = above + other.log1p::<S>();
                    factor[i] = (-above).exp_nonpositive::<S>() / (1.0 + other);
                }
                for (i, frame) in group.iter_mut().enumerate() {
                    (frame.base, frame.factor) = (base[i], factor[i]);
                }
            }
        }
        Input::LogProbs => {}
        Input::LogProbsTorch => {
            for frame in frames {
                frame.factor = Real::exp::<S>(frame.factor);
            }
        }
    }
}

/// The inputs of the classes that have a place in the emission rows.
#[inline(always)]
fn gather<E: Element>(row: &[E], target: &Target, x: &mut [E::Real]) {
    if target.dense {
        x.iter_mut().zip(row).for_each(|(x, value)| *x = value.to());
    } else {
        let (whole, rest) = target.classes.as_chunks::<LANES>();
        let (x, x_rest) = x.split_at_mut(whole.as_flattened().len());
        for (x, classes) in x.as_chunks_mut().0.iter_mut().zip(whole) {
            *x = classes.map(|class| row[class as usize].to());
        }
        for (x, &class) in x_rest.iter_mut().zip(rest) {
            *x = row[class as usize].to();
        }
    }
}

/// The emissions of a frame, `exp(x - shift)`.
#[inline(always)]
fn emit<S: Isa, R: Real>(x: &[R], shift: f64, e: &mut [R]) {
    let shift = R::from_f64(shift);
    for (e, x) in e.iter_mut().zip(x) {
        *e = x.exp_difference::<S>(shift);
    }
}

/// The same in f64, whatever the type of the row. Returns their [`Frame::bits`].
#[inline(always)]
fn emit_wide<S: Isa, R: Real>(x: &[R], shift: f64, e: &mut [f64]) -> f64 {
    let mut least = 1.0_f64;
    for (e, &x) in e.iter_mut().zip(x) {
        *e = (x.to_f64() - shift).exp_nonpositive::<S>();
        least = if x == -R::INFINITY { least } else { least.min(*e) };
    }
    bits_below_1(least)
}

/// Whether emissions of so many bits are to be computed by [`emit_wide`]. Those of log-probabilities always are: without
/// the sum of a softmax a loss can be small beside what the emissions of many frames lose to a narrow type.
fn needs_wide<R: Real>(input: Input, bits: f64) -> bool {
    let narrow = R::MIN_POSITIVE.to_f64() > f64::MIN_POSITIVE;
    narrow && (input != Input::Logits || bits == f64::INFINITY)
}

#[inline(always)]
fn widen<R: Real>(e: &[R], wide: &mut [f64]) {
    for (wide, &e) in wide.iter_mut().zip(e) {
        *wide = e.to_f64();
    }
}

/// How far, in bits and rounded up, the smallest emission that is not 0 lies below 1; infinite if one is 0 only because it
/// is too small for a normal number.
#[inline(always)]
fn depth<R: Real>(x: &[R], e: &[R]) -> f64 {
    let mut least = R::ONE.key();
    for (&x, &e) in x.iter().zip(e) {
        let possible = if x == -R::INFINITY { R::ONE } else { e };
        least = least.min(possible.key());
    }
    let least = R::from_key(least);
    if least < R::MIN_POSITIVE { f64::INFINITY } else { bits_below_1(least.to_f64()) }
}

#[inline(always)]
fn bits_below_1(x: f64) -> f64 {
    if x < f64::MIN_POSITIVE { f64::INFINITY } else { (1023 - (x.to_bits() >> 52) as i64) as f64 }
}

#[inline(always)]
fn scaled_exp<S: Isa, E: Element>(x: &[E::Real], out: &mut [E], scale: f64, y: &mut [E::Real]) {
    let y = &mut y[..if E::DIRECT { 0 } else { x.len() }];
    let scale = E::Real::from_f64(scale);
    for (y, &x) in E::buffer(out, y).iter_mut().zip(x) {
        *y = x.exp::<S>() * scale;
    }
    E::store(out, y);
}

/// Whether all elements are below +inf and none is NaN.
#[inline(always)]
fn is_possible<E: Element>(row: &[E]) -> bool {
    row.chunks(STEP)
        .all(|part| part.iter().fold(true, |ok, x| ok & (x.to::<f64>() < f64::INFINITY)))
}

/// A form of emission rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `exp(x - shift)`.
    Linear,
    /// `m` and then `k`, with `m * 2^k = exp(x - shift)` and m near 1: of any size.
    Wide,
    /// `x - shift`.
    Log,
}

/// Where emission rows come from when they are not kept.
pub(super) trait Source: Sync {
    /// Computes those of some frames.
    fn fill(&self, form: Form, frames: Range<usize>, out: &mut [f64]);
}

/// The inputs of sample `n`.
pub(super) struct Inputs<'a, E> {
    pub level: Level,
    pub rows: &'a Rows<'a, E>,
    pub n: usize,
    pub input: Input,
    pub target: &'a Target,
    pub frames: &'a [Frame],
}

impl<E: Element> Source for Inputs<'_, E> {
    fn fill(&self, form: Form, frames: Range<usize>, out: &mut [f64]) {
        dispatch(self.level, Fill { inputs: self, form, frames, out });
    }
}

struct Fill<'a, 'b, E> {
    inputs: &'a Inputs<'b, E>,
    form: Form,
    frames: Range<usize>,
    out: &'a mut [f64],
}

impl<E: Element> Kernel for Fill<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self) {
        let Inputs { rows, n, input, target, frames, .. } = *self.inputs;
        let mut x = vec![-E::Real::INFINITY; target.stride];
        let mut e = vec![E::Real::ZERO; target.stride];
        let parts = if self.form == Form::Wide { 2 } else { 1 };
        for (t, out) in self.frames.zip(self.out.chunks_exact_mut(parts * x.len())) {
            gather(rows.row(n, t), target, &mut x);
            let shift = frames[t].shift;
            match self.form {
                Form::Linear => {
                    emit::<S, _>(&x, shift, &mut e);
                    widen(&e, out);
                    if needs_wide::<E::Real>(input, depth(&x, &e)) {
                        emit_wide::<S, _>(&x, shift, out);
                    }
                }
                Form::Wide => {
                    let (mantissas, exponents) = out.split_at_mut(x.len());
                    for ((m, k), &x) in mantissas.iter_mut().zip(exponents).zip(&x) {
                        (*m, *k) = wide::<S>(x.to_f64() - shift);
                    }
                }
                Form::Log => out.iter_mut().zip(&x).for_each(|(y, &x)| *y = x.to_f64() - shift),
            }
        }
    }
}

/// `exp(x)` for `x <= 0` as m and k, with `exp(x) = m * 2^k`.
#[inline(always)]
fn wide<S: Isa>(x: f64) -> (f64, f64) {
    const LN2_HI: f64 = 0.693_147_180_369_123_8; // 33 bits, so that its products with k are exact below 2^20
    const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;
    // Beyond, sums of a billion frames would overflow.
    const DEEPEST: f64 = -1e298;
    let k = (x * LOG2_E).round_ties_even().max(DEEPEST);
    let r = Real::mul_add::<S>(k, -LN2_LO, Real::mul_add::<S>(k, -LN2_HI, x));
    // The remainder of a huge x is rounding error of any size.
    let m = Real::exp::<S>(Real::max(-1.0, r).min(1.0));
    if x == f64::NEG_INFINITY { (0.0, 0.0) } else { (m, k) }
}

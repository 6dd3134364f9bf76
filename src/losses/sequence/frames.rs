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

use super::planes::fold;
use super::rows::{Element, Rows, RowsMut};
use super::target::Target;
use super::{Input, LANES};
use crate::losses::rowwise::softmax;
use crate::real::Real;
use crate::simd::{Isa, Kernel, Level, dispatch};
use std::array;
use std::f64::consts::LOG2_E;
use std::ops::{Add, Range};

/// Elements of a vector step along the classes.
const STEP: usize = 16;

/// Vector steps whose sums are kept in the type of the row.
const STEPS: usize = 16;

/// Frames that are gathered before their exponentials are taken, to keep the pipeline full.
const BATCH: usize = 16;

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
        let many = if self.target.dense { 0 } else { self.rows.width() };
        let mut scratch = Scratch {
            x: vec![f64::NEG_INFINITY; BATCH * stride],
            e: vec![0.0; if self.table.is_some() { stride } else { (BATCH + 1) * stride }],
            rows: [(); 2].map(|()| vec![E::Real::ZERO; many]),
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

/// Rows of a batch of frames.
struct Scratch<R> {
    /// Inputs of the classes that have a place in the emission rows, relative to the largest.
    x: Vec<f64>,
    /// One row to work with, and the emission rows if they are not kept.
    e: Vec<f64>,
    /// A row of all classes, to read and to write.
    rows: [Vec<R>; 2],
}

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
        let x = &mut scratch.x[..size];
        for (t, x) in frames.clone().zip(x.chunks_exact_mut(stride)) {
            gather(self.rows.row(self.n, self.first + t), target, x);
            let max = softmax::max(x);
            // With all of them -inf there is nothing to be relative to.
            let shift = if max == f64::NEG_INFINITY { 0.0 } else { max };
            subtract(x, shift);
            defect.nan |= max == f64::INFINITY;
            defect.impossible |= max == f64::NEG_INFINITY;
            self.frames[t].shift = shift;
        }
        let (work, e) = scratch.e.split_at_mut(stride);
        let e = match &mut self.table {
            Some(table) => &mut table[frames.start * stride..frames.end * stride],
            None => &mut e[..size],
        };
        emit::<S>(x, e);
        let rows = x.chunks_exact(stride).zip(e.chunks_exact(stride));
        for (t, (x, e)) in frames.clone().zip(rows) {
            let row = self.rows.row(self.n, self.first + t);
            // SAFETY: this is the only survey of this sample, and its frames are not in another range.
            let out =
                self.grad.map(|(rows, scale)| (unsafe { rows.row(self.n, self.first + t) }, scale));
            let out = out.filter(|_| !target.dense);
            let frame = &mut self.frames[t];
            frame.bits = depth(x, e);
            // For logits `base` and `factor` hold the parts that `finish` makes them from.
            (frame.base, frame.factor) = match self.input {
                Input::Logits if target.dense => (0.0, other(e, work)),
                Input::Logits => {
                    let Mass { max, other } = softmax::<S, E>(row, out, &mut scratch.rows);
                    defect.nan |= max == f64::INFINITY;
                    defect.impossible |= max == f64::NEG_INFINITY;
                    (max - frame.shift, other)
                }
                Input::LogProbs => {
                    defect.nan |= !is_possible(row);
                    if let Some((out, _)) = out {
                        out.fill(E::of(0.0));
                    }
                    (-frame.shift, 0.0)
                }
                Input::LogProbsTorch => {
                    defect.nan |= !is_possible(row);
                    if let Some((out, scale)) = out {
                        scaled_exp::<S, E>(row, out, scale, &mut scratch.rows);
                    }
                    (-frame.shift, frame.shift)
                }
            };
        }
        finish::<S>(self.input, &mut self.frames[frames]);
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
fn gather<E: Element>(row: &[E], target: &Target, x: &mut [f64]) {
    if target.dense {
        x.iter_mut().zip(row).for_each(|(x, value)| *x = value.to());
    } else {
        for (x, &class) in x.iter_mut().zip(&target.classes) {
            *x = row[class as usize].to();
        }
    }
}

#[inline(always)]
fn subtract(x: &mut [f64], shift: f64) {
    for x in x {
        *x -= shift;
    }
}

#[inline(always)]
fn emit<S: Isa>(x: &[f64], e: &mut [f64]) {
    for (e, &x) in e.iter_mut().zip(x) {
        *e = x.exp_nonpositive::<S>();
    }
}

/// The sum of emissions but one that is 1.
#[inline(always)]
fn other(e: &[f64], work: &mut [f64]) -> f64 {
    let mut ones = 0_u64;
    for (w, &e) in work.iter_mut().zip(e) {
        *w = if e == 1.0 { 0.0 } else { e };
        // A checked addition would keep the loop from being vectorised.
        ones = ones.wrapping_add(u64::from(e == 1.0));
    }
    let mut sums = [0.0; LANES];
    for group in work.as_chunks::<LANES>().0 {
        sums = array::from_fn(|i| sums[i] + group[i]);
    }
    fold(sums, Add::add) + (ones as f64 - 1.0)
}

/// How far, in bits and rounded up, the smallest emission that is not 0 lies below 1; infinite if one is 0 only because it
/// is too small for a normal number.
#[inline(always)]
fn depth(x: &[f64], e: &[f64]) -> f64 {
    let mut least = u64::MAX;
    let mut vanished = false;
    for (x, e) in x.iter().zip(e) {
        // The bits of positive numbers are in their order; a 0 becomes the largest number of all.
        least = least.min(e.to_bits().wrapping_sub(1));
        let possible = if *x == f64::NEG_INFINITY { 1.0 } else { *e };
        vanished |= possible < f64::MIN_POSITIVE;
    }
    let bits = if least == u64::MAX { 0 } else { 1023 - (least >> 52) as i64 };
    if vanished { f64::INFINITY } else { bits as f64 }
}

/// `log(sum of exp(x)) = max + log(1 + other)`.
struct Mass {
    max: f64,
    other: f64,
}

#[inline(always)]
fn softmax<S: Isa, E: Element>(
    row: &[E],
    out: Option<(&mut [E], f64)>,
    [x, y]: &mut [Vec<E::Real>; 2],
) -> Mass {
    let x = E::load(row, x);
    let Some((out, scale)) = out else { return softmax_real::<S, _>(x, None) };
    let mass = softmax_real::<S, _>(x, Some((E::buffer(out, y), scale)));
    E::store(out, y);
    mass
}

#[inline(always)]
fn softmax_real<S: Isa, R: Real>(x: &[R], out: Option<(&mut [R], f64)>) -> Mass {
    let max = softmax::max(x);
    // Nothing to be relative to, unless there is a NaN.
    if max == -R::INFINITY {
        if let Some((out, _)) = out {
            out.fill(R::ZERO);
        }
        let possible = x.iter().all(|&x| x < R::INFINITY);
        return Mass { max: max.to_f64(), other: if possible { 0.0 } else { f64::NAN } };
    }
    let Some((out, scale)) = out else {
        return Mass { max: max.to_f64(), other: exponentials::<S, R, false>(x, max, &mut []) };
    };
    let other = exponentials::<S, R, true>(x, max, out);
    let factor = R::from_f64(scale / (1.0 + other));
    for y in out {
        *y *= factor;
    }
    Mass { max: max.to_f64(), other }
}

/// The sum of `exp(x - max)` over all elements but one that is the largest. Stores them all if `STORE`.
#[inline(always)]
fn exponentials<S: Isa, R: Real, const STORE: bool>(x: &[R], max: R, out: &mut [R]) -> f64 {
    let mut sums = [0.0; STEP];
    let (whole, rest) = x.as_chunks::<STEP>();
    let (out, out_rest) = out.as_chunks_mut::<STEP>();
    // The rest is padded with numbers whose exponential is 0.
    let mut last = [-R::INFINITY; STEP];
    if !rest.is_empty() {
        last[..rest.len()].copy_from_slice(rest);
    }
    let steps = whole.len() + usize::from(!rest.is_empty());
    for block in (0..steps).step_by(STEPS) {
        let (mut sum, mut ties) = ([R::ZERO; STEP], [R::ZERO; STEP]);
        for k in block..steps.min(block + STEPS) {
            let x = *whole.get(k).unwrap_or(&last);
            let mut e = [R::ZERO; STEP];
            for i in 0..STEP {
                e[i] = (x[i] - max).exp_nonpositive::<S>();
                let largest = x[i] == max;
                sum[i] += if largest { R::ZERO } else { e[i] };
                ties[i] += if largest { R::ONE } else { R::ZERO };
            }
            if STORE {
                match out.get_mut(k) {
                    Some(out) => *out = e,
                    None => out_rest.copy_from_slice(&e[..rest.len()]),
                }
            }
        }
        for i in 0..STEP {
            sums[i] += sum[i].to_f64() + ties[i].to_f64();
        }
    }
    fold(sums, Add::add) - 1.0
}

#[inline(always)]
fn scaled_exp<S: Isa, E: Element>(
    row: &[E],
    out: &mut [E],
    scale: f64,
    [x, y]: &mut [Vec<E::Real>; 2],
) {
    let x = E::load(row, x);
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
        let Inputs { rows, n, target, frames, .. } = *self.inputs;
        let mut x = vec![f64::NEG_INFINITY; target.stride];
        let parts = if self.form == Form::Wide { 2 } else { 1 };
        for (t, out) in self.frames.zip(self.out.chunks_exact_mut(parts * x.len())) {
            gather(rows.row(n, t), target, &mut x);
            let shift = frames[t].shift;
            match self.form {
                Form::Linear => {
                    subtract(&mut x, shift);
                    emit::<S>(&x, out);
                }
                Form::Wide => {
                    let (mantissas, exponents) = out.split_at_mut(x.len());
                    for ((m, k), &x) in mantissas.iter_mut().zip(exponents).zip(&x) {
                        (*m, *k) = wide::<S>(x - shift);
                    }
                }
                Form::Log => out.iter_mut().zip(&x).for_each(|(y, &x)| *y = x - shift),
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

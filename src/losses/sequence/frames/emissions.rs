//! The terms of a frame, which the first pass has found, and its emissions in any form, computed again from the inputs
//! where their rows are not kept.

use super::array::FrameArray;
use super::layout::EmissionLayout;
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::Float;
use crate::simd::{Isa, Kernel, Level, dispatch};
use std::f64::consts::LOG2_E;
use std::ops::Range;

/// Natural logarithms of emissions below minus this are taken to be -inf, except in [`EmissionForm::Exact`]. In bits
/// they are exact below 2^20.
pub const FAR_LOGIT: f64 = (1 << 19) as f64;

/// The terms of a frame: its part of the loss and of the gradient beside its emissions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame {
    /// The input whose emission is 1.
    pub shift: f64,
    /// The frame's part of the loss if all emissions were 1.
    pub base: f64,
    /// The gradient at a class is this times its emission, less its occupancy.
    pub factor: f64,
    /// How many bits the smallest emission lies below 1, not counting emissions of 0; with one of these it is at least
    /// [`ALONE`](super::blocks::ALONE).
    pub bits: f64,
    /// Whether emissions are computed in `f64` and relative to the largest of them, instead of in the type of the
    /// inputs and relative to the largest input.
    pub in_f64: bool,
}

/// A form of emission rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmissionForm {
    /// `exp(x - shift)`.
    Linear,
    /// A row of mantissas m and a row of exponents k, with `m * 2^k = exp(x - shift)` and m near 1.
    Extended,
    /// `x - shift`.
    Log,
    /// Two rows whose sum is `(x - shift) / 2` exactly, however far x lies below.
    Exact,
}

impl EmissionForm {
    /// Rows of numbers for each frame.
    pub fn rows(self) -> usize {
        if matches!(self, EmissionForm::Extended | EmissionForm::Exact) { 2 } else { 1 }
    }
}

/// Computes emission rows that are not kept.
pub trait EmissionSource: Sync {
    /// Fills `out` with the rows of some frames.
    fn fill(&self, form: EmissionForm, frames: Range<usize>, out: &mut [f64]) -> Result<()>;
}

/// The emissions of sample `n`, from its inputs.
pub struct FrameEmissions<'a, R> {
    pub level: Level,
    pub rows: &'a FrameArray<'a, R>,
    pub n: usize,
    pub layout: &'a EmissionLayout,
    pub frames: &'a [Frame],
}

impl<R: Real> EmissionSource for FrameEmissions<'_, R> {
    fn fill(&self, form: EmissionForm, frames: Range<usize>, out: &mut [f64]) -> Result<()> {
        dispatch(self.level, Gather { source: self, form, frames: frames.clone(), out })?;
        let frames = &self.frames[frames];
        // As a rule all linear emissions are in the type of the inputs.
        if form != EmissionForm::Linear || frames.iter().any(|frame| frame.in_f64) {
            dispatch(self.level, Emit { form, layout: self.layout, frames, out });
        }
        Ok(())
    }
}

/// Fills the first row of each frame with the emissions that are computed in the type of the inputs, else with the
/// inputs.
struct Gather<'a, 'b, R> {
    source: &'a FrameEmissions<'b, R>,
    form: EmissionForm,
    frames: Range<usize>,
    out: &'a mut [f64],
}

impl<R: Real> Kernel for Gather<'_, '_, R> {
    type Output = Result<()>;

    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        let FrameEmissions { rows, n, layout, frames, .. } = *self.source;
        let stride = layout.stride();
        let linear = self.form == EmissionForm::Linear;
        // With fewer classes than places it is less work to take the exponential of each class once.
        let few = rows.width() < stride && linear;
        let mut exps = memory::filled(R::ZERO, if few { rows.width() } else { 0 })?;
        let mut buffer = memory::filled(R::ZERO, rows.buffer_len())?;
        for (t, out) in self.frames.zip(self.out.chunks_exact_mut(self.form.rows() * stride)) {
            let x = rows.row(n, t);
            let Frame { shift, in_f64, .. } = frames[t];
            let out = &mut out[..stride];
            let shift = R::from_f64(shift);
            if few && !in_f64 {
                let x = x.load(&mut buffer);
                exps.iter_mut().zip(x).for_each(|(e, &x)| *e = x.exp_difference::<S>(shift));
                layout.gather(|class| exps[class].to_f64(), out);
                continue;
            }
            x.gather(layout, &mut buffer, out);
            if linear && !in_f64 {
                for e in out {
                    *e = R::from_f64(*e).exp_difference::<S>(shift).to_f64();
                }
            }
        }
        Ok(())
    }
}

/// Makes emissions of inputs, but for those that are made already.
struct Emit<'a> {
    form: EmissionForm,
    layout: &'a EmissionLayout,
    frames: &'a [Frame],
    out: &'a mut [f64],
}

impl Kernel for Emit<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self) {
        let Emit { form, layout, frames, out } = self;
        let stride = layout.stride();
        for (frame, out) in frames.iter().zip(out.chunks_exact_mut(form.rows() * stride)) {
            let Frame { shift, in_f64, .. } = *frame;
            let (out, second) = out.split_at_mut(stride);
            // No path reaches the places behind the labels.
            let beyond = layout.len..layout.width;
            match form {
                EmissionForm::Linear if !in_f64 => {}
                EmissionForm::Linear => {
                    for e in out {
                        *e = e.exp_difference::<S>(shift);
                    }
                }
                EmissionForm::Extended => {
                    for (m, k) in out.iter_mut().zip(second) {
                        (*m, *k) = extended_exp::<S>(*m, shift);
                    }
                    out[beyond].fill(0.0);
                }
                EmissionForm::Log => {
                    for x in &mut *out {
                        let e = *x - shift;
                        *x = if e < -FAR_LOGIT { f64::NEG_INFINITY } else { e };
                    }
                    out[beyond].fill(f64::NEG_INFINITY);
                }
                EmissionForm::Exact => {
                    for (x, low) in out.iter_mut().zip(second) {
                        (*x, *low) = difference(0.5 * *x, 0.5 * shift);
                    }
                    out[beyond].fill(f64::NEG_INFINITY);
                }
            }
        }
    }
}

/// `x - shift` rounded, and the rounding error.
#[inline(always)]
fn difference(x: f64, shift: f64) -> (f64, f64) {
    let rounded = x - shift;
    let minuend = rounded + shift;
    (rounded, (x - minuend) - (shift + (rounded - minuend)))
}

/// m and k with `exp(x - shift) = m * 2^k`, for `x <= shift`; both are 0 below [`FAR_LOGIT`].
#[inline(always)]
fn extended_exp<S: Isa>(x: f64, shift: f64) -> (f64, f64) {
    const LN2_HI: f64 = 0.693_147_180_369_123_8; // 33 bits, so that its products with k are exact below 2^20
    const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;
    let (x, lost) = difference(x, shift);
    let k = (x * LOG2_E).round_ties_even();
    let r = Float::mul_add::<S>(k, -LN2_LO, Float::mul_add::<S>(k, -LN2_HI, x)) + lost;
    let m = Real::exp::<S>(r);
    if x < -FAR_LOGIT { (0.0, 0.0) } else { (m, k) }
}

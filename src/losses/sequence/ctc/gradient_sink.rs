//! The results of occupancies: the gradient, the posteriors, and the probabilities of the alignment.

use super::frames::GROUP;
use super::frames::array::{FrameArray, FrameArrayMut, FrameElement, FrameRowMut};
use super::frames::buffer::resized;
use super::frames::emissions::EmissionForm;
use super::frames::lanes::as_groups;
use super::frames::occupancies::{Occupancies, OccupancySink};
use super::request::{CtcOutputs, GradientRows, PosteriorRows};
use super::step_buffers::CtcLattice;
use crate::error::Result;
use crate::math::Real;
use crate::num::{self, Float};
use crate::simd::{Isa, Kernel, dispatch};
use std::ops::Range;

/// Slopes that are converted to a half type at once.
const TOGETHER: usize = 64;

/// Writes the results of sample `n` that need occupancies.
pub struct GradientSink<'a, E> {
    pub n: usize,
    pub inputs: FrameArray<'a, E>,
    pub grad: Option<GradientRows<'a, E>>,
    pub outputs: &'a CtcOutputs<'a, E>,
    pub lattice: &'a CtcLattice<'a>,
}

impl<E: FrameElement> OccupancySink for GradientSink<'_, E> {
    fn take(
        &self,
        frames: Range<usize>,
        rows: &Occupancies<'_>,
        totals: &[[f64; 2]],
        e: Option<&[f64]>,
        scratch: &mut Vec<f64>,
    ) -> Result<()> {
        let target = self.lattice.target;
        if let Some(grad) = &self.grad {
            let stride = target.emissions.stride();
            let window = if e.is_some() { 0 } else { frames.len() * stride };
            let (slopes, window) = resized(scratch, stride + window)?.split_at_mut(stride);
            let e = if let Some(e) = e {
                e
            } else {
                self.lattice.source.fill(EmissionForm::Linear, frames.clone(), window)?;
                window
            };
            let (sink, frames) = (self, frames.clone());
            dispatch(
                self.lattice.level,
                WriteGradient { sink, grad, frames, rows, totals, e, slopes },
            );
        }
        if let Some(path) = self.outputs.alignment {
            for (i, t) in frames.clone().enumerate() {
                let state = self.row(&path.states, t).at(0);
                let first = if state % 2 == 1 { target.width() } else { 0 };
                let occupancy = rows.row(i)[first + state as usize / 2];
                self.row(&path.posteriors, t).set(0, occupancy / totals[i].iter().sum::<f64>());
            }
        }
        if let Some(posteriors) = self.outputs.posteriors {
            for (i, t) in frames.enumerate() {
                self.posteriors(rows.row(i), t, totals[i][0] + totals[i][1], &posteriors);
            }
        }
        Ok(())
    }
}

impl<E: FrameElement> GradientSink<'_, E> {
    /// The row of an output at frame t.
    #[inline(always)]
    fn row<'r, T: num::Element>(
        &self,
        rows: &'r FrameArrayMut<'_, T>,
        t: usize,
    ) -> FrameRowMut<'r, T> {
        // SAFETY: `take` is called once for each frame, and the frames of an output are written through one row at a
        // time. The states of the alignment are written before all of that, and only read here.
        unsafe { rows.row(self.n, t) }
    }

    fn posteriors(&self, row: &[f64], t: usize, total: f64, posteriors: &PosteriorRows<'_, E>) {
        let target = self.lattice.target;
        let (blank, label) = row.split_at(target.width());
        let reach = target.groups(t);
        let reach = reach.start * GROUP..(reach.end * GROUP).min(target.label_count() + 1);
        let mut out = self.row(posteriors.rows, t);
        out.fill(0..posteriors.rows.width(), E::of(0.0));
        if posteriors.blanks {
            out.set_each(reach.clone().map(|u| (2 * u, E::of(blank[u] / total))));
        }
        let (first, step) = if posteriors.blanks { (1, 2) } else { (0, 1) };
        let labels = reach.start..reach.end.min(target.label_count());
        out.set_each(labels.map(|u| (first + step * u, E::of(label[u] / total))));
    }
}

/// Writes `factor e - scale occupancy` for every class that occurs; the other classes have been written by the first
/// pass.
struct WriteGradient<'a, 'b, E> {
    sink: &'a GradientSink<'b, E>,
    grad: &'a GradientRows<'b, E>,
    frames: Range<usize>,
    rows: &'a Occupancies<'a>,
    totals: &'a [[f64; 2]],
    e: &'a [f64],
    /// The gradient by the place in an emission row.
    slopes: &'a mut [f64],
}

impl<E: FrameElement> Kernel for WriteGradient<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self) {
        let WriteGradient { sink, grad, frames, rows, totals, e, slopes } = self;
        let target = sink.lattice.target;
        // The group of the blank in an emission row stands behind those of the labels.
        let (scale, blank) = (grad.scale[sink.n], target.width() / GROUP);
        for ((i, t), e) in frames.enumerate().zip(e.chunks_exact(target.emissions.stride())) {
            let factor = sink.lattice.frames[t].factor;
            // The factor may overflow where the inputs are in range: then the softmax is taken from these.
            let direct = factor == f64::INFINITY;
            let factor = if direct { 0.0 } else { scale * factor };
            let share = -scale / (totals[i][0] + totals[i][1]);
            let groups = target.groups(t);
            let label = &rows.row(i)[target.width()..];
            let all = slopes.as_chunks_mut().0;
            for (slopes, e) in all.iter_mut().zip(as_groups(e)) {
                *slopes = S::mul(e, &[factor; GROUP]);
            }
            all[blank] = S::mul_add(&[totals[i][0]; GROUP], &[share; GROUP], &all[blank]);
            let reach = all[groups.clone()].iter_mut().zip(&as_groups(label)[groups.clone()]);
            for (slopes, occupancies) in reach {
                *slopes = S::mul_add(occupancies, &[share; GROUP], slopes);
            }
            let reach = groups.start * GROUP..groups.end * GROUP;
            for pair in target.emissions.repeats_within(&reach) {
                let [first, again] = pair.map(|u| u as usize);
                slopes[first] += share * label[again];
            }
            let mut out = sink.row(grad.rows, t);
            let classes = target.emissions.distinct.iter().map(|pair| pair.map(|i| i as usize));
            if direct {
                let x = sink.inputs.row(sink.n, t);
                for [place, class] in classes.clone() {
                    slopes[place] += scale * Real::exp::<S>(x.at(class).to::<f64>());
                }
            }
            if E::DIRECT {
                out.set_each(classes.map(|[place, class]| (class, E::of(slopes[place]))));
                continue;
            }
            for pairs in target.emissions.distinct.chunks(TOGETHER) {
                let mut numbers = [E::Real::ZERO; TOGETHER];
                for (x, &[place, _]) in numbers.iter_mut().zip(pairs) {
                    *x = E::Real::from_f64(slopes[place as usize]);
                }
                let mut elements = [E::of(0.0); TOGETHER];
                E::of_run(&numbers[..pairs.len()], &mut elements[..pairs.len()]);
                let classes = pairs.iter().map(|&[_, class]| class as usize);
                out.set_each(classes.zip(elements));
            }
        }
    }
}

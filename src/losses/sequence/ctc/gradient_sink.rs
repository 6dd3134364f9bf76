//! The results of occupancies: the gradient, the posteriors, and the probabilities of the alignment.

use super::frames::GROUP;
use super::frames::array::{FrameArray, FrameArrayMut, FrameRowMut};
use super::frames::emissions::EmissionForm;
use super::frames::lanes::as_groups;
use super::frames::occupancies::{Occupancies, OccupancySink};
use super::request::{CtcOutputs, GradientRows, PosteriorRows};
use super::step_buffers::CtcLattice;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::math::Real;
use crate::simd::{Isa, Kernel, dispatch};
use std::ops::Range;

/// Writes the results of sample `n` that need occupancies.
pub struct GradientSink<'a, R> {
    pub n: usize,
    pub inputs: &'a FrameArray<'a, R>,
    pub grad: Option<GradientRows<'a, R>>,
    pub outputs: &'a CtcOutputs<'a, R>,
    pub lattice: &'a CtcLattice<'a>,
}

impl<R: Real> OccupancySink for GradientSink<'_, R> {
    fn take(
        &self,
        frames: Range<usize>,
        rows: &Occupancies<'_>,
        totals: &[[f64; 2]],
        e: Option<&[f64]>,
        scratch: &mut Buffer<f64>,
    ) -> Result<()> {
        let target = self.lattice.target;
        if let Some(grad) = &self.grad {
            let stride = target.emissions.stride();
            let window = if e.is_some() { 0 } else { frames.len() * stride };
            let (slopes, window) = scratch.sized(stride + window)?.split_at_mut(stride);
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
            let path = &path[self.n * self.inputs.counts()[1]..];
            for (i, frame) in path[frames.clone()].iter().enumerate() {
                let state = frame.state();
                let first = if state % 2 == 1 { target.width() } else { 0 };
                let occupancy = rows.row(i)[first + state as usize / 2];
                frame.set_posterior(occupancy / totals[i].iter().sum::<f64>());
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

impl<R: Real> GradientSink<'_, R> {
    /// The row of an output at frame t.
    #[inline(always)]
    fn row<'r>(&self, rows: &'r FrameArrayMut<'_, R>, t: usize) -> FrameRowMut<'r, R> {
        // SAFETY: `take` is called once for each frame, and the frames of an output are written through one row at a
        // time.
        unsafe { rows.row(self.n, t) }
    }

    fn posteriors(&self, row: &[f64], t: usize, total: f64, posteriors: &PosteriorRows<'_, R>) {
        let target = self.lattice.target;
        let (blank, label) = row.split_at(target.width());
        let reach = target.groups(t);
        let reach = reach.start * GROUP..(reach.end * GROUP).min(target.label_count() + 1);
        let out = || self.row(posteriors.rows, t);
        out().fill(0..posteriors.rows.width(), R::ZERO);
        if posteriors.blanks {
            out().set_each(reach.clone().map(|u| (2 * u, R::from_f64(blank[u] / total))));
        }
        let (first, step) = if posteriors.blanks { (1, 2) } else { (0, 1) };
        let labels = reach.start..reach.end.min(target.label_count());
        out().set_each(labels.map(|u| (first + step * u, R::from_f64(label[u] / total))));
    }
}

/// Writes `factor e - scale occupancy` for every class that occurs; the other classes have been written by the first
/// pass.
struct WriteGradient<'a, 'b, R> {
    sink: &'a GradientSink<'b, R>,
    grad: &'a GradientRows<'b, R>,
    frames: Range<usize>,
    rows: &'a Occupancies<'a>,
    totals: &'a [[f64; 2]],
    e: &'a [f64],
    /// The gradient by the place in an emission row.
    slopes: &'a mut [f64],
}

impl<R: Real> Kernel for WriteGradient<'_, '_, R> {
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
            if direct {
                let x = sink.inputs.row(sink.n, t);
                for &[place, class] in &target.emissions.distinct {
                    let x = x.at(class as usize).to_f64();
                    slopes[place as usize] += scale * Real::exp::<S>(x);
                }
            }
            sink.row(grad.rows, t).scatter(&target.emissions, slopes);
        }
    }
}

//! What becomes of occupancies: gradient, posteriors.

use super::LANES;
use super::ctc::{Gradient, Outputs, Posteriors};
use super::frames::Form;
use super::planes::{lanes, sized};
use super::rows::{Element, Rows};
use super::sweep::{Lattice, Occupancies, Sink};
use crate::error::Result;
use crate::math::Real;
use crate::simd::{Isa, Kernel, dispatch};
use std::ops::Range;

/// Takes the occupancies of those who want none.
pub(super) struct Nobody;

impl Sink for Nobody {
    fn take(
        &self,
        _: Range<usize>,
        _: &Occupancies<'_>,
        _: &[[f64; 2]],
        _: Option<&[f64]>,
        _: &mut Vec<f64>,
    ) -> Result<()> {
        Ok(())
    }
}

/// Makes outputs of the occupancies of a sample.
pub(super) struct Taker<'a, E> {
    pub n: usize,
    pub inputs: Rows<'a, E>,
    pub grad: Option<Gradient<'a, E>>,
    pub outputs: &'a Outputs<'a, E>,
    pub lattice: &'a Lattice<'a>,
}

impl<E: Element> Sink for Taker<'_, E> {
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
            let stride = target.stride();
            let window = if e.is_some() { 0 } else { frames.len() * stride };
            let (slopes, window) = sized(scratch, stride + window)?.split_at_mut(stride);
            let e = if let Some(e) = e {
                e
            } else {
                self.lattice.source.fill(Form::Linear, frames.clone(), window)?;
                window
            };
            let (taker, frames) = (self, frames.clone());
            dispatch(self.lattice.level, Take { taker, grad, frames, rows, totals, e, slopes });
        }
        if let Some(path) = self.outputs.alignment {
            for (i, t) in frames.clone().enumerate() {
                // SAFETY: this call alone has the frames, and nobody writes states any more.
                let (state, mut out) =
                    unsafe { (path.states.row(self.n, t).at(0), path.posteriors.row(self.n, t)) };
                let plane = if state % 2 == 1 { target.width } else { 0 };
                let occupancy = rows.row(i)[plane + state as usize / 2];
                out.set(0, occupancy / totals[i].iter().sum::<f64>());
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

impl<E: Element> Taker<'_, E> {
    fn posteriors(&self, row: &[f64], t: usize, total: f64, posteriors: &Posteriors<'_, E>) {
        let target = self.lattice.target;
        let (blank, label) = row.split_at(target.width);
        let reach = target.groups(t);
        let reach = reach.start * LANES..(reach.end * LANES).min(target.len + 1);
        // SAFETY: `take` alone has the frames.
        let mut out = unsafe { posteriors.rows.row(self.n, t) };
        out.fill(0..posteriors.rows.width(), E::of(0.0));
        if posteriors.blanks {
            out.set_each(reach.clone().map(|u| (2 * u, E::of(blank[u] / total))));
        }
        let (first, step) = if posteriors.blanks { (1, 2) } else { (0, 1) };
        let labels = reach.start..reach.end.min(target.len);
        out.set_each(labels.map(|u| (first + step * u, E::of(label[u] / total))));
    }
}

struct Take<'a, 'b, E> {
    taker: &'a Taker<'b, E>,
    grad: &'a Gradient<'b, E>,
    frames: Range<usize>,
    rows: &'a Occupancies<'a>,
    totals: &'a [[f64; 2]],
    e: &'a [f64],
    /// An emission row's worth of numbers.
    slopes: &'a mut [f64],
}

impl<E: Element> Kernel for Take<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self) {
        let Take { taker, grad, frames, rows, totals, e, slopes } = self;
        let target = taker.lattice.target;
        let (scale, plane) = (grad.scale[taker.n], target.width / LANES);
        for ((i, t), e) in frames.enumerate().zip(e.chunks_exact(target.stride())) {
            let factor = taker.lattice.frames[t].factor;
            // What the emissions are relative to may be out of range where the inputs are not.
            let direct = factor == f64::INFINITY;
            let factor = if direct { 0.0 } else { scale * factor };
            let share = -scale / (totals[i][0] + totals[i][1]);
            let groups = target.groups(t);
            let label = &rows.row(i)[target.width..];
            let all = slopes.as_chunks_mut().0;
            for (slopes, e) in all.iter_mut().zip(lanes(e)) {
                *slopes = S::mul(e, &[factor; LANES]);
            }
            let blank = S::mul_add(&[totals[i][0]; LANES], &[share; LANES], &all[plane]);
            all[plane] = blank;
            let reach = all[groups.clone()].iter_mut().zip(&lanes(label)[groups.clone()]);
            for (slopes, occupancies) in reach {
                *slopes = S::mul_add(occupancies, &[share; LANES], slopes);
            }
            let reach = groups.start * LANES..groups.end * LANES;
            for [first, again] in target.repeats.iter().map(|pair| pair.map(|u| u as usize)) {
                let occupancy = if reach.contains(&again) { label[again] } else { 0.0 };
                slopes[first] += share * occupancy;
            }
            // SAFETY: this call alone has the frames.
            let mut out = unsafe { grad.rows.row(taker.n, t) };
            let classes = target.classes.iter().map(|pair| pair.map(|i| i as usize));
            if direct {
                let x = taker.inputs.row(taker.n, t);
                for [place, class] in classes.clone() {
                    slopes[place] += scale * Real::exp::<S>(x.at(class).to::<f64>());
                }
            }
            out.set_each(classes.map(|[place, class]| (class, E::of(slopes[place]))));
        }
    }
}

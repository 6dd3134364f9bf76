//! What becomes of occupancies: gradient, posteriors.

use super::LANES;
use super::ctc::{Gradient, Outputs, Posteriors};
use super::frames::{Form, Frame};
use super::planes::{groups_below, lanes};
use super::rows::Element;
use super::sweep::{Lattice, Sink};
use crate::simd::{Isa, Kernel, dispatch};
use std::ops::Range;

/// Takes the occupancies of those who want none.
pub(super) struct Nobody;

impl Sink for Nobody {
    fn take<'a>(
        &self,
        _: Range<usize>,
        _: &dyn Fn(usize) -> &'a [f64],
        _: &[[f64; 2]],
        _: &mut Vec<f64>,
    ) {
    }
}

/// Makes outputs of the occupancies of a sample.
pub(super) struct Taker<'a, E> {
    pub n: usize,
    pub grad: Option<Gradient<'a, E>>,
    pub outputs: &'a Outputs<'a, E>,
    pub lattice: &'a Lattice<'a>,
    pub frames: &'a [Frame],
}

impl<E: Element> Sink for Taker<'_, E> {
    fn take<'a>(
        &self,
        frames: Range<usize>,
        rows: &dyn Fn(usize) -> &'a [f64],
        totals: &[[f64; 2]],
        scratch: &mut Vec<f64>,
    ) {
        let target = self.lattice.target;
        if let Some(grad) = &self.grad {
            let stride = target.stride;
            let count = frames.len();
            let plane_len = target.width + LANES;
            scratch.resize(plane_len + (count + 1) * stride, 0.0);
            let (plane, rest) = scratch.split_at_mut(plane_len);
            let (slopes, window) = rest.split_at_mut(stride);
            let e = if let Some(table) = self.lattice.table {
                &table[frames.start * stride..frames.end * stride]
            } else {
                self.lattice.source.fill(Form::Linear, frames.clone(), window);
                window
            };
            let taker = self;
            let frames = frames.clone();
            dispatch(
                self.lattice.level,
                Take { taker, grad, frames, rows, totals, e, plane, slopes },
            );
        }
        if let Some(path) = self.outputs.alignment {
            for (i, t) in frames.clone().enumerate() {
                // SAFETY: this call alone has the frames, and nobody writes states any more.
                let (state, out) =
                    unsafe { (path.states.row(self.n, t)[0], path.posteriors.row(self.n, t)) };
                let plane = if state % 2 == 1 { target.width } else { 0 };
                out[0] = rows(i)[plane + state as usize / 2] / totals[i].iter().sum::<f64>();
            }
        }
        if let Some(posteriors) = self.outputs.posteriors {
            for (i, t) in frames.enumerate() {
                self.posteriors(rows(i), t, totals[i][0] + totals[i][1], &posteriors);
            }
        }
    }
}

impl<E: Element> Taker<'_, E> {
    fn posteriors(&self, row: &[f64], t: usize, total: f64, posteriors: &Posteriors<'_, E>) {
        let target = self.lattice.target;
        let (blank, label) = row.split_at(target.width);
        let reach = target.groups(t);
        let reach = reach.start * LANES..(reach.end * LANES).min(target.len + 1);
        // SAFETY: `take` alone has the frames.
        let out = unsafe { posteriors.rows.row(self.n, t) };
        out.fill(E::of(0.0));
        if posteriors.blanks {
            for u in reach.clone() {
                out[2 * u] = E::of(blank[u] / total);
            }
        }
        let (first, step) = if posteriors.blanks { (1, 2) } else { (0, 1) };
        for u in reach.start..reach.end.min(target.len) {
            out[first + step * u] = E::of(label[u] / total);
        }
    }
}

struct Take<'a, 'b, 'c, E> {
    taker: &'a Taker<'b, E>,
    grad: &'a Gradient<'b, E>,
    frames: Range<usize>,
    rows: &'a dyn Fn(usize) -> &'c [f64],
    totals: &'a [[f64; 2]],
    e: &'a [f64],
    /// A plane of labels, and what [`Target::sums`] wants behind it.
    plane: &'a mut [f64],
    /// One for each place in an emission row.
    slopes: &'a mut [f64],
}

impl<E: Element> Kernel for Take<'_, '_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self) {
        let Take { taker, grad, frames, rows, totals, e, plane, slopes } = self;
        let target = taker.lattice.target;
        let scale = grad.scale[taker.n];
        plane.fill(0.0);
        for (i, t) in frames.enumerate() {
            let groups = target.groups(t);
            // What has left the reach of the start is stale; nothing leaves that of the end.
            plane[..groups.start * LANES].fill(0.0);
            let label = &lanes(&rows(i)[target.width..])[groups.clone()];
            let reach = &mut plane.as_chunks_mut().0[groups];
            for g in groups_below(label.len()) {
                reach[g] = label[g];
            }
            for &[first, again] in &target.repeats {
                plane[first as usize] += plane[again as usize];
            }
            plane[target.width] = totals[i][0];
            let factor = taker.frames[t].factor;
            let inverse = 1.0 / (totals[i][0] + totals[i][1]);
            for (sums, places) in slopes.as_chunks_mut().0.iter_mut().zip(target.sums()) {
                *sums = S::gathered(plane, places);
            }
            for (slope, e) in slopes.iter_mut().zip(&e[i * target.stride..]) {
                *slope = scale * (factor * e - *slope * inverse);
            }
            // SAFETY: this call alone has the frames.
            let out = unsafe { grad.rows.row(taker.n, t) };
            if target.dense {
                out.iter_mut().zip(&*slopes).for_each(|(out, &slope)| *out = E::of(slope));
            } else {
                for (&class, &slope) in target.classes.iter().zip(&*slopes) {
                    out[class as usize] = E::of(slope);
                }
            }
        }
    }
}

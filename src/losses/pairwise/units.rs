//! Vectors of length 1: the cosine of two vectors is the dot product of theirs.
//!
//! They are in f64, each element within 1.5 ulp. With u = x / |x| the gradient with respect to x is `(g - u (g u)) / |x|`,
//! where g is the one with respect to u.

use crate::array::{View, ViewMut};
use crate::error::Result;
use crate::losses::rowwise::cosine_embedding::scale_for;
use crate::memory;
use crate::simd::Baseline;
use crate::sum::sum_exactly;

/// Lets `work` compute the gradients with respect to the vectors of both batches at length 1, from these, and makes them
/// those with respect to the batches.
pub fn by_units(
    batches: &[View<'_>; 2],
    grads: [Option<ViewMut<'_>>; 2],
    work: impl FnOnce([View<'_>; 2], [Option<ViewMut<'_>>; 2]) -> Result<()>,
) -> Result<()> {
    let units = [Units::of(&batches[0])?, Units::of(&batches[1])?];
    let mut by_units = [Vec::new(), Vec::new()];
    for ((by_units, units), out) in by_units.iter_mut().zip(&units).zip(&grads) {
        *by_units = memory::filled(0.0, if out.is_some() { units.x.len() } else { 0 })?;
    }
    let [by_first, by_second] = &mut by_units;
    let views = [(by_first, &grads[0]), (by_second, &grads[1])]
        .map(|(x, out)| Some(ViewMut::from_slice(x, out.as_ref()?.shape())));
    work(units.each_ref().map(Units::view), views)?;
    for ((by_units, units), out) in by_units.into_iter().zip(&units).zip(grads) {
        out.map_or(Ok(()), |out| units.pull(by_units, out))?;
    }
    Ok(())
}

/// Vectors of length 1, or of length 0.
struct Units {
    x: Vec<f64>,
    shape: [usize; 2],
    /// The length of each vector times a power of two, and that.
    lengths: Vec<[f64; 2]>,
}

impl Units {
    /// Of the rows of a matrix.
    fn of(view: &View<'_>) -> Result<Self> {
        let shape = [view.shape()[0], view.shape()[1]];
        let mut x = view.to_vec::<f64>()?;
        let mut lengths = memory::filled([0.0, 1.0], shape[0])?;
        let mut squares = memory::filled(0.0, shape[1])?;
        let mut length = |x: &[f64], scale: f64| {
            for (square, x) in squares.iter_mut().zip(x) {
                *square = (x * scale) * (x * scale);
            }
            sum_exactly::<Baseline, f64>(&squares)
        };
        for (x, of) in x.chunks_exact_mut(shape[1].max(1)).zip(&mut lengths) {
            let square = length(x, 1.0);
            let scale = scale_for(square);
            let square = if scale == 1.0 { square } else { length(x, scale) };
            *of = [square.sqrt(), scale];
            for x in x.iter_mut().filter(|_| square != 0.0) {
                *x = *x * scale / of[0];
            }
        }
        Ok(Units { x, shape, lengths })
    }

    /// The vectors.
    fn view(&self) -> View<'_> {
        View::from_slice(&self.x, &self.shape)
    }

    /// Makes gradients with respect to them those with respect to what they were made of.
    fn pull(&self, mut grads: Vec<f64>, out: ViewMut<'_>) -> Result<()> {
        let d = self.shape[1];
        let mut products = memory::filled(0.0, d)?;
        let rows = grads.chunks_exact_mut(d.max(1)).zip(self.x.chunks_exact(d.max(1)));
        for ((grads, unit), &[length, scale]) in rows.zip(&self.lengths) {
            for ((product, g), u) in products.iter_mut().zip(&*grads).zip(unit) {
                *product = g * u;
            }
            // A vector that does not count may hold anything.
            let is_constant = length == 0.0 || grads.iter().all(|&g| g == 0.0);
            let along = sum_exactly::<Baseline, f64>(&products);
            for (g, u) in grads.iter_mut().zip(unit) {
                let across = (*g - u * along) / length * scale;
                *g = if is_constant { 0.0 } else { across };
            }
        }
        out.copy_from(&grads);
        Ok(())
    }
}

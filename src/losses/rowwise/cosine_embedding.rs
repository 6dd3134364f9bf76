//! Cosine embedding loss: vectors u and v, alike (label 1) or not (label -1).
//!
//! With c = u v / (|u| |v|): `loss = 1 - c` for label 1, `max(0, c - margin)` for label -1. The gradient of c with respect
//! to u is `(v / |v| - c u / |u|) / |u|`, and likewise for v. At the margin the slope is 0. A vector that is exactly zero has
//! c = 0 and gradient 0; no other vector is too short or too long. Source: Apache MXNet Gluon, `CosineEmbeddingLoss`.

use super::kernel::{RowKernel, RowOutputs};
use super::plan::{Layout, RowPlan};
use crate::error::{Error, Kind, Result};
use crate::losses::call::{Axes, Call, Loss, Plan};
use crate::real::Real;
use crate::reduce::{BLOCK, sum_pairwise};
use crate::simd::Isa;
use crate::view::View;
use crate::weight::Weighting;
use smallvec::SmallVec;

/// The cosine embedding loss with its parameters.
#[derive(Clone, Copy)]
pub struct CosineEmbedding {
    /// The cosine up to which vectors count as different.
    pub margin: f64,
}

impl Loss for CosineEmbedding {
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        let given = call.input(0).shape();
        if given.is_empty() {
            let detail = "expected vectors along the last axis, got a number";
            return Err(Error::new(Kind::Shape, call.names[0], detail));
        }
        let (axes, vector) = Axes::rowwise(given, -1, call.options.batch_axis)?;
        let layout = if given.len() == 1 {
            Layout::new(&[1, given[0]], 0, Some(1))
        } else {
            Layout::new(given, axes.batch, Some(vector))
        };
        let weighting = axes.weighting(call)?;
        let inputs = [layout.input(call, 0)?, layout.input(call, 1)?];
        let kernel = Rows { labels: labels(call, &axes, &weighting)?, margin: self.margin };
        let (level, single) = (call.level, call.single());
        Ok(Box::new(RowPlan { kernel, level, single, axes, layout, inputs, weighting }))
    }
}

/// Whether each pair is alike, the batch axis first.
fn labels(call: &Call<'_>, axes: &Axes, weighting: &Weighting<'_>) -> Result<Vec<bool>> {
    let (name, given) = (call.names[2], call.input(2));
    let lined_up = axes.line_up(given).ok_or_else(|| {
        let detail = format!(
            "expected one label for each pair of vectors, shape {:?}, got shape {:?}",
            axes.shape,
            given.shape()
        );
        Error::new(Kind::Shape, name, detail)
    })?;
    let weights = weighting.sample_weight.as_ref().map(View::to_vec::<f64>);
    let check = |(row, &label): (usize, &f64)| {
        let weightless = weights.as_ref().is_some_and(|w| w[row] == 0.0);
        if label.abs() == 1.0 || weightless {
            return Ok(label == 1.0);
        }
        let index = axes.element(row, given.shape());
        Err(Error::element(Kind::Label, name, &index, label, "1 or -1"))
    };
    lined_up.to_vec::<f64>().iter().enumerate().map(check).collect()
}

struct Rows {
    labels: Vec<bool>,
    margin: f64,
}

impl<T: Real> RowKernel<T, 2> for Rows {
    const COST: f64 = 0.6;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        row: usize,
        [u, v]: [&[T]; 2],
        outputs: RowOutputs<'_, T, 2>,
        scale: f64,
    ) -> T {
        let pair = Pair::of::<S, T>(u, v);
        let (loss, slope) = if self.labels[row] {
            (1.0 - pair.cos, -scale)
        } else {
            let excess = pair.cos - self.margin;
            (excess.where_positive(excess), scale.where_positive(excess))
        };
        // c's derivative is v / (|u| |v|) - u c / |u|^2, of a zero vector 0.
        let over = |x: f64, y: f64| if y == 0.0 { 0.0 } else { x / y };
        let toward = over(slope, pair.norms);
        let [by_u, by_v] = outputs.grads;
        let [scale_u, scale_v] = pair.scales;
        let ways =
            [(by_u, u, scale_u, pair.uu, v, scale_v), (by_v, v, scale_v, pair.vv, u, scale_u)];
        for (grad, x, scale_x, square, y, scale_y) in ways {
            let Some(grad) = grad else { continue };
            let back = over(slope * pair.cos, square);
            for ((g, &x), &y) in grad.iter_mut().zip(x).zip(y) {
                let (x, y) = (x.to_f64() * scale_x, y.to_f64() * scale_y);
                *g = T::from_f64((y * toward - x * back) * scale_x);
            }
        }
        T::from_f64(loss)
    }
}

/// Two vectors: their cosine and what its gradient needs. Everything is in f64, where products of f32 are exact.
struct Pair {
    cos: f64,
    /// Powers of two that bring the vectors into range. The rest is of the scaled vectors.
    scales: [f64; 2],
    /// The product of the lengths.
    norms: f64,
    /// The squared lengths.
    uu: f64,
    vv: f64,
}

impl Pair {
    #[inline(always)]
    fn of<S: Isa, T: Real>(u: &[T], v: &[T]) -> Self {
        let (mut products, mut scales) = (Products::of::<S, T>(u, v, [1.0; 2]), [1.0; 2]);
        if [products.uu, products.vv].iter().any(|&square| scale_for(square) != 1.0) {
            scales = [scale_for(products.uu), scale_for(products.vv)];
            products = Products::of::<S, T>(u, v, scales);
        }
        let Products { uv, uu, vv } = products;
        // Where it is in range, the root of the product: of equal vectors the cosine is exactly 1.
        let norms = if (uu * vv).is_normal() { (uu * vv).sqrt() } else { uu.sqrt() * vv.sqrt() };
        let cos = if norms == 0.0 { uv } else { uv / norms };
        let cos = if cos > 1.0 { 1.0 } else { cos };
        let cos = if cos < -1.0 { -1.0 } else { cos };
        Pair { cos, scales, norms, uu, vv }
    }
}

/// The power of two by which to multiply a vector whose sum of squares is `square`, right or out of range.
#[inline(always)]
fn scale_for(square: f64) -> f64 {
    const FAR: f64 = 1e250;
    let up = f64::from_bits((1023 + 600) << 52);
    if square > FAR {
        1.0 / up
    } else if square < 1.0 / FAR {
        up
    } else {
        1.0
    }
}

/// Sums of products of two vectors.
#[derive(Clone, Copy)]
struct Products {
    uv: f64,
    uu: f64,
    vv: f64,
}

impl Products {
    #[inline(always)]
    fn of<S: Isa, T: Real>(u: &[T], v: &[T], scales: [f64; 2]) -> Self {
        let mut blocks = SmallVec::<[Products; 4]>::new();
        for (u, v) in u.chunks(BLOCK).zip(v.chunks(BLOCK)) {
            blocks.push(Products::of_block::<S, T>(u, v, scales));
        }
        let sum = |of: fn(&Products) -> f64| sum_pairwise(0..blocks.len(), &|i| of(&blocks[i]));
        Products { uv: sum(|p| p.uv), uu: sum(|p| p.uu), vv: sum(|p| p.vv) }
    }

    #[inline(always)]
    fn of_block<S: Isa, T: Real>(u: &[T], v: &[T], [of_u, of_v]: [f64; 2]) -> Self {
        const LANES: usize = 16;
        let ((u, u_rest), (v, v_rest)) = (u.as_chunks::<LANES>(), v.as_chunks::<LANES>());
        let [mut uv, mut uu, mut vv] = [[0.0; LANES]; 3];
        for (u, v) in u.iter().zip(v) {
            for l in 0..LANES {
                let (u, v) = (u[l].to_f64() * of_u, v[l].to_f64() * of_v);
                uv[l] = Real::mul_add::<S>(u, v, uv[l]);
                uu[l] = Real::mul_add::<S>(u, u, uu[l]);
                vv[l] = Real::mul_add::<S>(v, v, vv[l]);
            }
        }
        let mut half = LANES / 2;
        while half > 0 {
            for lanes in [&mut uv, &mut uu, &mut vv] {
                for l in 0..half {
                    lanes[l] += lanes[l + half];
                }
            }
            half /= 2;
        }
        let mut sums = Products { uv: uv[0], uu: uu[0], vv: vv[0] };
        for (u, v) in u_rest.iter().zip(v_rest) {
            let (u, v) = (u.to_f64() * of_u, v.to_f64() * of_v);
            sums.uv += u * v;
            sums.uu += u * u;
            sums.vv += v * v;
        }
        sums
    }
}

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
use crate::reduce::sum_pairwise;
use crate::simd::Isa;
use crate::view::View;
use crate::weight::Weighting;
use smallvec::SmallVec;

/// Longest run whose products are summed at once: in f64 a vector's own sums have no digits to spare.
const PRODUCTS: usize = 256;

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
    let weights = weighting.sample_weight.as_ref().map(View::to_vec::<f64>).transpose()?;
    let check = |(row, &label): (usize, &f64)| {
        let weightless = weights.as_ref().is_some_and(|w| w[row] == 0.0);
        if label.abs() == 1.0 || weightless {
            return Ok(label == 1.0);
        }
        let index = axes.element(row, given.shape());
        Err(Error::element(Kind::Label, name, &index, label, "1 or -1"))
    };
    lined_up.to_vec::<f64>()?.iter().enumerate().map(check).collect()
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
        let back = [pair.uu, pair.vv].map(|square| over(slope * pair.cos, square));
        let scaled = pair.scales != [1.0; 2];
        if !scaled && [toward, back[0], back[1]].into_iter().all(fits::<T>) {
            let [toward, back_u, back_v] = [toward, back[0], back[1]].map(T::from_f64);
            pull(outputs.grads, [u, v], |u, v| [v * toward - u * back_u, u * toward - v * back_v]);
        } else {
            let [scale_u, scale_v] = pair.scales;
            pull(outputs.grads, [u, v], |u, v| {
                let (u, v) = (u.to_f64() * scale_u, v.to_f64() * scale_v);
                let by_u = (v * toward - u * back[0]) * scale_u;
                let by_v = (u * toward - v * back[1]) * scale_v;
                [by_u, by_v].map(T::from_f64)
            });
        }
        T::from_f64(loss)
    }
}

/// Whether a factor keeps its precision in `T`.
#[inline(always)]
fn fits<T: Real>(factor: f64) -> bool {
    let size = T::from_f64(factor).abs();
    factor == 0.0 || (size >= T::MIN_POSITIVE && size < T::INFINITY)
}

/// Fills what is wanted of both gradients, element by element.
#[inline(always)]
fn pull<T: Real>(grads: [Option<&mut [T]>; 2], [u, v]: [&[T]; 2], slopes: impl Fn(T, T) -> [T; 2]) {
    match grads {
        [Some(by_u), Some(by_v)] => {
            for (((by_u, by_v), &u), &v) in by_u.iter_mut().zip(by_v).zip(u).zip(v) {
                [*by_u, *by_v] = slopes(u, v);
            }
        }
        grads => {
            for (of, grad) in grads.into_iter().enumerate() {
                let Some(grad) = grad else { continue };
                for ((g, &u), &v) in grad.iter_mut().zip(u).zip(v) {
                    *g = slopes(u, v)[of];
                }
            }
        }
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
        let mut blocks = SmallVec::<[Products; 16]>::new();
        for (u, v) in u.chunks(PRODUCTS).zip(v.chunks(PRODUCTS)) {
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
        let mut rest = Products { uv: 0.0, uu: 0.0, vv: 0.0 };
        for (u, v) in u_rest.iter().zip(v_rest) {
            let (u, v) = (u.to_f64() * of_u, v.to_f64() * of_v);
            rest.uv += u * v;
            rest.uu += u * u;
            rest.vv += v * v;
        }
        Products { uv: uv[0] + rest.uv, uu: uu[0] + rest.uu, vv: vv[0] + rest.vv }
    }
}

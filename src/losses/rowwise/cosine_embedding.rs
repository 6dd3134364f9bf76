//! Cosine embedding loss: vectors u and v, alike (label 1) or not (label -1).
//!
//! With c = u v / (|u| |v|): `loss = 1 - c` for label 1, `max(0, c - margin)` for label -1. The gradient of c with respect
//! to u is `v / (|u| |v|) - u (u v) / (|u| |v| u u)`, and likewise for v. At the margin the slope is 0. A vector that is
//! exactly zero has c = 0 and gradient 0; no other vector is too short or too long.
//!
//! In f64, whose products and sums have no digits to spare, what they round off is kept, and so is what the factors of
//! the gradient round off: a gradient has three roundings left, each of half an ulp of its two terms at most.
//!
//! Source: Apache MXNet Gluon, `CosineEmbeddingLoss`.

use super::AXIS;
use super::plan::plan;
use crate::drive::Axes;
use crate::drive::row_kernel::{Row, RowKernel, RowOutputs};
use crate::error::{Error, Kind, Result};
use crate::math::Real;
use crate::num::{DType, Float, Scalar, Twofold, two_product, two_sum};
use crate::registry::{
    Bound, Call, Domain, Family, Gradient, Loss, OUT_OF_RANGE, Options, Plan, SAMPLE_WEIGHT,
    ShapeRule, Spec, Unreduced, float, input,
};
use crate::simd::{Baseline, Isa};

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "CosineEmbeddingLoss",
    family: Family::Rowwise,
    inputs: &[
        input("input1", Domain::Real, Gradient::Default).shaped(ShapeRule::First),
        input("input2", Domain::Real, Gradient::Default),
        input("label", Domain::Sign, Gradient::Never).shaped(ShapeRule::PerVector),
        SAMPLE_WEIGHT,
    ],
    params: &[float("margin", 0.0, Bound::Finite), AXIS, OUT_OF_RANGE],
    unreduced: Unreduced::Row,
    hess: false,
    kinks: "cosine of input1 and input2 == margin",
    build: |p| {
        Ok(Box::new(CosineEmbedding {
            axis: p.int("axis").unwrap_or(-1) as isize,
            margin: p.float("margin"),
        }))
    },
};

crate::front::typed! {
    /// Cosine embedding loss of vectors that are alike (label 1) or not (label -1).
    CosineEmbeddingLoss(input1, input2, label) { margin: f64, axis: i64, out_of_range: &str }
}

/// Longest run whose products are summed at once.
const PRODUCTS: usize = 256;

/// Sums of products side by side.
const LANES: usize = 16;

/// The cosine embedding loss with its parameters.
#[derive(Clone, Copy)]
pub struct CosineEmbedding {
    axis: isize,
    margin: f64,
}

impl Loss for CosineEmbedding {
    fn axes(&self, first: (&str, &[usize]), options: &Options) -> Result<Axes> {
        if first.1.is_empty() {
            let detail = "expected vectors along an axis, got a number";
            return Err(Error::new(Kind::Shape, first.0, detail));
        }
        Axes::rowwise(first, self.axis, options.batch_axis)
    }
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        plan::<_, 2, 1>(*self, call)
    }
}

impl<T: Real> RowKernel<T, 2, 1> for CosineEmbedding {
    const COST: f64 = 0.6;
    type Scratch = ();

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        row: Row<'_, T, 2, 1>,
        outputs: RowOutputs<'_, T, 2, 1>,
        (): &mut (),
        scale: f64,
    ) -> T {
        // A label other than 1 says that they are not alike, where it is allowed.
        let alike = row.numbers[0] == T::ONE;
        if T::DTYPE == DType::F32 {
            self.pair::<S, T, f64>(alike, row.vectors, outputs.grads, scale)
        } else {
            self.pair::<S, T, Twofold>(alike, row.vectors, outputs.grads, scale)
        }
    }

    #[expect(clippy::disallowed_macros, reason = "one number")]
    fn kinks(&self, Row { vectors: [u, v], .. }: Row<'_, f64, 2, 1>) -> Vec<f64> {
        let Pair { uv, norms, .. } = Pair::<f64>::of::<Baseline, f64>(u, v);
        vec![if norms == 0.0 { 0.0 } else { uv / norms } - self.margin]
    }
}

impl CosineEmbedding {
    #[inline(always)]
    fn pair<S: Isa, T: Real, W: Scalar>(
        &self,
        alike: bool,
        [u, v]: [&[T]; 2],
        grads: [Option<&mut [T]>; 2],
        scale: f64,
    ) -> T {
        let Pair { scales, uv, squares, norms } = Pair::<W>::of::<S, T>(u, v);
        let cos = if norms.high() == 0.0 { uv.high() } else { uv.over::<S>(norms).high() };
        let cos = if cos > 1.0 { 1.0 } else { cos };
        let cos = if cos < -1.0 { -1.0 } else { cos };
        let (loss, slope) = if alike {
            (1.0 - cos, -scale)
        } else {
            let excess = cos - self.margin;
            (excess.where_positive(excess), scale.where_positive(excess))
        };
        let loss = T::from_f64(loss);
        if grads.iter().all(Option::is_none) {
            return loss;
        }
        // Of a zero vector all is 0.
        let over = |x: W, y: W| if y.high() == 0.0 { W::of(0.0, 0.0) } else { x.over::<S>(y) };
        let toward = over(W::of(slope, 0.0), norms);
        let back = squares.map(|square| toward.times::<S>(over(uv, square)));
        let factors = [toward, back[0], back[1]];
        let fit = scales == [1.0; 2] && factors.iter().all(|f| T::fits(f.high()));
        if T::DTYPE == DType::F32 && fit {
            let [toward, back_u, back_v] = factors.map(|f| T::from_f64(f.high()));
            pull(grads, [u, v], Narrow { toward, back: [back_u, back_v] });
        } else {
            let [toward, back_u, back_v] = factors.map(|f| [f.high(), f.low()]);
            pull(grads, [u, v], Wide { scales, toward, back: [back_u, back_v] });
        }
        loss
    }
}

/// The gradients at one element of each vector.
trait Slopes<T>: Copy {
    fn at(self, u: T, v: T) -> [T; 2];
}

/// With factors that `T` holds.
#[derive(Clone, Copy)]
struct Narrow<T> {
    toward: T,
    back: [T; 2],
}

impl<T: Real> Slopes<T> for Narrow<T> {
    #[inline(always)]
    fn at(self, u: T, v: T) -> [T; 2] {
        let Narrow { toward, back } = self;
        [v * toward - u * back[0], u * toward - v * back[1]]
    }
}

/// With factors that are sums of two numbers, and of vectors that are scaled.
#[derive(Clone, Copy)]
struct Wide {
    scales: [f64; 2],
    toward: [f64; 2],
    back: [[f64; 2]; 2],
}

impl<T: Real> Slopes<T> for Wide {
    #[inline(always)]
    fn at(self, u: T, v: T) -> [T; 2] {
        let Wide { scales, toward, back } = self;
        let (u, v) = (u.to_f64() * scales[0], v.to_f64() * scales[1]);
        let low_u = v * toward[1] - u * back[0][1];
        let low_v = u * toward[1] - v * back[1][1];
        let by_u = (v * toward[0] - u * back[0][0]) + low_u;
        let by_v = (u * toward[0] - v * back[1][0]) + low_v;
        [T::from_f64(by_u * scales[0]), T::from_f64(by_v * scales[1])]
    }
}

/// Fills what is wanted of both gradients, element by element.
#[inline(always)]
fn pull<T: Real>(grads: [Option<&mut [T]>; 2], [u, v]: [&[T]; 2], slopes: impl Slopes<T>) {
    match grads {
        [Some(by_u), Some(by_v)] => {
            for (((by_u, by_v), &u), &v) in by_u.iter_mut().zip(by_v).zip(u).zip(v) {
                [*by_u, *by_v] = slopes.at(u, v);
            }
        }
        grads => {
            for (of, grad) in grads.into_iter().enumerate() {
                let Some(grad) = grad else { continue };
                for ((g, &u), &v) in grad.iter_mut().zip(u).zip(v) {
                    *g = slopes.at(u, v)[of];
                }
            }
        }
    }
}

/// What the cosine of two vectors and its gradient need. Products of f32 are exact in f64.
struct Pair<W> {
    /// Powers of two that bring the vectors into range. The rest is of the scaled vectors.
    scales: [f64; 2],
    uv: W,
    /// The squared lengths.
    squares: [W; 2],
    /// The product of the lengths.
    norms: W,
}

impl<W: Scalar> Pair<W> {
    #[inline(always)]
    fn of<S: Isa, T: Real>(u: &[T], v: &[T]) -> Self {
        let (mut products, mut scales) = (Products::of::<S, T>(u, v, [1.0; 2]), [1.0; 2]);
        let found = [products.uu, products.vv].map(|square: W| scale_for(square.high()));
        if found != scales {
            scales = found;
            products = Products::of::<S, T>(u, v, scales);
        }
        let Products { uv, uu, vv } = products;
        // Where it is in range, the root of the product: of equal vectors the cosine is exactly 1.
        let product = uu.times::<S>(vv);
        let norms = if product.high().is_normal() {
            product.root::<S>()
        } else {
            uu.root::<S>().times::<S>(vv.root::<S>())
        };
        Pair { scales, uv, squares: [uu, vv], norms }
    }
}

/// The power of two by which to multiply a vector whose sum of squares is `square`, right or out of range.
#[inline(always)]
pub(crate) fn scale_for(square: f64) -> f64 {
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
struct Products<W> {
    uv: W,
    uu: W,
    vv: W,
}

impl<W: Scalar> Products<W> {
    #[inline(always)]
    fn of<S: Isa, T: Real>(u: &[T], v: &[T], scales: [f64; 2]) -> Self {
        let mut sums = [[0.0; 2]; 3];
        for (u, v) in u.chunks(PRODUCTS).zip(v.chunks(PRODUCTS)) {
            for (sum, part) in sums.iter_mut().zip(of_block::<S, T>(u, v, scales)) {
                let [total, rounded] = two_sum(sum[0], part[0]);
                *sum = [total, sum[1] + (part[1] + rounded)];
            }
        }
        let [uv, uu, vv] =
            sums.map(|[sum, lost]| W::of(sum, if lost.is_nan() { 0.0 } else { lost }));
        Products { uv, uu, vv }
    }
}

/// The sums of u v, u u and v v, and what they have lost to rounding where that can be seen.
#[inline(always)]
fn of_block<S: Isa, T: Real>(u: &[T], v: &[T], scales: [f64; 2]) -> [[f64; 2]; 3] {
    if T::DTYPE == DType::F32 {
        of_block_fast::<S, T>(u, v, scales).map(|sum| [sum, 0.0])
    } else {
        of_block_exactly::<S, T>(u, v, scales)
    }
}

/// The sums alone, of products that are exact.
#[inline(always)]
fn of_block_fast<S: Isa, T: Real>(u: &[T], v: &[T], [of_u, of_v]: [f64; 2]) -> [f64; 3] {
    let ((u, u_rest), (v, v_rest)) = (u.as_chunks::<LANES>(), v.as_chunks::<LANES>());
    let [mut uv, mut uu, mut vv] = [[0.0; LANES]; 3];
    for (u, v) in u.iter().zip(v) {
        for l in 0..LANES {
            let (u, v) = (u[l].to_f64() * of_u, v[l].to_f64() * of_v);
            uv[l] = Float::mul_add::<S>(u, v, uv[l]);
            uu[l] = Float::mul_add::<S>(u, u, uu[l]);
            vv[l] = Float::mul_add::<S>(v, v, vv[l]);
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
    let [mut uv_rest, mut uu_rest, mut vv_rest] = [0.0; 3];
    for (u, v) in u_rest.iter().zip(v_rest) {
        let (u, v) = (u.to_f64() * of_u, v.to_f64() * of_v);
        uv_rest += u * v;
        uu_rest += u * u;
        vv_rest += v * v;
    }
    [uv[0] + uv_rest, uu[0] + uu_rest, vv[0] + vv_rest]
}

/// The sums, each with what products and additions round off.
#[inline(always)]
fn of_block_exactly<S: Isa, T: Real>(u: &[T], v: &[T], [of_u, of_v]: [f64; 2]) -> [[f64; 2]; 3] {
    let ((u, u_rest), (v, v_rest)) = (u.as_chunks::<LANES>(), v.as_chunks::<LANES>());
    let [mut uv, mut uu, mut vv] = [[0.0; LANES]; 3];
    let [mut uv_lost, mut uu_lost, mut vv_lost] = [[0.0; LANES]; 3];
    for (u, v) in u.iter().zip(v) {
        for l in 0..LANES {
            let (u, v) = (u[l].to_f64() * of_u, v[l].to_f64() * of_v);
            (uv[l], uv_lost[l]) = add::<S>(uv[l], uv_lost[l], u, v);
            (uu[l], uu_lost[l]) = add::<S>(uu[l], uu_lost[l], u, u);
            (vv[l], vv_lost[l]) = add::<S>(vv[l], vv_lost[l], v, v);
        }
    }
    for (l, (u, v)) in u_rest.iter().zip(v_rest).enumerate() {
        let (u, v) = (u.to_f64() * of_u, v.to_f64() * of_v);
        (uv[l], uv_lost[l]) = add::<S>(uv[l], uv_lost[l], u, v);
        (uu[l], uu_lost[l]) = add::<S>(uu[l], uu_lost[l], u, u);
        (vv[l], vv_lost[l]) = add::<S>(vv[l], vv_lost[l], v, v);
    }
    [fold(uv, uv_lost), fold(uu, uu_lost), fold(vv, vv_lost)]
}

/// The sum of all lanes, and what the lanes and their additions have lost.
#[inline(always)]
fn fold(mut sums: [f64; LANES], mut lost: [f64; LANES]) -> [f64; 2] {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            let [sum, rounded] = two_sum(sums[l], sums[l + half]);
            sums[l] = sum;
            lost[l] += lost[l + half] + rounded;
        }
        half /= 2;
    }
    [sums[0], lost[0]]
}

/// Adds a product to a sum, and what both round off to what the sum has lost.
#[inline(always)]
fn add<S: Isa>(sum: f64, lost: f64, a: f64, b: f64) -> (f64, f64) {
    let [product, error] = two_product::<S>(a, b);
    let [new, rounded] = two_sum(sum, product);
    (new, lost + (error + rounded))
}

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
use super::products::{ColumnProducts, Products};
use crate::buffer::Buffer;
use crate::drive::Axes;
use crate::drive::columns::{ColumnRows, Columns};
use crate::drive::row_kernel::{Row, RowKernel, RowOutputs, Scratch};
use crate::error::{Error, Kind, Result};
use crate::math::Real;
use crate::num::{DType, Float, Scalar, Twofold};
use crate::registry::{
    Bound, Call, Domain, Family, Gradient, Loss, OUT_OF_RANGE, Options, Plan, SAMPLE_WEIGHT,
    ShapeRule, Spec, Unreduced, float, input,
};
use crate::simd::{self, Baseline, Isa, Kernel};
use std::marker::PhantomData;

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
    const BY_COLUMNS: bool = true;
    type Scratch = CosineSideBySide<T>;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        row: Row<'_, T, 2, 1>,
        outputs: RowOutputs<'_, T, 2, 1>,
        _: &mut CosineSideBySide<T>,
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

    #[inline(always)]
    fn columns<S: Isa>(
        &self,
        mut rows: ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
        scratch: &mut CosineSideBySide<T>,
    ) -> Result<bool> {
        if T::DTYPE == DType::F32 {
            self.by_columns::<S, T, f64>(&mut rows, columns, scratch)
        } else {
            self.by_columns::<S, T, Twofold>(&mut rows, columns, scratch)
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
        let pair = Pair::<W>::of::<S, T>(u, v);
        let (loss, slope) = self.loss::<S, W>(&pair, alike, scale);
        let loss = T::from_f64(loss);
        if grads.iter().all(Option::is_none) {
            return loss;
        }
        let (scales, factors) = (pair.scales, pair.factors::<S>(slope));
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

    #[inline(always)]
    fn by_columns<S: Isa, T: Real, W: Scalar>(
        &self,
        rows: &mut ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
        scratch: &mut CosineSideBySide<T>,
    ) -> Result<bool> {
        let CosineSideBySide { products, factors } = scratch;
        let (count, elements) = (columns.rows(), columns.elements());
        let exact = T::DTYPE == DType::F64;
        products.start(elements, count, exact)?;
        let mut reader = columns.read();
        for c in 0..elements {
            let [u, v] = reader.column(c)?;
            products.add::<S, T>(u, v);
        }
        for part in factors.as_flattened_mut() {
            part.sized(count)?;
        }
        let mut factors = factors.each_mut().map(|parts| parts.each_mut().map(|part| &mut part[..]));
        for (r, &scale) in rows.scale.iter().enumerate() {
            let products = products.total::<W>(r);
            if [products.uu, products.vv].map(|square| scale_for(square.high())) != [1.0; 2] {
                return Ok(false);
            }
            let pair = Pair::new::<S>([1.0; 2], products);
            let (loss, slope) = self.loss::<S, W>(&pair, rows.numbers[0][r] == T::ONE, scale);
            rows.value[r] = T::from_f64(loss);
            for (parts, found) in factors.iter_mut().zip(pair.factors::<S>(slope)) {
                if !T::fits(found.high()) {
                    return Ok(false);
                }
                for (part, found) in parts.iter_mut().zip([found.high(), found.low()]) {
                    part[r] = T::from_f64(found);
                }
            }
        }
        if !columns.derives() {
            return Ok(true);
        }
        let factors = factors.each_ref().map(|parts| parts.each_ref().map(|part| &part[..count]));
        let [toward, back_u, back_v] = factors;
        let mut writer = columns.write();
        for c in 0..elements {
            let ([u, v], grads) = writer.column(c)?;
            let sides = [(u, v, back_u), (v, u, back_v)];
            for (grad, (own, other, back)) in grads.into_iter().zip(sides) {
                let Some(grad) = grad else { continue };
                let (grad, own, other) = (&mut grad[..count], &own[..count], &other[..count]);
                for r in 0..count {
                    let by = |part: usize| other[r] * toward[part][r] - own[r] * back[part][r];
                    grad[r] = if exact { by(0) + by(1) } else { by(0) };
                }
            }
            writer.finish(c);
        }
        Ok(true)
    }

    /// The loss, and its derivative with respect to the cosine, times `scale`.
    #[inline(always)]
    fn loss<S: Isa, W: Scalar>(&self, pair: &Pair<W>, alike: bool, scale: f64) -> (f64, f64) {
        let Pair { uv, norms, .. } = *pair;
        let cos = if norms.high() == 0.0 { uv.high() } else { uv.over::<S>(norms).high() };
        let cos = if cos > 1.0 { 1.0 } else { cos };
        let cos = if cos < -1.0 { -1.0 } else { cos };
        if alike {
            return (1.0 - cos, -scale);
        }
        let excess = cos - self.margin;
        (excess.where_positive(excess), scale.where_positive(excess))
    }
}

/// The gradients at one element of each vector.
trait CosineSlopes<T>: Copy {
    fn at(self, u: T, v: T) -> [T; 2];
}

/// With factors that `T` holds.
#[derive(Clone, Copy)]
struct Narrow<T> {
    toward: T,
    back: [T; 2],
}

impl<T: Real> CosineSlopes<T> for Narrow<T> {
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

impl<T: Real> CosineSlopes<T> for Wide {
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
fn pull<T: Real>(grads: [Option<&mut [T]>; 2], [u, v]: [&[T]; 2], slopes: impl CosineSlopes<T>) {
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
            products = simd::dispatch(S::LEVEL, OfScaled { u, v, scales, of: PhantomData });
        }
        Self::new::<S>(scales, products)
    }

    #[inline(always)]
    fn new<S: Isa>(scales: [f64; 2], Products { uv, uu, vv }: Products<W>) -> Self {
        // Where it is in range, the root of the product: of equal vectors the cosine is exactly 1.
        let product = uu.times::<S>(vv);
        let norms = if product.high().is_normal() {
            product.root::<S>()
        } else {
            uu.root::<S>().times::<S>(vv.root::<S>())
        };
        Pair { scales, uv, squares: [uu, vv], norms }
    }

    /// What one vector is multiplied by in the gradient of the other, and each of them in its own.
    #[inline(always)]
    fn factors<S: Isa>(&self, slope: f64) -> [W; 3] {
        let [uu, vv] = self.squares;
        let toward = or_zero::<S, W>(W::of(slope, 0.0), self.norms);
        let [back_u, back_v] = [or_zero::<S, W>(self.uv, uu), or_zero::<S, W>(self.uv, vv)];
        [toward, toward.times::<S>(back_u), toward.times::<S>(back_v)]
    }
}

/// x / y, or 0 if y is 0: of a zero vector all is 0.
#[inline(always)]
fn or_zero<S: Isa, W: Scalar>(x: W, y: W) -> W {
    if y.high() == 0.0 { W::of(0.0, 0.0) } else { x.over::<S>(y) }
}

/// [`Products::of`] vectors that have to be scaled, which is rare.
struct OfScaled<'a, T, W> {
    u: &'a [T],
    v: &'a [T],
    scales: [f64; 2],
    of: PhantomData<W>,
}

impl<T: Real, W: Scalar> Kernel for OfScaled<'_, T, W> {
    type Output = Products<W>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Products<W> {
        Products::of::<S, T>(self.u, self.v, self.scales)
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

/// What columns need: sums of products, and the factors of the gradients with what these round off.
#[derive(std::default::Default)]
pub struct CosineSideBySide<T> {
    products: ColumnProducts,
    factors: [[Buffer<T>; 2]; 3],
}

impl<T: Real> Scratch for CosineSideBySide<T> {
    fn fit(&mut self, _: usize) -> Result<()> {
        Ok(())
    }
}

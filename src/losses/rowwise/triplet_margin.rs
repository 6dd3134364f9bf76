//! Triplet margin: the anchor x is to be nearer to p than to n by a margin, in a norm.
//!
//! With the distance `d(a, b) = |a - b + epsilon|`, a norm of degree p along an axis: `loss = max(0, margin + d(x, p) - d)`,
//! where d is `d(x, n)` or, with a swap, `d(p, n)` if that is less. Where the loss is positive the gradient is that of the two
//! distances, `sign(v) (|v| / |v|_p)^(p - 1)` of the difference v; elsewhere, at 0 too, it is 0. It is 0 as well where a norm
//! is 0, and in a difference that is 0. There is no second derivative to give.
//!
//! No square overflows or underflows: where the sum of squares says that one may have, differences are divided by a power of
//! two up to the largest of them; powers are always those of quotients. Differences and norms are f64.
//!
//! Source: Balntas and others, "Learning local feature descriptors with triplets and shallow convolutional neural networks"
//! (2016); in PyTorch `TripletMarginLoss`. Gluon's [`super::triplet`] has squares of distances.

use super::AXIS;
use super::plan::plan;
use crate::buffer::Buffer;
use crate::drive::Axes;
use crate::drive::columns::{ColumnRows, Columns};
use crate::drive::row_kernel::{Row, RowKernel, RowOutputs, Scratch, Vectors};
use crate::error::Result;
use crate::math::Real;
use crate::num::{DType, Float};
use crate::registry::{
    Bound, Call, Domain, Family, Gradient, Loss, Options, Plan, SAMPLE_WEIGHT, Spec, Unreduced,
    flag, float, input, pred,
};
use crate::simd::{Baseline, Isa, Kernel, dispatch};
use crate::sum::{LongColumnSums, sum, sum_exactly};
use std::marker::PhantomData;
use std::ops::Range;

/// The row of the registry.
pub const SPEC: Spec = Spec {
    name: "TripletMarginLoss",
    family: Family::Rowwise,
    inputs: &[
        pred(Domain::Real),
        input("positive", Domain::Real, Gradient::Default),
        input("negative", Domain::Real, Gradient::Default),
        SAMPLE_WEIGHT,
    ],
    params: &[
        float("margin", 1.0, Bound::Finite),
        float("p", 2.0, Bound::AtLeastOne),
        float("epsilon", 1e-6, Bound::NonNegative),
        flag("swap", false),
        AXIS,
    ],
    unreduced: Unreduced::Row,
    hess: false,
    kinks: "margin + d(pred, positive) == d(pred, negative), and where both distances to negative are equal; for p < 2 \
            where a difference is 0",
    build: |p| {
        Ok(Box::new(TripletMargin {
            margin: p.float("margin"),
            degree: p.float("p"),
            epsilon: p.float("epsilon"),
            swap: p.flag("swap"),
            axis: p.int(AXIS.name).unwrap_or(-1) as isize,
        }))
    },
};

crate::front::typed! {
    /// Triplet margin: the anchor `pred` is to be nearer to `positive` than to `negative` by a margin, in a norm.
    TripletMarginLoss(pred, positive, negative) {
        margin: f64,
        p: f64,
        epsilon: f64,
        swap: bool,
        axis: i64,
    }
}

/// Sums of squares to which those that overflow or underflow make no difference.
const PLAIN_SQUARES: Range<f64> = 1e-200..1e200;

/// The loss with its parameters.
#[derive(Clone, Copy)]
struct TripletMargin {
    margin: f64,
    degree: f64,
    epsilon: f64,
    swap: bool,
    axis: isize,
}

impl Loss for TripletMargin {
    fn axes(&self, first: (&str, &[usize]), options: &Options) -> Result<Axes> {
        Axes::rowwise(first, self.axis, options.batch_axis)
    }
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        plan::<_, 3, 0>(*self, call)
    }
}

impl TripletMargin {
    /// One element of the difference whose norm is a distance.
    #[inline(always)]
    fn difference<T: Real>(self, a: T, b: T) -> f64 {
        a.to_f64() - b.to_f64() + self.epsilon
    }

    /// The distance of two vectors, with their differences.
    #[inline(always)]
    fn distance<S: Isa, T: Real>(
        self,
        [a, b]: [&[T]; 2],
        differences: &mut [f64],
        terms: &mut [f64],
    ) -> f64 {
        let numbers = differences.iter_mut().zip(&mut *terms).zip(a).zip(b);
        for (((v, square), a), b) in numbers {
            *v = self.difference(*a, *b);
            *square = *v * *v;
        }
        if self.degree == 2.0 {
            let square = total::<S, T>(terms);
            if PLAIN_SQUARES.contains(&square) {
                return square.sqrt();
            }
        }
        dispatch(S::LEVEL, Norm::<T> { degree: self.degree, differences, terms, of: PhantomData })
    }

    /// The derivative of a distance by its differences, in place of them, but for the factor that is returned.
    #[inline(always)]
    fn slopes<T: Real>(self, distance: f64, differences: &mut [f64]) -> f64 {
        // A loop for each degree, so that those without a power are computed by vectors.
        if distance == 0.0 {
            differences.fill(0.0);
        } else if self.degree == 1.0 {
            each(differences, Float::sign);
        } else if self.degree == 2.0 {
            let inverse = 1.0 / distance;
            // What an inverse rounds off is nothing to f32.
            if T::DTYPE == DType::F32 && inverse.is_normal() {
                return inverse;
            }
            each(differences, |v| v / distance);
        } else {
            each(differences, |v| (v.abs() / distance).powf(self.degree - 1.0).copysign(v));
        }
        1.0
    }
}

/// The norm of any differences, of any degree, for results in `T`.
struct Norm<'a, T> {
    degree: f64,
    differences: &'a [f64],
    terms: &'a mut [f64],
    of: PhantomData<T>,
}

impl<T: Real> Kernel for Norm<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Isa>(self) -> f64 {
        let Norm { degree, differences: v, terms, .. } = self;
        let largest = f64::sizes(v).most;
        if largest == 0.0 || !largest.is_finite() {
            return largest;
        }
        if degree == 1.0 {
            sum_of::<S, T>(v, terms, f64::abs)
        } else if degree == 2.0 {
            let unit = power_of_two(largest);
            let inverse = 1.0 / unit;
            sum_of::<S, T>(v, terms, |v| (v * inverse) * (v * inverse)).sqrt() * unit
        } else {
            let total = sum_of::<S, T>(v, terms, |v| (v.abs() / largest).powf(degree));
            total.powf(1.0 / degree) * largest
        }
    }
}

/// Replaces differences that are not 0.
#[inline(always)]
fn each(differences: &mut [f64], slope: impl Fn(f64) -> f64) {
    for v in differences {
        let at = slope(*v);
        *v = if *v == 0.0 { 0.0 } else { at };
    }
}

/// The sum of a function of the differences.
#[inline(always)]
fn sum_of<S: Isa, T: Real>(differences: &[f64], terms: &mut [f64], of: impl Fn(f64) -> f64) -> f64 {
    for (term, v) in terms.iter_mut().zip(differences) {
        *term = of(*v);
    }
    total::<S, T>(terms)
}

/// A sum for results in `T`: what sums in f64 round off is nothing to f32.
#[inline(always)]
fn total<S: Isa, T: Real>(terms: &[f64]) -> f64 {
    if T::DTYPE == DType::F32 { sum::<S, f64>(terms) } else { sum_exactly::<S, f64>(terms) }
}

/// The power of two up to a number, a normal one.
#[inline(always)]
fn power_of_two(x: f64) -> f64 {
    f64::from_bits(x.to_bits() & f64::INFINITY.to_bits()).max(f64::MIN_POSITIVE)
}

/// The derivative of the loss by one of x, p and n, from those of both distances, and how often each is in it.
#[inline(always)]
fn share<T: Real>([near, far]: [f64; 2], [by_near, by_far]: [f64; 2], scale: f64) -> T {
    T::from_f64((near.weighted(by_near) + far.weighted(by_far)) * scale)
}

/// Of x, p and n, how often each has the derivative of either distance; the far one is between x and n, or p and n.
const SHARES: [[f64; 2]; 3] = [[1.0, -1.0], [-1.0, 0.0], [0.0, 1.0]];
const SHARES_SWAPPED: [[f64; 2]; 3] = [[1.0, 0.0], [-1.0, -1.0], [0.0, 1.0]];

/// Room for a row, or for what columns need: sums of squares, and what both derivatives are divided and multiplied by.
#[derive(std::default::Default)]
struct TripletMarginRoom {
    row: Vectors<f64, 4>,
    terms: Buffer<f64>,
    squares: [LongColumnSums; 2],
    divisors: [Buffer<f64>; 2],
    factors: [Buffer<f64>; 2],
    scales: Buffer<f64>,
}

impl Scratch for TripletMarginRoom {
    fn fit(&mut self, cols: usize) -> Result<()> {
        self.row.fit(cols)
    }
}

impl<T: Real> RowKernel<T, 3, 0> for TripletMargin {
    const COST: f64 = 3.0;
    const BY_COLUMNS: bool = true;
    type Scratch = TripletMarginRoom;

    #[inline(always)]
    fn row<S: Isa>(
        &self,
        Row { vectors: [x, p, n], .. }: Row<'_, T, 3, 0>,
        RowOutputs { grads, .. }: RowOutputs<'_, T, 3, 0>,
        room: &mut TripletMarginRoom,
        scale: f64,
    ) -> T {
        let [near, far, swapped, terms] = room.row.each();
        // One after the other, so that the code of a distance is there once.
        let mut apart = [([x, p], near), ([x, n], far), ([p, n], swapped)];
        let mut distances = [f64::INFINITY; 3];
        let used = if self.swap { 3 } else { 2 };
        for (distance, (pair, differences)) in distances.iter_mut().zip(&mut apart[..used]) {
            *distance = self.distance::<S, T>(*pair, differences, terms);
        }
        let [to_positive, mut to_negative, between] = distances;
        let [(_, near), (_, mut far), (_, swapped)] = apart;
        let mut shares = SHARES;
        if between < to_negative || between.is_nan() {
            (to_negative, far, shares) = (between, swapped, SHARES_SWAPPED);
        }
        // In this order the margin is not lost between distances that are nearly equal.
        let loss = self.margin + (to_positive - to_negative);
        let mut factors = [1.0; 2];
        if grads.iter().any(Option::is_some) && loss > 0.0 {
            let sides = [(to_positive, &mut *near), (to_negative, &mut *far)];
            for (factor, (distance, differences)) in factors.iter_mut().zip(sides) {
                *factor = self.slopes::<T>(distance, differences);
            }
        }
        for (grad, shares) in grads.into_iter().zip(shares) {
            let Some(grad) = grad else { continue };
            if loss > 0.0 {
                let by = [shares[0] * factors[0], shares[1] * factors[1]];
                for ((grad, near), far) in grad.iter_mut().zip(&*near).zip(&*far) {
                    *grad = share([*near, *far], by, scale);
                }
            } else {
                grad.fill(T::from_f64(0.0.where_positive(loss)));
            }
        }
        T::from_f64(loss.where_positive(loss))
    }

    #[inline(always)]
    fn columns<S: Isa>(
        &self,
        rows: ColumnRows<'_, T>,
        columns: &mut Columns<'_, '_, T>,
        room: &mut TripletMarginRoom,
    ) -> Result<bool> {
        if self.degree != 2.0 || self.swap {
            return Ok(false);
        }
        let TripletMarginRoom { terms, squares, divisors, factors, scales, .. } = room;
        let (count, elements) = (columns.rows(), columns.elements());
        let (terms, scales) = (terms.sized(count)?, scales.sized(count)?);
        for squares in &mut *squares {
            squares.start(elements, count, T::DTYPE == DType::F64)?;
        }
        let mut reader = columns.read();
        for c in 0..elements {
            let [x, p, n] = reader.column(c)?;
            for (squares, other) in squares.iter_mut().zip([p, n]) {
                for ((square, &a), &b) in terms.iter_mut().zip(x).zip(other) {
                    let v = self.difference(a, b);
                    *square = v * v;
                }
                squares.add::<S, _>(terms)?;
            }
        }
        let [near_divisors, far_divisors] = divisors;
        let divisors = [near_divisors.sized(count)?, far_divisors.sized(count)?];
        let [by_near, by_far] = factors;
        let factors = [by_near.sized(count)?, by_far.sized(count)?];
        // As in a row, `f32` are multiplied by the inverse of a distance.
        let inverts = T::DTYPE == DType::F32;
        for (r, value) in rows.value.iter_mut().enumerate() {
            let found = squares.each_ref().map(|squares| squares.total(r));
            if !found.iter().all(|square| PLAIN_SQUARES.contains(square)) {
                return Ok(false);
            }
            let distances = found.map(f64::sqrt);
            let loss = self.margin + (distances[0] - distances[1]);
            for (k, distance) in distances.into_iter().enumerate() {
                let [divisor, factor] =
                    if inverts { [1.0, 1.0 / distance] } else { [distance, 1.0] };
                divisors[k][r] = divisor;
                factors[k][r] = if loss > 0.0 { factor } else { 0.0 };
            }
            // So that no sign is left of a derivative that is 0.
            scales[r] = if loss > 0.0 { rows.scale[r] } else { 0.0 };
            *value = T::from_f64(loss.where_positive(loss));
        }
        if !columns.derives() {
            return Ok(true);
        }
        let ([near_divisors, far_divisors], [by_near, by_far]) = (divisors, factors);
        let slope = |v: f64, divisor: f64| {
            let quotient = if v == 0.0 { 0.0 } else { v / divisor };
            if inverts { v } else { quotient }
        };
        let mut writer = columns.write();
        for c in 0..elements {
            let ([x, p, n], grads) = writer.column(c)?;
            for (grad, shares) in grads.into_iter().zip(SHARES) {
                let Some(grad) = grad else { continue };
                let (grad, x, p, n) = (&mut grad[..count], &x[..count], &p[..count], &n[..count]);
                let divisors = (&near_divisors[..count], &far_divisors[..count]);
                let (by_near, by_far) = (&by_near[..count], &by_far[..count]);
                for r in 0..count {
                    let near = slope(self.difference(x[r], p[r]), divisors.0[r]);
                    let far = slope(self.difference(x[r], n[r]), divisors.1[r]);
                    let by = [shares[0] * by_near[r], shares[1] * by_far[r]];
                    grad[r] = share([near, far], by, scales[r]);
                }
            }
            writer.finish(c);
        }
        Ok(true)
    }

    #[expect(clippy::disallowed_macros, clippy::disallowed_methods, reason = "a few numbers")]
    fn kinks(&self, Row { vectors: [x, p, n], .. }: Row<'_, f64, 3, 0>) -> Vec<f64> {
        let mut apart = [[x, p], [x, n], [p, n]].map(|pair| {
            let [mut differences, mut terms] = [vec![0.0; x.len()], vec![0.0; x.len()]];
            (self.distance::<Baseline, f64>(pair, &mut differences, &mut terms), differences)
        });
        let [to_positive, to_negative, between] = apart.each_ref().map(|(distance, _)| *distance);
        let nearest = if self.swap { between.min(to_negative) } else { to_negative };
        let mut kinks = vec![self.margin + to_positive - nearest];
        if self.swap {
            kinks.push(between - to_negative);
        }
        if self.degree < 2.0 || x.len() == 1 {
            let used = if self.swap { 3 } else { 2 };
            kinks.extend(
                apart[..used].iter_mut().flat_map(|(_, differences)| differences.drain(..)),
            );
        }
        kinks
    }
}

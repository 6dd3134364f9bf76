//! Derivatives at classes whose exponential, or probability, is subnormal, or so small that it is 0.
//!
//! Such a number has lost its digits, which shows where a large factor multiplies it: the logarithm in a z-loss or in the
//! second derivative of a focal loss, a temperature, a weight. Where there is a factor like that, the derivatives at these
//! classes are computed once more: rows of f32 in f64, and rows of f64 with exponentials that are *lifted*, times exp(512),
//! and let down after the multiplication. So is what is 1 less such numbers: 1 - p of the largest logit.

use super::row::quotient;
use super::{GroupSoftmax, Head, Scalars, Slopes, Softmax};
use crate::drive::row_kernel::{LANES, Placement};
use crate::math::Real;
use crate::num::DType;
use crate::simd::{self, Baseline, Isa, Kernel, Level, fold};

/// A factor up to this size makes half a unit in the last place that was lost into one at most.
const HARMLESS: f64 = 2.0;

/// [`MARGIN`] covers factors of a probability down to this one; of smaller ones the logarithm is taken.
const COMMON_FACTOR: f64 = 0.1;

/// The logarithm of more classes than a row can have, divided by [`COMMON_FACTOR`].
const MARGIN: f64 = 30.0;

/// Factors of a probability that are smaller count as this one.
const LEAST_FACTOR: f64 = 1e-30;

/// Whether a factor shows what a number has lost.
#[inline(always)]
pub(super) fn is_large(factor: f64) -> bool {
    factor.abs() > HARMLESS
}

/// What is added to the exponent of a lifted number, and what lets it down.
fn lift<T: Real>() -> [f64; 2] {
    if T::DTYPE == DType::F64 { f64::LIFT } else { [0.0, 1.0] }
}

/// The logarithm of a factor of probabilities, at most 0.
#[inline(never)]
fn log(factor: f64) -> f64 {
    Real::log::<Baseline>(factor.abs().clamp(LEAST_FACTOR, 1.0))
}

/// How far below the largest logit of a row numbers are small.
struct Depths<T> {
    max: T,
    temperature: f64,
    /// From which distance on, in temperatures.
    near: f64,
    /// The first and the last distance; numbers further down stay 0.
    gaps: [T; 2],
}

impl<T: Real> Depths<T> {
    /// Of probabilities times `factor` in a row x / `temperature`, by a margin less than they are; nothing of a row without a
    /// logit so far down, or whose numbers are not finite.
    #[inline(always)]
    fn roughly(softmax: &Softmax<T>, temperature: f64, factor: f64) -> Option<Self> {
        let lost = if factor.abs() < COMMON_FACTOR { log(factor) } else { 0.0 };
        let depths = Self::new(softmax, temperature, lost - MARGIN);
        let Softmax { max, least, others, .. } = *softmax;
        let is_finite = max.abs() < T::INFINITY && others < f64::INFINITY;
        (is_finite && max - least >= depths.gaps[0]).then_some(depths)
    }

    fn exactly(softmax: &Softmax<T>, temperature: f64, factor: f64) -> Self {
        Self::new(softmax, temperature, log(factor) - softmax.others.log1p::<Baseline>())
    }

    #[inline(always)]
    fn new(softmax: &Softmax<T>, temperature: f64, lost: f64) -> Self {
        let near = T::NEAR.to_f64() + lost;
        let gaps = [near, T::FAR.to_f64()].map(|gap| T::from_f64(gap * temperature));
        Depths { max: softmax.max, temperature, near, gaps }
    }

    /// exp((x - max) / temperature), lifted, and 0 for good; nothing if it is not small.
    #[inline(never)]
    fn lifted_exp(&self, x: T) -> Option<f64> {
        let [quotient, low] = quotient::<Baseline>(x.to_f64(), self.max.to_f64(), self.temperature);
        if quotient < -T::FAR.to_f64() {
            return Some(0.0);
        }
        let [lift, _] = lift::<T>();
        (quotient <= -self.near).then(|| (quotient + lift).exp_difference::<Baseline>(-low))
    }
}

/// How far below the largest logit probabilities may be small.
fn common_gap<T: Real>() -> T {
    T::NEAR - T::from_f64(MARGIN)
}

/// The same for probabilities times `factor` in a row x / `temperature`; infinity if no logit is so far down.
#[inline(never)]
pub(super) fn first_gap<T: Real>(softmax: &Softmax<T>, temperature: f64, factor: f64) -> T {
    let depths = Depths::roughly(softmax, temperature, factor);
    depths.map_or(T::INFINITY, |depths| depths.gaps[0])
}

/// Whether a row with these largest and smallest logits may have a probability that is small.
#[inline(always)]
pub(super) fn may_be_small<T: Real>(max: &[T; LANES], least: &[T; LANES]) -> bool {
    let mut found = 0;
    for l in 0..LANES {
        found |= u32::from(max[l] - least[l] >= common_gap());
    }
    found != 0
}

/// The distance of a logit from the largest, 0 if it is larger than `last`. There is no branch, as classes that are
/// impossible stand anywhere.
#[inline(always)]
pub(super) fn depth<T: Real>(max: T, x: T, last: T) -> T {
    let gap = max - x;
    if gap <= last { gap } else { T::ZERO }
}

/// The largest distance in a row of logits, up to `last`, `N` of them at once.
#[inline(always)]
fn deepest<const N: usize, T: Real>(x: &[T], max: T, last: T) -> T {
    let (whole, rest) = x.as_chunks::<N>();
    let mut gaps = [T::ZERO; N];
    for x in whole {
        for i in 0..N {
            gaps[i] = gaps[i].max(depth(max, x[i], last));
        }
    }
    rest.iter().fold(fold(gaps, T::max), |gap, &x| gap.max(depth(max, x, last)))
}

/// Whether depths include any logit of a row.
struct HasAny<'a, T>(&'a Depths<T>, &'a [T]);

impl<T: Real> Kernel for HasAny<'_, T> {
    type Output = bool;
    #[inline(always)]
    fn run<S: Isa>(self) -> bool {
        let HasAny(Depths { max, gaps: [first, last], .. }, x) = self;
        deepest::<16, T>(x, *max, *last) >= *first
    }
}

/// Whether rows that are worked on together have any logit that may be small.
pub(super) struct AnySmall<'a, T>(pub &'a GroupSoftmax<T>, pub &'a [T]);

impl<T: Real> Kernel for AnySmall<'_, T> {
    type Output = bool;
    #[inline(always)]
    fn run<S: Isa>(self) -> bool {
        let AnySmall(softmax, x) = self;
        let mut gaps = [T::ZERO; LANES];
        match softmax.order {
            Placement::Rows(classes) => {
                for (gap, (x, &max)) in
                    gaps.iter_mut().zip(x.chunks_exact(classes).zip(&softmax.max))
                {
                    *gap = deepest::<4, T>(x, max, T::FAR);
                }
            }
            Placement::Lanes => {
                for x in x.as_chunks::<LANES>().0 {
                    for l in 0..LANES {
                        gaps[l] = gaps[l].max(depth(softmax.max[l], x[l], T::FAR));
                    }
                }
            }
        }
        fold(gaps, T::max) >= common_gap()
    }
}

/// Row `l` of logits, whose derivatives stand where they do.
struct Place<'a, T> {
    depths: Depths<T>,
    softmax: &'a Softmax<T>,
    order: Placement,
    l: usize,
    x: &'a [T],
    grad: Option<&'a mut [T]>,
    hess: Option<&'a mut [T]>,
}

/// Lifted numbers of a row, where they are small.
struct Small {
    /// p of the label.
    label: Option<f64>,
    /// 1 - p of the largest logit.
    rest: Option<f64>,
}

impl<T: Real> Place<'_, T> {
    /// All classes but the largest.
    fn others(&self) -> impl Iterator<Item = usize> + use<T> {
        let largest = self.softmax.at;
        (0..self.order.classes(self.x.len())).filter(move |&class| class != largest)
    }

    /// See [`Depths::lifted_exp`].
    fn lifted_exp(&self, class: usize) -> Option<f64> {
        self.depths.lifted_exp(self.x[self.order.at(self.l, class)])
    }

    /// Whether a number p times `factor` is small, and wanted; from here on depths are exact.
    fn has_any(&mut self, level: Level, factor: f64) -> bool {
        let Place { softmax, order, l, x, .. } = *self;
        let has_any = |depths: &Depths<T>| match order {
            Placement::Rows(classes) => {
                simd::dispatch(level, HasAny(depths, &x[l * classes..][..classes]))
            }
            Placement::Lanes => {
                let row = x[l..].iter().step_by(LANES);
                let [first, last] = depths.gaps;
                row.fold(T::ZERO, |gap, &x| gap.max(depth(depths.max, x, last))) >= first
            }
        };
        if (self.grad.is_none() && self.hess.is_none()) || !has_any(&self.depths) {
            return false;
        }
        self.depths = Depths::exactly(softmax, self.depths.temperature, factor);
        has_any(&self.depths)
    }

    #[inline(never)]
    fn set_grad(&mut self, class: usize, slope: f64) {
        if let Some(grad) = &mut self.grad {
            grad[self.order.at(self.l, class)] = T::from_f64(slope);
        }
    }

    #[inline(never)]
    fn set_hess(&mut self, class: usize, curvature: f64) {
        if let Some(hess) = &mut self.hess {
            hess[self.order.at(self.l, class)] = T::from_f64(curvature);
        }
    }

    #[inline(never)]
    fn small(&self, label: Option<usize>) -> Small {
        let (p_max, mut own, mut others) = (self.softmax.inverse(), None, Some(0.0));
        for class in self.others() {
            let exp = self.lifted_exp(class);
            others = others.zip(exp).map(|(sum, exp)| sum + exp);
            if label == Some(class) {
                own = exp.filter(|&exp| exp > 0.0).map(|exp| exp * p_max);
            }
        }
        Small { label: own, rest: others.map(|others| others * p_max) }
    }

    /// Puts right the gradient `by_p p scale + own` and the second derivative `(curvature p + square p^2) scale` at small
    /// classes but the label.
    #[inline(never)]
    fn correct(
        &mut self,
        [by_p, curvature, square, scale]: [f64; 4],
        label: Option<usize>,
        own: &dyn Fn(usize) -> f64,
    ) {
        let (p_max, [_, unit]) = (self.softmax.inverse(), lift::<T>());
        for class in self.others().filter(|&class| label != Some(class)) {
            let exp = self.lifted_exp(class).filter(|&exp| exp > 0.0);
            let Some(p) = exp.map(|exp| exp * p_max) else { continue };
            self.set_grad(class, product(by_p, p, scale) * unit + own(class));
            let slope = curvature + square * unit * p;
            self.set_hess(class, product(slope, p, scale) * unit);
        }
    }
}

/// The product of a number with two factors, the larger one first, as one alone may take it out of range.
fn product(factor: f64, number: f64, scale: f64) -> f64 {
    if factor.abs() > scale.abs() { factor * number * scale } else { scale * number * factor }
}

/// A row of a [`Head`], and what was made of it.
pub(super) struct HeadRow<'a, T> {
    pub head: &'a dyn Head,
    /// The weights of the classes.
    pub weights: Option<&'a [f64]>,
    pub softmax: Softmax<T>,
    pub label: usize,
    pub slopes: &'a Slopes,
    pub scale: f64,
}

impl<T: Real> HeadRow<'_, T> {
    /// Whether the gradient has a factor that shows what a number has lost.
    #[inline(always)]
    fn magnifies(&self) -> bool {
        is_large(self.slopes.by_p() * self.scale)
    }

    /// Whether the second derivative has.
    #[inline(always)]
    fn magnifies_twice(&self) -> bool {
        is_large(self.slopes.curvature * self.scale) || self.slopes.hess_at_label.is_some()
    }

    /// Whether there may be something to put right.
    #[inline(always)]
    pub fn is_suspect(&self, wants_grad: bool, wants_hess: bool) -> bool {
        Depths::roughly(&self.softmax, 1.0, 1.0).is_some()
            && ((wants_grad && self.magnifies()) || (wants_hess && self.magnifies_twice()))
    }

    /// Puts right the derivatives that have such a factor: of row `l` of the logits `x`.
    #[inline(never)]
    pub fn correct(
        &self,
        level: Level,
        (order, l): (Placement, usize),
        x: &[T],
        grad: Option<&mut [T]>,
        hess: Option<&mut [T]>,
    ) {
        let HeadRow { weights, ref softmax, label, slopes, scale, .. } = *self;
        let Some(depths) = Depths::roughly(softmax, 1.0, 1.0) else { return };
        let grad = grad.filter(|_| self.magnifies());
        let hess = hess.filter(|_| self.magnifies_twice());
        let mut place = Place { depths, softmax, order, l, x, grad, hess };
        if !place.has_any(level, 1.0) {
            return;
        }
        let small = place.small(Some(label));
        let (largest, [p_max, q_max], [_, unit]) = (softmax.at, softmax.largest(), lift::<T>());
        let Slopes { mut curvature, mut square, .. } = *slopes;
        let (mut by_p, mut scaled_square) = (slopes.by_p(), square * scale);
        if let Some(number) = small.label.or(small.rest.filter(|_| label == largest)) {
            let at = self.around(number, small.label.is_some(), x[order.at(l, label)]);
            scaled_square = at.scaled(|s| s.square, scale).unwrap_or(scaled_square);
            by_p = at.scaled(Slopes::by_p, 1.0).unwrap_or(by_p);
            curvature = at.scaled(|s| s.curvature, 1.0).unwrap_or(curvature);
            square = at.scaled(|s| s.square, 1.0).unwrap_or(square);
            if let Some(slope) = at.scaled(|s| s.at_label, scale) {
                place.set_grad(label, slope);
            }
            if slopes.hess_at_label.is_none() {
                let square = if label == largest { scaled_square } else { 0.0 };
                place.set_hess(label, product(curvature, number, scale) * unit + square);
            } else if let Some(own) = at.scaled(|s| s.hess_at_label.unwrap_or_default(), scale) {
                place.set_hess(label, own);
            }
        }
        let weight = |class: usize| weights.map_or(1.0, |weights| weights[class]);
        let own = |class: usize| weight(class) * slopes.by_weight * scale;
        place.correct([by_p, curvature, square, scale], Some(label), &own);
        if label != largest && (small.rest.is_some() || scaled_square != slopes.square * scale) {
            // Both in the same unit: where the rest is small, so is the label, which is a part of it.
            let number = small.label.unwrap_or_default();
            let (q_max, p, unit) = match small.rest {
                Some(rest) => (rest, number, unit),
                None => (q_max, number * unit, 1.0),
            };
            let hess = self.head.hess_at_max(p, [p_max, q_max], &|| q_max - p).map_or_else(
                || product(curvature * p_max, q_max, scale) * unit + scaled_square * p_max * p_max,
                |own| product(own, 1.0, scale) * unit,
            );
            place.set_hess(largest, hess);
        }
    }

    /// The slopes where p of the label or, if the label is the largest logit, 1 - p is 0, half of the lifted number, and
    /// the lifted number.
    fn around(&self, number: f64, is_label: bool, x: T) -> Around {
        let softmax = &self.softmax;
        let of = |number: f64| {
            let (nll, log_sum) =
                (softmax.log_sum_minus::<Baseline>(x), softmax.others.log1p::<Baseline>());
            let [p, complement, nll, log_sum] = if is_label {
                [number, 1.0, nll.to_f64(), log_sum]
            } else {
                [1.0, number, number, number]
            };
            let (class, max) = (self.label, softmax.max.to_f64());
            self.head.slopes(&Scalars { class, nll, p, complement, log_sum, max, spread: 0.0 })
        };
        Around([0.0, 0.5 * number, number].map(of), lift::<T>()[1])
    }
}

/// See [`HeadRow::around`], and what lets a lifted number down.
struct Around([Slopes; 3], f64);

impl Around {
    /// One of the slopes, times `scale`; nothing if the lifted number cannot be let down, as it is not linear there.
    fn scaled(&self, of: fn(&Slopes) -> f64, scale: f64) -> Option<f64> {
        let ([at_0, half, whole], unit) = (self.0.each_ref().map(of), self.1);
        if unit == 1.0 {
            return Some(whole * scale);
        }
        let is_linear = 2.0 * (half - at_0) == whole - at_0;
        is_linear.then_some(at_0 * scale + (whole - at_0) * scale * unit)
    }
}

/// What a row x / `temperature` with a distribution for target is derived with.
#[derive(Clone, Copy)]
pub struct PullFactors {
    pub temperature: f64,
    pub z_loss: f64,
    pub scale: f64,
}

impl PullFactors {
    /// Whether p, or what p is made into, has a factor that shows what a number has lost: of the sum of the target, and of
    /// what a z-loss has for one.
    #[inline(always)]
    pub(super) fn magnifies(&self, total: f64, pull: f64) -> bool {
        let largest = total.abs().max(pull.abs()).max(1.0);
        is_large(self.scale * self.temperature.max(1.0) * largest)
    }
}

/// Puts right the derivatives that [`Softmax::pull`] and [`Softmax::curvature`] and a z-loss have made of a row of logits x
/// and a target t with the sum `total`.
#[inline(never)]
pub(super) fn correct_pull<T: Real>(
    level: Level,
    softmax: &Softmax<T>,
    factors: &PullFactors,
    ([x, t], total): ([&[T]; 2], f64),
    [grad, hess]: [Option<&mut [T]>; 2],
) {
    let PullFactors { temperature, z_loss, scale } = *factors;
    let Some(depths) = Depths::roughly(softmax, temperature, total) else { return };
    let (max, slope_scale) = (softmax.max.to_f64(), scale * temperature);
    let pull = 2.0 * z_loss * (max + softmax.others.log1p::<Baseline>());
    let by_p = total + pull;
    // What is not finite has no digits to lose.
    let is_finite = (by_p.abs() + total.abs() + slope_scale.abs()) < f64::INFINITY;
    if !is_finite || !factors.magnifies(total, pull) {
        return;
    }
    let (order, l) = (Placement::Rows(x.len()), 0);
    let mut place = Place { depths, softmax, order, l, x, grad, hess };
    if !place.has_any(level, total) {
        return;
    }
    let own = |class: usize| -t[class].to_f64() * slope_scale;
    let square = 2.0 * z_loss;
    place.correct([by_p * temperature, by_p, square, scale], None, &own);
    if let Some(rest) = place.small(None).rest {
        let (largest, p_max, [_, unit]) = (softmax.at, softmax.inverse(), lift::<T>());
        // log(sum exp) is the largest logit and, as far as it goes, 1 - p.
        let by_max = total + square * max;
        let of_rest = product((square - by_max) * temperature, rest, scale) * unit;
        place.set_grad(largest, (by_max - t[largest].to_f64()) * slope_scale + of_rest);
        let own = product(by_max * p_max, rest, scale) * unit;
        place.set_hess(largest, own + square * scale * p_max * p_max);
    }
}

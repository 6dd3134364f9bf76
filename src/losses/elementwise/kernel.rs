//! What an elementwise loss is, and how it runs.
//!
//! A loss is a few numbers (its parameters) and one function of one point that gives value and derivatives together.
//! What a caller does not want costs nothing: every loop below keeps one or two of the results, and the compiler
//! drops the rest.

use crate::array::{Shape, ViewMut, elements};
use crate::drive::Axes;
use crate::drive::blocks;
use crate::drive::blocks::{BlockKernel, BlockOutputs, MAX_INPUTS, Outputs};
use crate::drive::domain::Domain;
use crate::drive::factor;
use crate::drive::operand::Argument;
use crate::drive::weight::Weighting;
use crate::error::{Error, Kind as Mistake, Result, Tuple};
use crate::math::Real;
use crate::memory;
use crate::num::DType;
use crate::num::Sizes;
use crate::registry::{Call, Loss, Plan, Results};
use crate::simd::{self, Isa, Kernel, Level};
use smallvec::SmallVec;

/// A loss and its derivatives at one point.
#[derive(Clone, Copy)]
pub struct Point<T, const K: usize> {
    /// The loss.
    pub value: T,
    /// Its derivative with respect to each input.
    pub grad: [T; K],
    /// Its second derivative with respect to the prediction, the first input.
    pub hess: T,
}

/// A loss of `K` inputs: the prediction, the label, and whatever else it takes.
pub trait Elementwise<const K: usize>: Copy + Send + Sync {
    /// Rough time for value and gradient of one element, in nanoseconds.
    const COST: f64 = 0.25;

    /// What an input may hold with these parameters, where the registry says `domain`.
    fn domain(self, input: usize, domain: Domain) -> Domain {
        let _ = input;
        domain
    }

    /// Value and derivatives at one point: no branches, only selects.
    fn point<S: Isa, T: Real>(self, x: [T; K]) -> Point<T, K>;
}

/// A loss of the registry.
pub fn erased<L: Elementwise<K> + 'static, const K: usize>(loss: L) -> Box<dyn Loss> {
    Box::new(Erased(loss))
}

/// A loss as the driver takes it.
#[derive(Clone, Copy)]
struct Erased<L, const K: usize>(L);

impl<T: Real, L: Elementwise<K>, const K: usize> BlockKernel<T> for Erased<L, K> {
    fn inputs(&self) -> usize {
        K
    }
    fn cost(&self) -> f64 {
        L::COST
    }
    fn run(&self, level: Level, inputs: &[&[T]], outputs: BlockOutputs<'_, T>, scale: T) {
        let inputs = std::array::from_fn(|k| inputs[k]);
        simd::dispatch(level, Run { loss: self.0, inputs, outputs, scale });
    }
}

struct Run<'a, L, T, const K: usize> {
    loss: L,
    inputs: [&'a [T]; K],
    outputs: BlockOutputs<'a, T>,
    scale: T,
}

impl<T: Real, L: Elementwise<K>, const K: usize> Kernel for Run<'_, L, T, K> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let Run { loss, inputs, outputs, scale } = self;
        let n = inputs[0].len();
        let inputs = inputs.map(|x| &x[..n]);
        let at = |i: usize| loss.point::<S, T>(std::array::from_fn(|k| inputs[k][i]));
        let BlockOutputs { mut value, mut grads, hess } = outputs;
        if let (Some(value), [Some(grad), ..]) = (&mut value, &mut grads) {
            let (value, grad) = (&mut value[..n], &mut grad[..n]);
            for i in 0..n {
                let point = at(i);
                value[i] = point.value;
                grad[i] = point.grad[0] * scale;
            }
            grads[0] = None;
        } else if let Some(value) = value {
            fill(value, n, |i| at(i).value);
        }
        for k in 0..K.min(MAX_INPUTS) {
            if let Some(grad) = grads[k].take() {
                fill(grad, n, |i| at(i).grad[k] * scale);
            }
        }
        if let Some(hess) = hess {
            fill(hess, n, |i| at(i).hess * scale);
        }
    }
}

#[inline(always)]
fn fill<T>(out: &mut [T], n: usize, at: impl Fn(usize) -> T) {
    for (i, x) in out[..n].iter_mut().enumerate() {
        *x = at(i);
    }
}

impl<L: Elementwise<K> + 'static, const K: usize> Loss for Erased<L, K> {
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        plan(self.0, call)
    }
    fn in_place(&self) -> bool {
        true
    }
}

/// Checks a call of `loss`: the prediction, a label of as many elements, and inputs that broadcast.
pub fn plan<'a, L: Elementwise<K> + 'static, const K: usize>(
    loss: L,
    call: &Call<'a>,
) -> Result<Box<dyn Plan + 'a>> {
    let pred = call.input(0).shape();
    let axes = Axes::elementwise(pred, call.options.batch_axis)?;
    let mut inputs = SmallVec::<[Argument<'a>; MAX_INPUTS]>::new();
    for k in 0..K {
        let (name, given) = (call.names[k], call.input(k));
        let lined_up = if k < 2 { axes.line_up(given) } else { axes.broadcast(given) };
        let view = lined_up.ok_or_else(|| {
            let expected = if k < 2 {
                "pred's shape up to axes of size 1, or one dimension with as many elements"
            } else {
                "a shape that broadcasts to pred's"
            };
            let (pred, given) = (Tuple(pred), Tuple(given.shape()));
            let detail = format!("expected {expected} (pred has shape {pred}), got shape {given}");
            Error::new(Mistake::Shape, name, detail)
        })?;
        let check = call.check(k, loss.domain(k, call.domains[k]));
        inputs.push(Argument { view, check, overwritten: k == 0 && call.in_place });
    }
    let (weighting, level, single) = (call.weighting(&axes)?, call.level, call.single());
    Ok(Box::new(ElementwisePlan { loss: Erased(loss), level, single, axes, inputs, weighting }))
}

/// A loss with a third input that a call may leave out: it has a cheaper form without.
struct WithOptional<A, B> {
    without: A,
    with: B,
}

/// A loss of the registry whose third input is optional.
pub fn with_optional<A: Elementwise<2> + 'static, B: Elementwise<3> + 'static>(
    without: A,
    with: B,
) -> Box<dyn Loss> {
    Box::new(WithOptional { without: Erased(without), with: Erased(with) })
}

impl<A: Loss, B: Loss> Loss for WithOptional<A, B> {
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        if call.inputs[2].is_some() { self.with.plan(call) } else { self.without.plan(call) }
    }
    fn in_place(&self) -> bool {
        self.with.in_place() && self.without.in_place()
    }
}

struct ElementwisePlan<'a, L, const K: usize> {
    loss: Erased<L, K>,
    level: Level,
    single: bool,
    axes: Axes,
    inputs: SmallVec<[Argument<'a>; MAX_INPUTS]>,
    weighting: Weighting<'a>,
}

impl<L: Elementwise<K> + 'static, const K: usize> Plan for ElementwisePlan<'_, L, K> {
    fn value_shape(&self) -> Shape {
        self.axes.value_shape(self.weighting.reduction)
    }
    fn cost(&self) -> f64 {
        L::COST * self.inputs[0].view.len() as f64
    }
    fn run(&self, results: Results<'_>) -> Result<()> {
        if self.single && !self.leaves_single(&results) {
            self.run_in::<f32>(results)
        } else {
            self.run_in::<f64>(results)
        }
    }
}

impl<L: Elementwise<K> + 'static, const K: usize> ElementwisePlan<'_, L, K> {
    /// Whether weights have no room in `f32`, or derivatives that are summed may have none.
    fn leaves_single(&self, results: &Results<'_>) -> bool {
        let broadcast = self.inputs.iter().enumerate().skip(2);
        let is_extreme = |argument: &Argument<'_>| {
            let weights = argument.check.as_ref().filter(|check| check.domain == Domain::Weight);
            let wide = weights.filter(|check| check.given.dtype() == DType::F64);
            wide.is_some_and(|check| {
                let Sizes { least, most, .. } = factor::sizes(&check.given);
                factor::leaves_single([least, most])
            })
        };
        broadcast.clone().any(|(_, argument)| is_extreme(argument))
            || (broadcast.into_iter().any(|(k, _)| results.grads[k].is_some())
                && self.weighting.leaves_single())
    }

    fn run_in<T: Real>(&self, mut results: Results<'_>) -> Result<()> {
        let shape = self.axes.batch_first();
        // The gradient of an input that was broadcast is summed over the axes that it lacks.
        let mut full = [const { Vec::<T>::new() }; MAX_INPUTS];
        let mut summed = SmallVec::<[(usize, ViewMut<'_>); 1]>::new();
        let mut outputs = Outputs {
            value: results.value.and_then(|v| self.axes.value(v, self.weighting.reduction)),
            hess: results.hess.and_then(|v| self.axes.line_up_mut(v)),
            ..Outputs::default()
        };
        for (k, buffer) in full.iter_mut().enumerate().take(K) {
            let Some(grad) = results.grads[k].take() else { continue };
            outputs.grads[k] = self.axes.line_up_mut(grad.clone());
            if outputs.grads[k].is_none() {
                summed.push((k, grad));
                memory::grow(buffer, elements(&shape), T::ZERO)?;
                outputs.grads[k] = Some(ViewMut::from_slice(buffer, &shape));
            }
        }
        blocks::drive::<T>(&blocks::Run {
            kernel: &self.loss,
            level: self.level,
            order: self.axes.order(),
            inputs: &self.inputs,
            outputs: &outputs,
            weighting: &self.weighting,
        })?;
        for (k, grad) in summed {
            self.axes.sum_to(&full[k], &grad)?;
        }
        Ok(())
    }
}

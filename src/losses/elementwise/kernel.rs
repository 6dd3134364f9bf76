//! What an elementwise loss is, and how it runs.
//!
//! A loss is a few numbers (its parameters) and one function of one point that gives value and derivatives together.
//! What a caller does not want costs nothing: every loop below keeps one or two of the results, and the compiler
//! drops the rest.

use crate::array::{Shape, ViewMut, elements, reshapes};
use crate::drive::Axes;
use crate::drive::block_kernel::{BlockKernel, BlockOutputs, Kernels, MAX_OPERANDS, Outputs};
use crate::drive::blocks;
use crate::drive::domain::Domain;
use crate::drive::operand::Argument;
use crate::drive::range;
use crate::drive::weight::Weighting;
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::DType;
use crate::registry::{Call, Hessian, Input, Loss, Options, Plan, Results, ShapeRule};
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

    /// What there is of the second derivative.
    const HESSIAN: Hessian = Hessian::Diagonal;

    /// An input of the registry as the parameters make it.
    fn input(self, declared: Input) -> Input {
        declared
    }

    /// How far a point is from each kink, with a sign that changes there.
    fn kinks(self, x: [f64; K]) -> Vec<f64> {
        let _ = x;
        Vec::new()
    }

    /// Value and derivatives at one point: no branches, only selects.
    fn point<S: Isa, T: Real>(self, x: [T; K]) -> Point<T, K>;
}

/// A loss of the registry.
pub fn erased<L: Elementwise<K> + 'static, const K: usize>(loss: L) -> Box<dyn Loss> {
    Box::new(ElementLoss(ErasedPoint(loss)))
}

/// Elements whose second derivatives are computed at once.
const PART: usize = 256;

/// Elements that are computed at once with an input that is 1 for all.
const ONES: usize = 1024;

/// A loss of `K` inputs as the driver takes it.
pub trait Blocks<const K: usize>: BlockKernel<f32> + BlockKernel<f64> + Copy {
    /// As [`Elementwise::HESSIAN`].
    const HESSIAN: Hessian = Hessian::Diagonal;

    /// As [`Elementwise::input`].
    fn input(&self, declared: Input) -> Input {
        declared
    }

    /// As [`Elementwise::kinks`].
    fn kinks(&self, x: [f64; K]) -> Vec<f64>;
}

/// A loss that is one function of a point.
#[derive(Clone, Copy)]
pub struct ErasedPoint<L, const K: usize>(pub L);

impl<L: Elementwise<K>, const K: usize> Blocks<K> for ErasedPoint<L, K> {
    const HESSIAN: Hessian = L::HESSIAN;

    fn input(&self, declared: Input) -> Input {
        self.0.input(declared)
    }
    fn kinks(&self, x: [f64; K]) -> Vec<f64> {
        self.0.kinks(x)
    }
}

impl<T: Real, L: Elementwise<K>, const K: usize> BlockKernel<T> for ErasedPoint<L, K> {
    fn cost(&self) -> f64 {
        L::COST
    }
    fn run(&self, level: Level, inputs: &[&[T]], outputs: BlockOutputs<'_, T>, scale: T) {
        let inputs = std::array::from_fn(|k| inputs[k]);
        simd::dispatch(level, KernelRun { loss: self.0, inputs, outputs, scale });
    }
}

struct KernelRun<'a, L, T, const K: usize> {
    loss: L,
    inputs: [&'a [T]; K],
    outputs: BlockOutputs<'a, T>,
    scale: T,
}

impl<T: Real, L: Elementwise<K>, const K: usize> Kernel for KernelRun<'_, L, T, K> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let KernelRun { loss, inputs, outputs, scale } = self;
        let n = inputs[0].len();
        let inputs = inputs.map(|x| &x[..n]);
        let point = |inputs: &[&[T]; K], i: usize| loss.point::<S, T>(inputs.map(|x| x[i]));
        let at = |i: usize| point(&inputs, i);
        let BlockOutputs { mut value, mut grads, hess } = outputs;
        if let (Some(of_value), [Some(grad), ..]) = (&mut value, &mut grads) {
            fill_both(of_value, grad, n, |i| {
                let point = at(i);
                (point.value, point.grad[0] * scale)
            });
            (value, grads[0]) = (None, None);
        }
        if let Some(hess) = hess {
            // With the slope, wanted or not: a loop less.
            let (mut grad, mut room) = (grads[0].take(), [T::ZERO; PART]);
            for (part, hess) in hess[..n].chunks_mut(PART).enumerate() {
                let (first, len) = (part * PART, hess.len());
                let grad = grad.as_deref_mut().map_or(&mut room[..], |grad| &mut grad[first..]);
                let inputs = inputs.map(|x| &x[first..][..len]);
                fill_both(hess, grad, len, |i| {
                    let point = point(&inputs, i);
                    (point.hess * scale, point.grad[0] * scale)
                });
            }
        }
        if let Some(value) = value {
            fill(value, n, |i| at(i).value);
        }
        unrolled!(k in [0, 1, 2, 3, 4] {
            if let Some(grad) = grads[k].take().filter(|_| k < K) {
                fill(grad, n, |i| at(i).grad[k.min(K - 1)] * scale);
            }
        });
    }
}

#[inline(always)]
fn fill<T>(out: &mut [T], n: usize, at: impl Fn(usize) -> T) {
    for (i, x) in out[..n].iter_mut().enumerate() {
        *x = at(i);
    }
}

#[inline(always)]
fn fill_both<T>(one: &mut [T], other: &mut [T], n: usize, at: impl Fn(usize) -> (T, T)) {
    let (one, other) = (&mut one[..n], &mut other[..n]);
    for i in 0..n {
        (one[i], other[i]) = at(i);
    }
}

/// A loss of three inputs of which the last is 1 everywhere.
#[derive(Clone, Copy)]
struct WithOnes<L>(ErasedPoint<L, 3>);

impl<T: Real, L: Elementwise<3>> BlockKernel<T> for WithOnes<L> {
    fn cost(&self) -> f64 {
        L::COST
    }
    fn run(&self, level: Level, inputs: &[&[T]], mut outputs: BlockOutputs<'_, T>, scale: T) {
        let (ones, n) = (&const { [T::ONE; ONES] }, inputs[0].len());
        for first in (0..n).step_by(ONES) {
            let part = first..n.min(first + ONES);
            let inputs = [&inputs[0][part.clone()], &inputs[1][part.clone()], &ones[..part.len()]];
            self.0.run(level, &inputs, outputs.part(&part), scale);
        }
    }
}

impl<L: Elementwise<3>> Blocks<2> for WithOnes<L> {
    const HESSIAN: Hessian = L::HESSIAN;

    fn input(&self, declared: Input) -> Input {
        self.0.input(declared)
    }
    fn kinks(&self, [pred, label]: [f64; 2]) -> Vec<f64> {
        self.0.kinks([pred, label, 1.0])
    }
}

/// A loss as the registry takes it.
struct ElementLoss<B, const K: usize>(B);

impl<B: Blocks<K> + 'static, const K: usize> Loss for ElementLoss<B, K> {
    fn axes(&self, (_, first): (&str, &[usize]), options: &Options) -> Result<Axes> {
        Axes::elementwise(first, options.batch_axis)
    }
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        plan_blocks(self.0, call)
    }
    fn input(&self, declared: Input) -> Input {
        self.0.input(declared)
    }
    fn hessian(&self) -> Hessian {
        B::HESSIAN
    }
    fn kernels(&self, operands: usize) -> Option<Kernels<'_>> {
        (operands == K).then_some(Kernels { single: &self.0, double: &self.0 })
    }
    fn in_place(&self) -> bool {
        true
    }
}

/// A loss with a last input that a call may leave out.
struct WithOptional<A, B> {
    name: &'static str,
    without: A,
    with: B,
}

/// A loss of the registry whose last input, of that name, may be left out, and is 1 then.
pub fn with_optional_weight<L: Elementwise<3> + 'static>(
    name: &'static str,
    loss: L,
) -> Box<dyn Loss> {
    let with = ErasedPoint(loss);
    Box::new(WithOptional { name, without: ElementLoss(WithOnes(with)), with: ElementLoss(with) })
}

/// A loss of the registry whose input of that name is optional, and the last of its form with it; without, there is a
/// cheaper one.
pub fn with_optional<A, B, const K: usize, const L: usize>(
    name: &'static str,
    without: A,
    with: B,
) -> Box<dyn Loss>
where
    A: Elementwise<K> + 'static,
    B: Elementwise<L> + 'static,
{
    let (without, with) = (ElementLoss(ErasedPoint(without)), ElementLoss(ErasedPoint(with)));
    Box::new(WithOptional { name, without, with })
}

impl<A: Loss, B: Loss> Loss for WithOptional<A, B> {
    fn axes(&self, first: (&str, &[usize]), options: &Options) -> Result<Axes> {
        self.with.axes(first, options)
    }
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>> {
        if call.given(self.name).is_some() { self.with.plan(call) } else { self.without.plan(call) }
    }
    fn input(&self, declared: Input) -> Input {
        self.with.input(declared)
    }
    fn hessian(&self) -> Hessian {
        self.with.hessian()
    }
    fn kernels(&self, operands: usize) -> Option<Kernels<'_>> {
        self.without.kernels(operands).or_else(|| self.with.kernels(operands))
    }
    fn in_place(&self) -> bool {
        self.with.in_place() && self.without.in_place()
    }
}

/// Lines up the arrays of a call of `loss`.
pub fn plan<'a, L: Elementwise<K> + 'static, const K: usize>(
    loss: L,
    call: &Call<'a>,
) -> Result<Box<dyn Plan + 'a>> {
    plan_blocks(ErasedPoint(loss), call)
}

/// The same for a loss that is more than that.
pub fn plan_blocks<'a, L: Blocks<K> + 'a, const K: usize>(
    loss: L,
    call: &Call<'a>,
) -> Result<Box<dyn Plan + 'a>> {
    let elements = ElementwiseCall::new(call)?;
    Ok(Box::new(ElementwisePlan { loss, elements }))
}

struct ElementwisePlan<'a, L, const K: usize> {
    loss: L,
    elements: ElementwiseCall<'a, K>,
}

impl<L: Blocks<K>, const K: usize> Plan for ElementwisePlan<'_, L, K> {
    fn value_shape(&self) -> Shape {
        self.elements.axes.value_shape(self.elements.weighting.reduction)
    }
    fn cost(&self) -> f64 {
        BlockKernel::<f32>::cost(&self.loss) * self.elements.len() as f64
    }
    fn run(&self, results: Results<'_>) -> Result<()> {
        self.elements.run(Kernels { single: &self.loss, double: &self.loss }, results)
    }
    fn kinks(&self) -> Result<Vec<f64>> {
        self.elements.kinks(&|x| self.loss.kinks(x))
    }
}

/// A checked call, its loss aside.
struct ElementwiseCall<'a, const K: usize> {
    level: Level,
    single: bool,
    axes: Axes,
    inputs: [Argument<'a>; K],
    /// Where the inputs stand in the registry.
    positions: [usize; K],
    weighting: Weighting<'a>,
}

impl<'a, const K: usize> ElementwiseCall<'a, K> {
    /// Lines up the first `K` inputs of the registry that have elements.
    fn new(call: &Call<'a>) -> Result<Self> {
        let axes = call.axes.clone();
        let mut operands = (0..).zip(call.inputs).filter(|(_, input)| input.shape.has_elements());
        let positions = [(); K].map(|()| operands.next().map_or(0, |(at, _)| at));
        let inputs = positions.map(|at| {
            call.argument(at, |given| match call.inputs[at].shape {
                ShapeRule::Broadcast => axes.broadcast(given),
                _ => axes.line_up(given),
            })
        });
        let (weighting, level, single) = (call.weighting()?, call.level(), call.single());
        Ok(ElementwiseCall { level, single, axes, inputs, positions, weighting })
    }

    /// The number of elements.
    fn len(&self) -> usize {
        self.inputs[0].view.len()
    }

    /// How far each point is from each kink, which `of_point` tells.
    #[expect(clippy::disallowed_methods, reason = "for tests of derivatives")]
    fn kinks(&self, of_point: &dyn Fn([f64; K]) -> Vec<f64>) -> Result<Vec<f64>> {
        let inputs = self.inputs.iter().map(|input| input.view.to_vec::<f64>());
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let points = 0..self.len();
        Ok(points.flat_map(|i| of_point(std::array::from_fn(|k| inputs[k][i]))).collect())
    }

    /// Computes the results.
    fn run(&self, kernels: Kernels<'_>, results: Results<'_>) -> Result<()> {
        if self.single && !self.leaves_single(&results) {
            self.run_in(kernels.single, results)
        } else {
            self.run_in(kernels.double, results)
        }
    }

    /// Whether weights have no room in `f32`, or derivatives that are summed may have none.
    fn leaves_single(&self, results: &Results<'_>) -> bool {
        let is_extreme = |argument: &Argument<'_>| {
            let weights = argument.check.as_ref().filter(|check| check.domain == Domain::Weight);
            let wide = weights.filter(|check| check.given.dtype() == DType::F64);
            wide.is_some_and(|check| range::leaves_single(&range::sizes(&check.given)))
        };
        let is_summed = |(argument, &at): (&Argument<'_>, &usize)| {
            let mut of_input = results.grads.iter().filter(|(of, _)| *of == at);
            of_input.any(|(_, grad)| grad.shape() != argument.view.shape())
        };
        self.inputs.iter().skip(2).any(is_extreme)
            || (self.inputs.iter().zip(&self.positions).skip(2).any(is_summed)
                && self.weighting.leaves_single())
    }

    fn run_in<T: Real>(&self, kernel: &dyn BlockKernel<T>, mut results: Results<'_>) -> Result<()> {
        let shape = self.axes.batch_first();
        // The gradient of an input that was broadcast is summed over the axes that it lacks.
        let mut full = [const { Vec::<T>::new() }; K];
        let mut summed = SmallVec::<[(usize, ViewMut<'_>); 1]>::new();
        let mut outputs = Outputs {
            value: results.value.and_then(|v| self.axes.value(v, self.weighting.reduction)),
            grads: [const { None }; MAX_OPERANDS],
            hess: results.hess.and_then(|v| self.axes.line_up_mut(v)),
            extremes: results.extremes,
        };
        for (k, (buffer, &at)) in full.iter_mut().zip(&self.positions).enumerate() {
            let Some(grad) = results.grads.take(at) else { continue };
            outputs.grads[k] = if reshapes(grad.shape(), &self.axes.shape) {
                self.axes.line_up_mut(grad)
            } else {
                summed.push((k, grad));
                memory::grow(buffer, elements(&shape), T::ZERO)?;
                Some(ViewMut::from_slice(buffer, &shape))
            };
        }
        blocks::drive::<T>(&blocks::BlockRun {
            kernel,
            level: self.level,
            order: self.axes.order(),
            inputs: &self.inputs,
            outputs: &outputs,
            weighting: &self.weighting,
        })?;
        drop(outputs);
        for (k, grad) in summed {
            self.axes.sum_to(&full[k], grad)?;
        }
        Ok(())
    }
}

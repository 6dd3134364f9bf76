//! A loss of the registry with its parameters and options, and what a call of it gives, without data.

use crate::array::{Shape, View, ViewMut, reshapes};
#[cfg(feature = "python")]
use crate::drive::block_kernel::FewPrecision;
use crate::drive::domain::Domain;
#[cfg(feature = "python")]
use crate::drive::few::Few;
#[cfg(feature = "python")]
use crate::drive::weight::Weighting;
use crate::drive::{Axes, Reduction};
use crate::error::{Error, Kind, Number, Result, Tuple};
#[cfg(feature = "python")]
use crate::num::DType;
use crate::registry::{
    Arguments, Call, Family, Input, Inputs, Lattice, Loss, MAX_INPUTS, Options, Params,
    PathResults, Plan, Results, Spec,
};
#[cfg(feature = "python")]
use crate::registry::{Gradient, Hessian, Unreduced};
#[cfg(feature = "python")]
use crate::simd;
use smallvec::SmallVec;
use std::fmt;

/// A loss of the registry with its parameters and options.
pub struct Objective {
    /// What the registry says of it.
    pub(crate) spec: &'static Spec,
    /// What every constructor takes.
    options: Options,
    /// The inputs, as the parameters make them.
    pub(crate) inputs: SmallVec<[Input; MAX_INPUTS]>,
    /// The loss.
    pub(crate) loss: Box<dyn Loss>,
}

impl fmt::Debug for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.spec.name).field("options", &self.options).finish_non_exhaustive()
    }
}

/// What a call gives and takes, by the shapes and types of its arrays.
#[cfg(feature = "python")]
pub struct Signature {
    /// The axes of the unreduced loss.
    pub axes: Axes,
    /// The shape of the value.
    pub value_shape: Shape,
    /// The element type of the value.
    pub value_dtype: DType,
    /// The element type of gradients and second derivatives, whose shapes are those of their inputs.
    pub dtype: DType,
    /// What there is of the second derivative.
    pub hessian: Hessian,
}

impl Objective {
    /// From checked parameters.
    ///
    /// # Errors
    /// If there is an option that no loss can have, or not this one, or if parameters do not go together.
    #[expect(clippy::disallowed_methods, reason = "as many as the registry has")]
    pub(crate) fn new(spec: &'static Spec, params: &Params, options: Options) -> Result<Self> {
        let wrong = |name: &str, detail: String| Err(Error::new(Kind::Parameter, name, detail));
        if !options.weight.is_finite() {
            let got = Number::Float(options.weight);
            return wrong("weight", format!("expected None or a finite number, got {got}"));
        }
        if options.reduction == Reduction::TargetMean && spec.family != Family::Sequence {
            let expected = "another one, as this loss has no target sequences to divide by,";
            return wrong("reduction", format!("expected {expected} got 'target_mean'"));
        }
        let loss = (spec.build)(params)?;
        let options = Options { allow_out_of_range: params.allows_out_of_range(), ..options };
        let inputs = spec.inputs.iter().map(|&input| loss.input(input)).collect();
        Ok(Objective { spec, options, inputs, loss })
    }

    /// The shapes and types of a call's results, from those of its inputs; `None` stands for what is not given.
    ///
    /// # Errors
    /// If an input does not line up with the first.
    #[cfg(feature = "python")]
    pub(crate) fn signature(&self, inputs: &[Option<(&[usize], DType)>]) -> Result<Signature> {
        let dtype = self.result_dtype(|i| Some((*inputs.get(i)?)?.1));
        let shape = |i: usize| inputs[i].map(|(shape, _)| shape);
        let axes = self.line_up(shape)?;
        let position = |name: &str| self.inputs.iter().position(|input| input.name == name);
        self.loss.check_shapes(&axes, &|name| shape(position(name)?))?;
        let value_shape = axes.value_shape(self.options.reduction);
        let (value_dtype, hessian) = (self.value_dtype(dtype), self.hessian());
        Ok(Signature { axes, value_shape, value_dtype, dtype, hessian })
    }

    /// What there is of the second derivative.
    #[cfg(feature = "python")]
    pub(crate) fn hessian(&self) -> Hessian {
        if self.spec.hess { self.loss.hessian() } else { Hessian::None }
    }

    /// The element type of gradients, from the element types of the inputs by position.
    #[cfg(feature = "python")]
    pub(crate) fn result_dtype(&self, given: impl Fn(usize) -> Option<DType>) -> DType {
        let mut dtype = None;
        for (i, input) in self.inputs.iter().enumerate() {
            let (Gradient::Default, Some(given)) = (input.gradient, given(i)) else { continue };
            dtype = Some(DType::promote(dtype, given));
        }
        dtype.unwrap_or(DType::F64)
    }

    /// The element type of the value. A half type is for single elements: it has no room for sums and no digits for means.
    #[cfg(feature = "python")]
    pub(crate) fn value_dtype(&self, dtype: DType) -> DType {
        let sums =
            self.spec.unreduced != Unreduced::Element || self.options.reduction != Reduction::None;
        if sums && dtype.size() == 2 { DType::F32 } else { dtype }
    }

    /// The axes of a call with a first input of a shape; none if its first axis is not that of the samples, or if the value
    /// is not one of each sample by itself.
    #[cfg(feature = "python")]
    pub(crate) fn axes_of_samples(&self, first: &[usize]) -> Option<Axes> {
        let apart = !self.options.reduction.is_total() && self.spec.family != Family::Pairwise;
        let axes = self.loss.axes((self.inputs[0].name, first), &self.options).ok()?;
        (apart && axes.samples == 0).then_some(axes)
    }

    /// Checks the shapes of a call's inputs, but for those that the loss itself checks.
    fn line_up<'s>(&self, shape: impl Fn(usize) -> Option<&'s [usize]>) -> Result<Axes> {
        let first = (self.inputs[0].name, shape(0).unwrap_or_default());
        let axes = self.loss.axes(first, &self.options)?;
        for (i, input) in self.inputs.iter().enumerate().skip(1) {
            if let Some(given) = shape(i) {
                input.check_shape(given, first, &axes).map_err(|mut error| {
                    if input.domain == Domain::Classes && reshapes(given, first.1) {
                        error.detail += self.remedy_of_one_hot();
                    }
                    error
                })?;
            }
        }
        Ok(axes)
    }

    /// What to do about labels that have an element for each class.
    fn remedy_of_one_hot(&self) -> &'static str {
        if self.spec.params.iter().any(|param| param.name == "sparse_label") {
            "; distributions need sparse_label=False"
        } else {
            "; the classes of one-hot labels are their argmax along the class axis"
        }
    }

    /// A call of few elements without options, and the shape of its value; none if it is another call, or one with an
    /// error.
    #[cfg(feature = "python")]
    pub(crate) fn few<'a, T: FewPrecision>(
        &'a self,
        given: &[Option<View<'a>>],
    ) -> Option<(Few<'a, T>, Shape)> {
        let options = &self.options;
        let kernel = T::kernel(self.loss.kernels(given.iter().flatten().count())?);
        let shape = given[0].as_ref()?.shape();
        let axes = self.loss.axes((self.inputs[0].name, shape), options).ok()?;
        let weighting = Weighting { weight: options.weight, ..Weighting::new(options.reduction) };
        let level = simd::level().ok()?;
        let few = Few::new(kernel, level, &weighting, &axes.shape);
        let mut few = few.filter(|_| axes.batch == 0)?;
        for (i, (input, view)) in self.inputs.iter().zip(given).enumerate() {
            let Some(view) = view else { continue };
            let x = view.dense().filter(|_| input.shape.has_elements() && view.shape() == shape)?;
            if options.checks(input.domain, i, true) && !input.domain.all_hold(level, x) {
                return None;
            }
            few.push(x);
        }
        Some((few, axes.value_shape(options.reduction)))
    }

    /// Checks the arguments of a call.
    ///
    /// # Errors
    /// If one is not what it must be.
    pub(crate) fn plan<'a>(&'a self, arguments: Arguments<'a>) -> Result<Checked<'a>> {
        let axes = self.line_up(|i| arguments.inputs[i].as_ref().map(View::shape))?;
        let (inputs, options) = (&self.inputs, &self.options);
        let call = Call { inputs, options, arguments, axes, checked: true };
        Ok(Checked { plan: self.loss.plan(&call)?, inputs: call.arguments.inputs })
    }
}

/// A call whose arguments have been checked. The only way to its plan: it checks the shapes of results, too.
pub(crate) struct Checked<'a> {
    plan: Box<dyn Plan + 'a>,
    /// The inputs, whose shapes are those of their gradients.
    inputs: Inputs<'a>,
}

impl Checked<'_> {
    /// The shape of the value.
    pub fn value_shape(&self) -> Shape {
        self.plan.value_shape()
    }

    /// Rough time on one thread in nanoseconds.
    #[cfg(feature = "python")]
    pub fn cost(&self) -> f64 {
        self.plan.cost()
    }

    /// See [`Plan::kinks`].
    #[cfg(feature = "python")]
    pub fn kinks(&self) -> Result<Vec<f64>> {
        self.plan.kinks()
    }

    /// Computes the results, whose memory is disjoint from all else.
    ///
    /// # Errors
    /// If one is not of its shape, or the computation fails.
    pub fn run(&self, results: Results<'_>) -> Result<()> {
        let of = |at: usize| self.inputs[at].as_ref().map_or(&[][..], View::shape);
        if let Some(value) = &results.value {
            check_shape("value", &self.plan.value_shape(), value)?;
        }
        for (at, grad) in results.grads.iter() {
            check_shape("gradient", of(at), grad)?;
        }
        results.hess.iter().try_for_each(|hess| check_shape("second derivative", of(0), hess))?;
        self.plan.run(results)
    }

    /// The shape of the posteriors, and that of each part of an alignment.
    ///
    /// # Errors
    /// If the loss is not a sum over the paths through a lattice.
    pub fn path_shapes(&self) -> Result<[Shape; 2]> {
        self.lattice().map(Lattice::shapes)
    }

    /// As [`Checked::run`], for results about paths.
    ///
    /// # Errors
    /// Also if there are no paths.
    pub fn run_paths(&self, results: PathResults<'_>) -> Result<()> {
        let (lattice, [posteriors, path]) = (self.lattice()?, self.path_shapes()?);
        let given = &results.posteriors;
        given.iter().try_for_each(|view| check_shape("posteriors", &posteriors, view))?;
        let parts = results.alignment.iter().flatten();
        parts.into_iter().try_for_each(|view| check_shape("alignment", &path, view))?;
        lattice.run(results)
    }

    fn lattice(&self) -> Result<&dyn Lattice> {
        let none = || Error::new(Kind::Call, "", "expected a loss that is a sum over paths");
        self.plan.lattice().ok_or_else(none)
    }
}

fn check_shape(name: &str, expected: &[usize], result: &ViewMut<'_>) -> Result<()> {
    if result.shape() == expected {
        return Ok(());
    }
    let (expected, got) = (Tuple(expected), Tuple(result.shape()));
    Err(Error::new(Kind::Output, name, format!("expected shape {expected}, got shape {got}")))
}

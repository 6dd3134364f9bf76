//! A loss of the registry with its parameters and options, and what a call of it gives, without data.

use crate::array::{Shape, View};
use crate::drive::{Axes, Reduction};
use crate::error::Result;
use crate::num::DType;
use crate::registry::{
    Arguments, Call, Gradient, Hessian, Input, Loss, MAX_INPUTS, Options, Params, Plan, Spec,
    Unreduced,
};
use smallvec::SmallVec;

/// A loss of the registry with its parameters and options.
pub struct Objective {
    /// What the registry says of it.
    pub spec: &'static Spec,
    /// What every constructor takes.
    pub options: Options,
    /// The inputs, as the parameters make them.
    pub inputs: SmallVec<[Input; MAX_INPUTS]>,
    /// The loss.
    pub loss: Box<dyn Loss>,
}

/// What a call gives and takes, by the shapes and types of its arrays.
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
    /// If parameters do not go together.
    #[allow(clippy::disallowed_methods, reason = "as many as the registry has")]
    pub fn new(spec: &'static Spec, params: &Params, options: Options) -> Result<Self> {
        let loss = (spec.build)(params)?;
        let inputs = spec.inputs.iter().map(|&input| loss.input(input)).collect();
        Ok(Objective { spec, options, inputs, loss })
    }

    /// The shapes and types of a call's results, from those of its inputs; `None` stands for what is not given.
    ///
    /// # Errors
    /// If an input does not line up with the first.
    pub fn signature(&self, inputs: &[Option<(&[usize], DType)>]) -> Result<Signature> {
        let mut dtype = None;
        for (input, given) in self.inputs.iter().zip(inputs) {
            let (Gradient::Default, Some((_, given))) = (input.gradient, given) else { continue };
            dtype = Some(DType::promote(dtype, *given));
        }
        let dtype = dtype.unwrap_or(DType::F64);
        let axes = self.line_up(|i| inputs[i].map(|(shape, _)| shape))?;
        let value_shape = axes.value_shape(self.options.reduction);
        let hessian = if self.spec.hess { self.loss.hessian() } else { Hessian::None };
        Ok(Signature { value_shape, value_dtype: self.value_dtype(dtype), dtype, axes, hessian })
    }

    /// The element type of the value. A half type is for single elements: it has no room for sums and no digits for means.
    pub fn value_dtype(&self, dtype: DType) -> DType {
        let sums =
            self.spec.unreduced != Unreduced::Element || self.options.reduction != Reduction::None;
        if sums && dtype.size() == 2 { DType::F32 } else { dtype }
    }

    /// Checks the shapes of a call's inputs.
    fn line_up<'s>(&self, shape: impl Fn(usize) -> Option<&'s [usize]>) -> Result<Axes> {
        let first = (self.inputs[0].name, shape(0).unwrap_or_default());
        let axes = self.loss.axes(first, &self.options)?;
        for (i, input) in self.inputs.iter().enumerate().skip(1) {
            if let Some(given) = shape(i) {
                input.check_shape(given, first, &axes)?;
            }
        }
        Ok(axes)
    }

    /// Checks the arguments of a call.
    ///
    /// # Errors
    /// If one is not what it must be.
    pub fn plan<'a>(&'a self, arguments: Arguments<'a>) -> Result<Box<dyn Plan + 'a>> {
        let axes = self.line_up(|i| arguments.inputs[i].as_ref().map(View::shape))?;
        self.loss.plan(&Call {
            inputs: &self.inputs,
            options: &self.options,
            arguments,
            axes,
            checked: true,
        })
    }
}

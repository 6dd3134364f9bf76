//! A call of a loss: its arrays, their shapes checked, and what all families ask of them.

use crate::array::View;
use crate::drive::Axes;
use crate::drive::Reduction;
use crate::drive::domain::{Check, Domain};
use crate::drive::operand::Argument;
use crate::drive::weight::Weighting;
use crate::error::{Error, Kind, Result, Tuple};
use crate::num::DType;
use crate::registry::{Input, ShapeRule};
use crate::simd::Level;
use smallvec::SmallVec;

/// The most arrays that a call takes.
pub const MAX_INPUTS: usize = 8;

/// The arrays that most losses take at most: lists of so many need no memory of their own.
pub const USUAL_INPUTS: usize = 4;

/// The arrays of a call by their positions in the registry.
pub type Inputs<'a> = SmallVec<[Option<View<'a>>; USUAL_INPUTS]>;

/// What every constructor takes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Multiplies the loss.
    pub weight: f64,
    /// The axis of the samples.
    pub batch_axis: isize,
    /// How the unreduced loss becomes the result.
    pub reduction: Reduction,
    /// The mean of nothing.
    pub empty: f64,
    /// Whether labels outside their domain follow the formula instead of being an error.
    pub allow_out_of_range: bool,
}

impl Options {
    /// Those of a constructor that is given none.
    pub const DEFAULT: Options = Options {
        weight: 1.0,
        batch_axis: 0,
        reduction: Reduction::Sample,
        empty: f64::NAN,
        allow_out_of_range: false,
    };
}

impl Options {
    /// Whether the input at a position is checked to be of its domain, unless `labels` are not to be.
    pub(crate) fn checks(&self, domain: Domain, position: usize, labels: bool) -> bool {
        match domain {
            Domain::Weight => true,
            Domain::PredictedProbability => !self.allow_out_of_range,
            // A prediction is what a model makes of it.
            _ => position > 0 && labels && !self.allow_out_of_range,
        }
    }
}

/// The arrays of a call, and how it is to be computed.
#[derive(Clone, Debug)]
pub struct Arguments<'a> {
    /// The instruction set to use.
    pub level: Level,
    /// The element type of the results.
    pub dtype: DType,
    /// The arrays.
    pub inputs: Inputs<'a>,
    /// Whether label sequences came as a list of them.
    pub listed: bool,
    /// The gradient with respect to the result.
    pub grad_output: Option<View<'a>>,
    /// Replaces the divisor of the mean.
    pub denominator: Option<f64>,
    /// Whether the gradient by the first input goes to the very memory of that input.
    pub in_place: bool,
}

/// A call whose arrays have the right shapes.
#[derive(Clone)]
pub struct Call<'a> {
    /// What the registry says of the inputs, with the parameters of the loss.
    pub inputs: &'a [Input],
    /// The options of the loss.
    pub options: &'a Options,
    /// Its arguments.
    pub arguments: Arguments<'a>,
    /// The axes of the unreduced loss E.
    pub axes: Axes,
    /// Whether labels are still to be checked.
    pub checked: bool,
}

impl<'a> Call<'a> {
    /// The position of an input of the registry.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn position(&self, name: &str) -> usize {
        let found = self.inputs.iter().position(|input| input.name == name);
        found.expect("an input of the registry")
    }

    /// The input of a name, if it is given.
    pub fn given(&self, name: &str) -> Option<&View<'a>> {
        self.arguments.inputs[self.position(name)].as_ref()
    }

    /// The first input.
    pub fn first(&self) -> &View<'a> {
        self.arguments.inputs[0].as_ref().expect("required arguments are bound")
    }

    /// The instruction set to use.
    pub fn level(&self) -> Level {
        self.arguments.level
    }

    /// The check of the input at a position, whose elements are to be of its domain.
    pub(crate) fn check(&self, position: usize) -> Option<Box<Check<'a>>> {
        let Input { name, domain, .. } = self.inputs[position];
        let is_checked = self.options.checks(domain, position, self.checked);
        let given = self.arguments.inputs[position].as_ref().filter(|_| is_checked)?;
        Check::new(name, domain, given)
    }

    /// Whether losses are computed in `f32`.
    pub fn single(&self) -> bool {
        self.arguments.dtype != DType::F64
    }

    /// The input at a position, with its check, lined up with the unreduced loss by `line_up`, which gives none for
    /// shapes that the input's shape rule refuses.
    pub(crate) fn argument(
        &self,
        position: usize,
        line_up: impl FnOnce(&View<'a>) -> Option<View<'a>>,
    ) -> Argument<'a> {
        let given = self.arguments.inputs[position].as_ref();
        let view = given.and_then(line_up).expect("shapes are checked first");
        let overwritten = position == 0 && self.arguments.in_place;
        Argument { view, check: self.check(position), overwritten }
    }

    /// The call's weights, lined up with E.
    ///
    /// # Errors
    /// If a denominator or a gradient of the result does not go with the reduction.
    pub fn weighting(&self) -> Result<Weighting<'a>> {
        let axes = &self.axes;
        let Options { weight, reduction, empty, .. } = *self.options;
        let Arguments { denominator, ref grad_output, .. } = self.arguments;
        if denominator.is_some() && !reduction.takes_denominator() {
            let detail = "it replaces the divisor of reduction='mean' and 'weighted_mean', and this loss has another reduction";
            return Err(Error::new(Kind::Parameter, "denominator", detail));
        }
        let at = self.inputs.iter().position(|i| i.shape == ShapeRule::Weight);
        let sample_weight = at.and_then(|at| self.arguments.inputs[at].as_ref());
        Ok(Weighting {
            reduction,
            weight,
            sample_weight: sample_weight.map(|w| axes.sample_weight(w)),
            weight_check: at.and_then(|at| self.check(at)),
            divisor_weight: None,
            grad_output: grad_output
                .as_ref()
                .map(|g| axes.grad_output(g, reduction))
                .transpose()?,
            denominator,
            empty,
        })
    }
}

/// An optional input that is one number >= 0.
pub fn scalar(call: &Call<'_>, name: &'static str, default: f64) -> Result<f64> {
    let Some(view) = call.given(name) else { return Ok(default) };
    let expected = "expected one finite number >= 0, or None";
    if !view.shape().is_empty() {
        let detail = format!("{expected}, got shape {}", Tuple(view.shape()));
        return Err(Error::new(Kind::Parameter, name, detail));
    }
    let x = view.number(&[]);
    Some(x.to_f64())
        .filter(|x| (0.0..f64::INFINITY).contains(x))
        .ok_or_else(|| Error::new(Kind::Parameter, name, format!("{expected}, got {x}")))
}

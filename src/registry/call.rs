//! A call of a loss, from checked arguments to results: what every family shares.

use crate::array::{Shape, View, ViewMut};
use crate::drive::Axes;
use crate::drive::Reduction;
use crate::drive::domain::{Check, Domain};
use crate::drive::weight::Weighting;
use crate::error::{Error, Kind, Result};
use crate::num::DType;
use crate::simd::Level;

/// The most arrays that a loss takes, `sample_weight` aside.
pub const MAX_ARGUMENTS: usize = 5;

/// What every constructor takes.
#[derive(Clone, Debug)]
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

/// The arguments of one call.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The constructor's options.
    pub options: &'a Options,
    /// The instruction set to use.
    pub level: Level,
    /// The element type of the results.
    pub dtype: DType,
    /// The names of the arrays.
    pub names: [&'static str; MAX_ARGUMENTS],
    /// What they may hold.
    pub domains: [Domain; MAX_ARGUMENTS],
    /// The arrays by position, `sample_weight` aside.
    pub inputs: [Option<View<'a>>; MAX_ARGUMENTS],
    /// Whether label sequences came as a list of them.
    pub listed: bool,
    /// Weights of samples or elements.
    pub sample_weight: Option<View<'a>>,
    /// The gradient with respect to the result.
    pub grad_output: Option<View<'a>>,
    /// Replaces the divisor of the mean.
    pub denominator: Option<f64>,
    /// Whether the gradient by the first input goes to the very memory of that input.
    pub in_place: bool,
}

impl<'a> Call<'a> {
    /// An input that the binding of arguments has made sure of.
    ///
    /// # Panics
    /// If it is missing.
    pub fn input(&self, position: usize) -> &View<'a> {
        self.inputs[position].as_ref().expect("required arguments are bound")
    }

    /// The check of the input at a position, whose elements are to be of a domain.
    pub(crate) fn check(&self, position: usize, domain: Domain) -> Option<Box<Check<'a>>> {
        let checked = domain == Domain::Weight || !self.options.allow_out_of_range;
        let given = self.inputs[position].as_ref().filter(|_| checked)?;
        Check::new(self.names[position], domain, given)
    }

    /// Whether losses are computed in `f32`.
    pub fn single(&self) -> bool {
        self.dtype != DType::F64
    }
}

/// Where results go.
#[derive(Default)]
pub struct Results<'a> {
    /// The loss.
    pub value: Option<ViewMut<'a>>,
    /// The gradients by the position of their input, each of its input's shape.
    pub grads: [Option<ViewMut<'a>>; MAX_ARGUMENTS],
    /// The second derivative.
    pub hess: Option<ViewMut<'a>>,
}

/// Where results about the paths through a lattice go.
#[derive(Default)]
pub struct PathResults<'a> {
    /// For each frame the probability of each label of the sequence, given the sequence.
    pub posteriors: Option<ViewMut<'a>>,
    /// For each frame of the most probable path the position of its label (-1 for none), the logarithm of the probability
    /// of its class, and the probability of its state given the sequence.
    pub alignment: Option<[ViewMut<'a>; 3]>,
}

/// A call whose arguments have been checked.
pub trait Plan: Sync {
    /// The shape of the value.
    fn value_shape(&self) -> Shape;
    /// Rough time on one thread in nanoseconds.
    fn cost(&self) -> f64;
    /// Computes the results, whose shapes and types are right and whose memory is disjoint from all else.
    fn run(&self, results: Results<'_>) -> Result<()>;
    /// The lattice, if the loss is a sum over its paths.
    fn lattice(&self) -> Option<&dyn Lattice> {
        None
    }
}

/// A call whose arguments have been checked, of a loss that is a sum over paths.
pub trait Lattice: Sync {
    /// The shape of the posteriors, and that of each part of an alignment.
    fn shapes(&self) -> [Shape; 2];
    /// As [`Plan::run`].
    fn run(&self, results: PathResults<'_>) -> Result<()>;
}

/// A loss with its parameters.
pub trait Loss: Send + Sync {
    /// Checks the arguments.
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>>;
    /// Whether there is a gradient by the input at a position, which the registry promises for some parameters.
    fn differentiable(&self, _position: usize) -> bool {
        true
    }
    /// Whether every part of the first input is read before the gradient by it is written there, so that both may be
    /// the same memory.
    fn in_place(&self) -> bool {
        false
    }
}

/// An optional input that is one number >= 0.
pub fn scalar(call: &Call<'_>, position: usize, default: f64) -> Result<f64> {
    let Some(view) = &call.inputs[position] else { return Ok(default) };
    match view.to_vec::<f64>()?[..] {
        [x] if view.shape().is_empty() && (0.0..f64::INFINITY).contains(&x) => Ok(x),
        _ => {
            let detail = "expected one finite number >= 0, or None";
            Err(Error::new(Kind::Parameter, call.names[position], detail))
        }
    }
}

impl<'a> Call<'a> {
    /// Checks the call's weights and lines them up with E.
    pub fn weighting(&self, axes: &Axes) -> Result<Weighting<'a>> {
        let Options { weight, reduction, empty, .. } = *self.options;
        if self.denominator.is_some() && !reduction.takes_denominator() {
            let detail = "it replaces the divisor of reduction='mean' and 'weighted_mean', and this loss has another reduction";
            return Err(Error::new(Kind::Parameter, "denominator", detail));
        }
        Ok(Weighting {
            reduction,
            weight,
            sample_weight: self
                .sample_weight
                .as_ref()
                .map(|w| axes.sample_weight(w))
                .transpose()?,
            weight_check: self
                .sample_weight
                .as_ref()
                .and_then(|w| Check::new("sample_weight", Domain::Weight, w)),
            divisor_weight: None,
            grad_output: self
                .grad_output
                .as_ref()
                .map(|g| axes.grad_output(g, reduction))
                .transpose()?,
            denominator: self.denominator,
            empty,
        })
    }
}

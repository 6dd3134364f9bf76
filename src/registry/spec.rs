//! What the registry says of a loss: data, read by the Python classes, the tests and the benchmarks.

pub use crate::drive::domain::Domain;
use crate::error::Result;
use crate::registry::{Loss, MAX_ARGUMENTS};
use crate::registry::{Param, Params};

/// A loss by name: its arguments, its parameters, and how it is made.
pub struct Spec {
    /// The class name.
    pub name: &'static str,
    /// The family, by the shape of the work.
    pub family: Family,
    /// The arrays of a call in order of position.
    pub inputs: &'static [Input],
    /// The constructor's parameters beside those that all losses have.
    pub params: &'static [Param],
    /// What the unreduced loss has one number for.
    pub unreduced: Unreduced,
    /// Whether there is a second derivative.
    pub hess: bool,
    /// Where the gradient jumps, as a predicate in words for readers and tests; empty where it is smooth.
    pub kinks: &'static str,
    /// Makes the loss from checked parameters.
    pub build: fn(&Params) -> Result<Box<dyn Loss>>,
}

impl Spec {
    /// Where the input `sample_weight` stands, if there is one.
    pub fn sample_weight(&self) -> Option<usize> {
        self.inputs.iter().position(|i| i.name == "sample_weight")
    }

    /// Where the other inputs stand.
    pub fn arguments(&self) -> [Option<usize>; MAX_ARGUMENTS] {
        let weight = self.sample_weight().unwrap_or(self.inputs.len());
        std::array::from_fn(|i| {
            Some(i + usize::from(i >= weight)).filter(|&i| i < self.inputs.len())
        })
    }
}

/// What the unreduced loss E has one number for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreduced {
    /// An element of the prediction.
    Element,
    /// A vector of the prediction: a sum along its axis.
    Row,
    /// A row of one batch and a row of the other.
    Pair,
    /// A sample.
    Sample,
}

/// The shape of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Every element on its own.
    Elementwise,
    /// One vector at a time.
    Rowwise,
    /// Batch against batch.
    Pairwise,
    /// Lattices over sequences.
    Sequence,
}

/// An array argument.
pub struct Input {
    /// Its name.
    pub name: &'static str,
    /// What it may hold.
    pub domain: Domain,
    /// Whether a call must give it.
    pub required: bool,
    /// Whether there is a gradient with respect to it.
    pub gradient: Gradient,
}

/// When a gradient is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// Unless others are asked for.
    Default,
    /// If asked for.
    OnRequest,
    /// Never.
    Never,
}

/// An input that every call gives.
pub const fn input(name: &'static str, domain: Domain, gradient: Gradient) -> Input {
    Input { name, domain, required: true, gradient }
}

/// An input that a call may leave out.
pub const fn optional(name: &'static str, domain: Domain, gradient: Gradient) -> Input {
    Input { name, domain, required: false, gradient }
}

/// The prediction.
pub const fn pred(domain: Domain) -> Input {
    input("pred", domain, Gradient::Default)
}

/// A label with a gradient.
pub const fn label(domain: Domain) -> Input {
    input("label", domain, Gradient::OnRequest)
}

/// The weights that every loss takes.
pub const SAMPLE_WEIGHT: Input = optional("sample_weight", Domain::Weight, Gradient::Never);

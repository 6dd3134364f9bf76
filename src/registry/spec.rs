//! What the registry says of a loss: data, read by the Python classes, the tests and the benchmarks.

use crate::error::Result;
use crate::registry::{Input, Loss, Param, Params};

/// A loss by name: its arguments, its parameters, and how it is made.
#[derive(Clone, Copy)]
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
    /// Where the gradient jumps, in words; empty where it is smooth. See [`crate::registry::Plan::kinks`].
    pub kinks: &'static str,
    /// Makes the loss from checked parameters.
    pub build: fn(&Params) -> Result<Box<dyn Loss>>,
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

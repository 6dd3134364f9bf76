//! What every loss of the registry is: axes from a shape, a plan from a call, results from a plan.

use crate::array::{Shape, ViewMut};
use crate::drive::Axes;
use crate::drive::block_kernel::Kernels;
use crate::drive::extremes::Extremes;
use crate::error::Result;
use crate::registry::{Call, Input, Options};
use smallvec::SmallVec;

/// The second derivative with respect to the prediction, as a matrix for each sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hessian {
    /// None is given.
    None,
    /// It is 0.
    Zero,
    /// Its diagonal is given.
    Diagonal,
}

/// A loss with its parameters.
pub trait Loss: Send + Sync {
    /// The axes of the unreduced loss E, from the shape of the first input alone.
    fn axes(&self, first: (&str, &[usize]), options: &Options) -> Result<Axes>;

    /// Checks what the arguments hold, as far as the drivers do not.
    fn plan<'a>(&'a self, call: &Call<'a>) -> Result<Box<dyn Plan + 'a>>;

    /// Checks what the shapes of some inputs, by name, say of a call without its data: of those that line up by a rule of
    /// the loss's own, see [`ShapeRule::Own`](super::ShapeRule::Own). Calls do it in [`Loss::plan`].
    #[cfg(feature = "python")]
    fn check_shapes<'s>(
        &self,
        axes: &Axes,
        shape: &dyn Fn(&str) -> Option<&'s [usize]>,
    ) -> Result<()> {
        let _ = (axes, shape);
        Ok(())
    }

    /// An input of the registry as the parameters make it.
    fn input(&self, declared: Input) -> Input {
        declared
    }

    /// What there is of the second derivative, for losses that the registry promises one of.
    fn hessian(&self) -> Hessian {
        Hessian::Diagonal
    }

    /// The loss as a function of that many slices, if it is that of each of their elements.
    fn kernels(&self, operands: usize) -> Option<Kernels<'_>> {
        let _ = operands;
        None
    }

    /// Whether every part of the first input is read before the gradient by it is written there, so that both may be
    /// the same memory.
    fn in_place(&self) -> bool {
        false
    }
}

/// Where results go.
#[derive(Default)]
pub struct Results<'a> {
    /// The loss.
    pub value: Option<ViewMut<'a>>,
    /// The gradients.
    pub grads: InputGrads<'a>,
    /// The second derivative.
    pub hess: Option<ViewMut<'a>>,
    /// What the run notices on the way, if it is one that looks.
    pub extremes: Option<&'a Extremes>,
}

/// Where gradients go, with the positions of their inputs in the registry, whose shapes they have.
#[derive(Default)]
pub struct InputGrads<'a>(SmallVec<[(usize, ViewMut<'a>); 2]>);

impl<'a> InputGrads<'a> {
    /// Adds the gradient by an input.
    pub fn insert(&mut self, at: usize, grad: ViewMut<'a>) {
        self.0.push((at, grad));
    }

    /// Takes the gradient by an input out, if it is wanted.
    pub fn take(&mut self, at: usize) -> Option<ViewMut<'a>> {
        let found = self.0.iter().position(|(of, _)| *of == at)?;
        Some(self.0.swap_remove(found).1)
    }

    /// Those that have not been taken.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &ViewMut<'a>)> {
        self.0.iter().map(|(at, grad)| (*at, grad))
    }
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
    /// For each element or row how far it is from each of its kinks, with a sign that changes there.
    fn kinks(&self) -> Result<Vec<f64>> {
        Ok(Vec::new())
    }
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

//! What a loss says of itself, its parameters, and a call of it.

mod call;
mod input;
mod loss;
mod objective;
mod params;
mod spec;

pub use call::{Arguments, Call, Inputs, MAX_INPUTS, Options, USUAL_INPUTS, scalar};
pub use input::{Domain, Gradient, Input, SAMPLE_WEIGHT, ShapeRule, input, label, optional, pred};
pub use loss::{Hessian, InputGrads, Lattice, Loss, PathResults, Plan, Results};
pub(crate) use objective::Checked;
pub use objective::Objective;

pub use params::{Accepts, Bound, Default, OUT_OF_RANGE, Param, Params, Value, flag, float, param};
pub use spec::{Family, Spec, Unreduced};

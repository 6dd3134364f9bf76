//! The public face of the crate: arrays in and out, calls, and one type for each loss.

mod array;
mod builder;
mod evaluation;

pub use array::{Array, ArrayView, ArrayViewMut, AsArray};
pub use builder::{Builder, Empty, Registered};
pub use evaluation::{BestPath, Evaluation, Prediction, ValueAndGrads};

pub(crate) use builder::typed;

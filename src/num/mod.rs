//! Numbers: the types that arrays hold and the two that losses are computed in.

mod element;
mod float;
mod twofold;

pub(crate) use element::with_element;
pub use element::{Boolean, DType, Element, Float, Sizes};
pub(crate) use twofold::{Scalar, Twofold, two_product, two_sum};

mod sealed {
    /// What keeps others from giving a type of their own the [`super::DType`] of another.
    pub trait Sealed {}
}

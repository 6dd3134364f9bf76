//! The losses, by the shape of their work. Each family's module names its losses; together they are the registry.

/// The modules of a family's losses, and their rows of the registry in this order.
macro_rules! family {
    [$($loss:ident),* $(,)?] => {
        $(pub mod $loss;)*

        /// The rows of the registry.
        pub static LOSSES: &[$crate::registry::Spec] = &[$($loss::SPEC),*];
    };
}
use family;

pub mod elementwise;
pub mod pairwise;
pub mod rowwise;
pub mod sequence;

use crate::registry::Spec;

/// Every loss.
pub fn registry() -> impl Iterator<Item = &'static Spec> {
    elementwise::LOSSES
        .iter()
        .chain(rowwise::LOSSES)
        .chain(pairwise::LOSSES)
        .chain(sequence::LOSSES)
}

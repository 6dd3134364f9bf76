//! The losses, by the shape of their work. Each family's module names its losses; together they are the registry.

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

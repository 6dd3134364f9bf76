//! The softmax of rows of logits: one row, and several rows together.

mod group;
mod row;

pub use group::*;
pub use row::*;

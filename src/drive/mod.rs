//! The drivers: tiles, threads, weights, checks and reduction, written once for all losses.

pub mod axes;
pub(crate) mod block_kernel;
pub mod blocks;
pub(crate) mod columns;
pub mod domain;
pub(crate) mod extremes;
pub(crate) mod factor;
pub(crate) mod few;
pub(crate) mod operand;
pub(crate) mod range;
pub(crate) mod reduced;
mod reduction;
pub(crate) mod row_kernel;
pub(crate) mod rows;
pub(crate) mod scale;
pub mod weight;

pub use axes::{Axes, axis};
pub use reduction::Reduction;

//! Training losses: value, gradient and, where smooth, the second derivative.

pub mod block;
pub mod error;
pub mod losses;
pub mod parallel;
pub mod real;
pub mod reduce;
pub mod simd;
#[macro_use]
pub mod view;
#[cfg(feature = "python")]
mod python;
pub mod weight;

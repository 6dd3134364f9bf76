//! Training losses: value, gradient and, where smooth, the second derivative.

#![cfg_attr(test, allow(clippy::disallowed_macros, clippy::disallowed_methods))]

pub mod block;
pub mod domain;
pub mod error;
mod factor;
#[macro_use]
pub mod view;
pub mod grid;
pub mod losses;
pub mod math;
mod memory;
mod operand;
#[cfg(feature = "python")]
#[allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    reason = "lists of arguments and parameters, as long as a signature"
)]
mod python;
pub mod real;
pub mod reduce;
pub mod simd;
pub mod threads;
pub mod weight;

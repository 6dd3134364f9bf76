//! Training losses: value, gradient and, where smooth, the second derivative.

#![cfg_attr(test, allow(clippy::disallowed_macros, clippy::disallowed_methods))]

pub mod array;
pub mod drive;
pub mod error;
pub mod losses;
pub mod math;
mod memory;
pub mod num;
#[cfg(feature = "python")]
#[allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    reason = "lists of arguments and parameters, as long as a signature"
)]
mod python;
pub mod registry;
pub mod simd;
mod softmax;
pub mod sum;
pub mod threads;

//! Vector math: scalar, branch-free functions that vectorise in a loop over a slice at every level.
//!
//! They are methods of [`Real`]: `x.exp::<S>()` inside a kernel; [`log_factorials`] and [`log_factorial_slopes`] are
//! kernels themselves. All take the whole
//! domain: subnormals in and out, both zeros, infinities and NaN, as the C standard (annex F) has them.
//!
//! | function | bound in ulp | exact where |
//! |---|---|---|
//! | `exp`, `exp_nonpositive`, `expm1`, `log`, `log_of_sum`, `log1p` | 2 | 0, infinities |
//! | `sigmoid`, `softplus`, `log_sigmoid` and the fields of [`LogisticParts`] | 2 | infinities |
//! | [`log_factorials`], for arguments of 0 and above | 4 | zeros, infinity |
//!
//! One ulp is the spacing of the type at the exact result; below the smallest normal number it is the smallest
//! subnormal. The bounds hold with and without a fused multiply-add.

#[cfg(test)]
mod testing;

mod digamma;
mod exp;
mod format;
mod gamma;
mod log;
mod logistic;
mod real;

pub use logistic::LogisticParts;
pub use real::Real;

pub(crate) use exp::{exp, exp_difference, exp_near, exp_nonpositive, expm1};
pub(crate) use gamma::{log_factorial_slopes, log_factorials};
pub(crate) use log::{log, log_of_small_sum, log_of_sum, log1p};
pub(crate) use logistic::logistic;

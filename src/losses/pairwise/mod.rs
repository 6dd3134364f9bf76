//! Losses of a batch against a batch.

mod columns;
mod gradient_kernels;
mod gradients;
mod kernel;
mod marks;
mod product;
mod similarity;
mod stream;
mod units;

super::family![sdml, info_nce];

//! Losses of a batch against a batch.

/// A loop that is written out: the compiler keeps an array of sums in registers only where no index varies.
macro_rules! unrolled {
    ($k:ident in [$($at:literal),*] $body:block) => { $({ let $k = $at; $body })* };
}

mod columns;
mod gradients;
mod kernel;
mod marks;
mod product;
mod similarity;
mod stream;
mod units;

super::family![sdml, info_nce];

//! CTC against definitions that share no code with it.

#![allow(clippy::disallowed_macros, clippy::disallowed_methods)]

mod alignment;
pub(crate) mod case;
mod edges;
mod exact;
mod same;

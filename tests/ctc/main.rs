//! CTC against definitions that share no code with it.

mod alignment;
mod case;
mod edges;
mod exact;
mod same;

//! What a loss says of itself, its parameters, and a call of it.

mod call;
mod params;
mod spec;

pub use call::*;
pub use params::*;
pub use spec::*;

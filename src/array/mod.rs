//! Strided arrays: views, their grid of rows and columns, tiles, and copies.

mod copies;
mod grid;
mod view;

pub use grid::{Grid, Tile};
pub(crate) use view::Tiles;
pub use view::{Shape, Strides, View, ViewMut, broadcasts, elements, reshapes, unravel};
#[cfg(feature = "python")]
pub(crate) use view::{overlaps_itself, reach};

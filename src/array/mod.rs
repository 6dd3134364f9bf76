//! Strided arrays: shapes, views, their grid of rows and columns, tiles, and copies.

mod copies;
mod grid;
mod memory;
mod shape;
mod transfer;
mod view;

pub(crate) use grid::Runs;
pub use grid::{Grid, Tile};
pub(crate) use memory::{Memory, MemoryMut, Tiles, gather, scatter};
pub use shape::{Shape, Strides, broadcasts, elements, reshapes, short, unravel};
#[cfg(feature = "python")]
pub(crate) use shape::{c_strides, overlaps_itself, reach};
pub use view::{View, ViewMut};

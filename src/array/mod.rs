//! Strided arrays: views, their grid of rows and columns, tiles, and copies.

mod copies;
mod grid;
mod view;

pub use grid::{Grid, Tile};
pub use view::{
    Shape, Strides, View, ViewMut, broadcasts, c_strides, elements, extent, reshapes, unravel,
};

//! Arrays with their numbers in a grid, and their tiles as memory to read and to write.

use crate::error::Result;
use crate::grid::{Grid, Tile};
use crate::memory;
use crate::real::Real;
use crate::view::{View, ViewMut};

/// An array with its number in the grid.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'v, V> {
    pub(crate) view: &'v V,
    pub(crate) k: usize,
}

pub(crate) type Input<'v, 'a> = Operand<'v, View<'a>>;
pub(crate) type Output<'v, 'a> = Operand<'v, ViewMut<'a>>;

impl<'v, 'a> Output<'v, 'a> {
    pub(crate) fn output(grid: &mut Grid, view: &'v ViewMut<'a>) -> Self {
        Operand { k: grid.add(view.strides()), view }
    }

    /// The tile as memory to write: the view's own, else `buffer`, to be scattered later.
    pub(crate) fn tile<'s, T: Real>(
        &'s self,
        grid: &Grid,
        tile: Tile,
        buffer: &'s mut Vec<T>,
    ) -> Result<&'s mut [T]> {
        // SAFETY: tiles are disjoint, and each is taken once.
        let direct = unsafe { grid.direct(self.view, self.k, tile) };
        direct.map_or_else(|| sized(buffer, tile.len()), Ok)
    }

    /// Writes a tile that is not in place yet.
    pub(crate) fn finish<T: Real>(&self, grid: &Grid, tile: Tile, buffer: &[T]) {
        if !grid.is_direct::<T>(self.view, self.k, tile) {
            grid.scatter(self.view, self.k, tile, &buffer[..tile.len()]);
        }
    }
}

impl<'v, 'a> Input<'v, 'a> {
    pub(crate) fn input(grid: &mut Grid, view: &'v View<'a>) -> Self {
        Operand { k: grid.add(view.strides()), view }
    }

    /// The tile, to read.
    pub(crate) fn tile<'s, T: Real>(
        &'s self,
        grid: &Grid,
        tile: Tile,
        buffer: &'s mut Vec<T>,
    ) -> Result<&'s [T]> {
        if let Some(tile) = grid.borrow(self.view, self.k, tile) {
            return Ok(tile);
        }
        let buffer = sized(buffer, tile.len())?;
        grid.read(self.view, self.k, tile, buffer);
        Ok(buffer)
    }

    /// The factor of a whole row: 1 if it differs within rows.
    pub(crate) fn of_row(&self, grid: &Grid, row: usize) -> f64 {
        if grid.constant_in_row(self.k) {
            grid.load(self.view, self.k, Tile { row, ..Tile::row(1) }, &mut [0.0])[0]
        } else {
            1.0
        }
    }
}

/// The first `len` elements of a buffer that grows as needed.
pub(crate) fn sized<T: Real>(buffer: &mut Vec<T>, len: usize) -> Result<&mut [T]> {
    memory::grow(buffer, len, T::ZERO)?;
    Ok(&mut buffer[..len])
}

//! Arrays with their numbers in a grid, and their tiles as memory to read and to write.

use crate::array::{Grid, Memory, MemoryMut, Runs, Tile};
use crate::array::{Tiles, View, ViewMut};
use crate::buffer::Buffer;
use crate::drive::domain::Check;
use crate::error::Result;
use crate::math::Real;
use crate::num::DType;
use std::ops::Range;

/// The most vectors of a row.
pub(crate) const MAX_VECTORS: usize = 3;

/// The most numbers of a row.
pub(crate) const MAX_NUMBERS: usize = 2;

/// An input of a driver: lined up with the others, its check, and whether results are written over it.
#[derive(Clone, Debug)]
pub(crate) struct Argument<'a> {
    pub(crate) view: View<'a>,
    pub(crate) check: Option<Box<Check<'a>>>,
    /// Whether the gradient goes to the same memory.
    pub(crate) overwritten: bool,
}

impl<'a> From<View<'a>> for Argument<'a> {
    fn from(view: View<'a>) -> Self {
        Argument { view, check: None, overwritten: false }
    }
}

/// An array with its number in the grid.
#[derive(Clone, Copy)]
pub(crate) struct Operand<V> {
    pub(crate) view: V,
    pub(crate) k: usize,
    /// Whether a tile is to be copied before it is used, because results are written over it.
    pub(crate) copied: bool,
}

pub(crate) type Input<'v, 'a> = Operand<&'v View<'a>>;
pub(crate) type Output<'v, 'a> = Operand<Tiles<'v, 'a>>;

impl<'v, 'a> Output<'v, 'a> {
    pub(crate) fn output(grid: &mut Grid, view: &'v ViewMut<'a>) -> Self {
        Operand { k: grid.add(view.strides()), view: tiles(view), copied: false }
    }

    /// The tile as memory to write: the view's own, else `buffer`, to be scattered later.
    pub(crate) fn tile<'s, T: Real>(
        &'s self,
        grid: &Grid,
        tile: Tile,
        buffer: &'s mut Buffer<T>,
    ) -> Result<&'s mut [T]> {
        let direct = grid.direct(self.view, self.k, tile);
        direct.map_or_else(|| buffer.sized(tile.len()), Ok)
    }

    /// The rows of a tile as memory to write, if each of them is that.
    pub(crate) fn runs<'g, T: Real>(
        &self,
        grid: &'g Grid,
        tile: Tile,
    ) -> Option<Runs<'g, MemoryMut<'v, T>>> {
        grid.runs_mut(self.view, self.k, tile)
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
        Operand { k: grid.add(view.strides()), view, copied: false }
    }

    /// An input that may be written over tile by tile.
    pub(crate) fn argument(grid: &mut Grid, argument: &'v Argument<'a>) -> Self {
        Operand { copied: argument.overwritten, ..Operand::input(grid, &argument.view) }
    }

    /// Whether it has more digits than losses in `T` are computed with, and so is checked in its own type.
    pub(crate) fn is_wider<T: Real>(&self) -> bool {
        self.view.dtype() == DType::F64 && T::DTYPE != DType::F64
    }

    /// The rows of a tile, if memory holds each of them and nothing is written over it.
    pub(crate) fn runs<'g, T: Real>(
        &self,
        grid: &'g Grid,
        tile: Tile,
    ) -> Option<Runs<'g, Memory<'a, T>>> {
        grid.runs(self.view, self.k, tile).filter(|_| !self.copied)
    }

    /// The tile, to read.
    pub(crate) fn tile<'s, T: Real>(
        &'s self,
        grid: &Grid,
        tile: Tile,
        buffer: &'s mut Buffer<T>,
    ) -> Result<&'s [T]> {
        if let Some(tile) = grid.borrow(self.view, self.k, tile).filter(|_| !self.copied) {
            return Ok(tile);
        }
        let buffer = buffer.sized(tile.len())?;
        grid.read(self.view, self.k, tile, buffer);
        Ok(buffer)
    }
}

/// An output of a driver.
pub(crate) fn tiles<'v, 'a>(view: &'v ViewMut<'a>) -> Tiles<'v, 'a> {
    // SAFETY: drivers cut a grid into tiles that are disjoint, each a task of one thread; what is written as a whole is
    // written by the calling thread.
    unsafe { view.tiles() }
}

/// How many rows are gathered together, at least, where rows lie closer together than columns: a cache line of `f32`.
pub(crate) const GATHER_ROWS: usize = 16;

/// Of these lines, at most.
const LINES: usize = 4;

/// How many rows are gathered together, whose buffers take so many elements for each: as many lines as there is room for,
/// as every page that they are gathered from costs time.
pub(crate) fn gathered_rows(elements: usize, room: usize) -> usize {
    (room / (GATHER_ROWS * elements)).clamp(1, LINES) * GATHER_ROWS
}

/// Some elements of an output, if it is wanted.
#[inline(always)]
pub(crate) fn part<'a, T>(
    out: &'a mut Option<&mut [T]>,
    run: &Range<usize>,
) -> Option<&'a mut [T]> {
    out.as_deref_mut().map(|out| &mut out[run.clone()])
}

//! Operands lined up as rows and columns, and the tiles that kernels compute on.
//!
//! A driver lines its operands up in a [`Grid`] and takes tile after tile: a plain slice where memory is already that,
//! else a gathered and converted copy of the tile's size.

use super::memory::{Memory, MemoryMut};
use super::transfer::{self, Places, Rectangle, Side};
use crate::array::{Shape, Strides, Tiles, View, elements, short};
use crate::num::Float;
use smallvec::SmallVec;
use std::mem;

/// Columns of which all groups of rows are copied together.
const GROUPED: usize = 16;

/// A rectangle of a grid.
#[derive(Clone, Copy)]
pub struct Tile {
    /// The first row.
    pub row: usize,
    /// The number of rows.
    pub rows: usize,
    /// The first column.
    pub col: usize,
    /// The number of columns.
    pub cols: usize,
}

impl Tile {
    /// The first row alone, of `cols` columns.
    pub fn row(cols: usize) -> Self {
        Tile { row: 0, rows: 1, col: 0, cols }
    }

    /// The number of elements.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }
}

/// Operands of one shape lined up as rows (the first axes) and columns (the others), both flattened in C order. Axes
/// that lie behind one another in every operand are merged.
#[derive(Clone)]
pub struct Grid {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    outer: Shape,
    inner: Shape,
    operands: SmallVec<[Steps; 6]>,
}

#[derive(Clone)]
struct Steps {
    outer: Strides,
    inner: Strides,
}

impl Grid {
    /// A grid for operands of shape `shape`, whose first `outer` axes are the rows.
    pub fn new(shape: &[usize], outer: usize) -> Self {
        let (outer, inner) = shape.split_at(outer);
        Grid {
            rows: elements(outer),
            cols: elements(inner),
            outer: short(outer),
            inner: short(inner),
            operands: SmallVec::new(),
        }
    }

    /// A grid for one operand whose first axis is the rows.
    pub fn single(shape: &[usize], strides: &Strides) -> Self {
        let mut grid = Grid::new(shape, 1);
        grid.add(strides);
        grid.merge();
        grid
    }

    /// Adds an operand and returns its number. Strides of trailing axes may be missing where those have size 1.
    pub fn add(&mut self, strides: &Strides) -> usize {
        let (outer, inner) = strides.split_at(self.outer.len());
        let mut inner = short(inner);
        inner.resize(self.inner.len(), 0);
        self.operands.push(Steps { outer: short(outer), inner });
        self.operands.len() - 1
    }

    /// Merges axes, once all operands are there.
    pub fn merge(&mut self) {
        merge(&mut self.outer, &mut self.operands, |o| &mut o.outer);
        merge(&mut self.inner, &mut self.operands, |o| &mut o.inner);
    }

    /// Makes rows of its columns and columns of its rows.
    pub fn turn(&mut self) {
        mem::swap(&mut self.rows, &mut self.cols);
        mem::swap(&mut self.outer, &mut self.inner);
        for Steps { outer, inner } in &mut self.operands {
            mem::swap(outer, inner);
        }
    }

    /// Whether operand `k` is constant along its columns.
    pub fn constant_in_row(&self, k: usize) -> bool {
        self.operands[k].inner.iter().all(|&s| s == 0)
    }

    /// Whether all rows of operand `k` are the same.
    pub fn constant_in_column(&self, k: usize) -> bool {
        self.operands[k].outer.iter().all(|&s| s == 0)
    }

    /// Whether rows of operand `k` lie closer together than columns, so that gathering wants several rows at once.
    pub fn prefers_rows(&self, k: usize) -> bool {
        let o = &self.operands[k];
        let column = o.inner.last().map_or(0, |s| s.unsigned_abs());
        o.outer.last().is_some_and(|row| *row != 0 && row.unsigned_abs() < column)
    }

    /// Whether most of some operands that differ both along rows and along columns prefer rows.
    pub fn most_prefer_rows(&self, operands: impl Iterator<Item = usize>) -> bool {
        let differs = |&k: &usize| !self.constant_in_row(k) && !self.constant_in_column(k);
        let ayes = operands.filter(differs).map(|k| if self.prefers_rows(k) { 1 } else { -1 });
        ayes.sum::<i32>() > 0
    }

    /// Byte offset of a row.
    fn row_offset(&self, k: usize, row: usize) -> isize {
        offset(&self.outer, &self.operands[k].outer, row)
    }

    /// Refuses a tile that leaves the grid.
    #[inline(always)]
    fn check(&self, tile: Tile) {
        let Tile { row, rows, col, cols } = tile;
        let within = |first: usize, len: usize, all: usize| len <= all && first <= all - len;
        assert!(within(row, rows, self.rows) && within(col, cols, self.cols), "outside of a grid");
    }

    /// Byte offset of a tile, if it is one dense run of elements of `size` bytes.
    fn dense(&self, k: usize, size: usize, tile: Tile) -> Option<isize> {
        self.check(tile);
        let o = &self.operands[k];
        let unit = size as isize;
        let packed = match o.inner[..] {
            [] => true,
            [s] => s == unit,
            _ => false,
        };
        let rows_packed = tile.rows == 1
            || tile.cols == self.cols
                && matches!(o.outer[..], [s] if s == self.cols as isize * unit);
        (packed && rows_packed).then(|| self.row_offset(k, tile.row) + unit * tile.col as isize)
    }

    /// How many columns the last of their axes has.
    pub fn run(&self) -> usize {
        self.inner.last().copied().unwrap_or(1)
    }

    /// Whether the last axis of the columns of operand `k` is one run of elements of `size` bytes.
    pub fn has_runs(&self, k: usize, size: usize) -> bool {
        self.operands[k].inner.last() == Some(&(size as isize))
    }

    /// Where the rows of a tile begin in memory, if they lie along the last axis of its columns.
    fn starts(&self, k: usize, size: usize, tile: Tile) -> Option<Starts<'_>> {
        self.check(tile);
        let within = tile.cols > 0 && tile.col % self.run() + tile.cols <= self.run();
        let strides = &self.operands[k].outer;
        let first = offset(&self.inner, &self.operands[k].inner, tile.col);
        (within && self.has_runs(k, size)).then(|| Starts { dims: &self.outer, strides, first })
    }

    /// The rows of a tile of operand `k`, if memory holds each of them as one run.
    pub(crate) fn runs<'g, 's, T: Float>(
        &'g self,
        view: &View<'s>,
        k: usize,
        tile: Tile,
    ) -> Option<Runs<'g, Memory<'s, T>>> {
        let (memory, starts) = (view.memory()?, self.starts(k, size_of::<T>(), tile)?);
        Some(Runs { memory, starts, len: tile.cols })
    }

    /// The same of an output.
    pub(crate) fn runs_mut<'g, 's, T: Float>(
        &'g self,
        out: Tiles<'s, '_>,
        k: usize,
        tile: Tile,
    ) -> Option<Runs<'g, MemoryMut<'s, T>>> {
        let (memory, starts) = (out.memory()?, self.starts(k, size_of::<T>(), tile)?);
        Some(Runs { memory, starts, len: tile.cols })
    }

    /// The memory of a tile of operand `k`, where it holds the tile as such.
    pub fn borrow<'s, T: Float>(&self, view: &View<'s>, k: usize, tile: Tile) -> Option<&'s [T]> {
        let memory = view.memory()?;
        Some(memory.run(self.dense(k, size_of::<T>(), tile)?, tile.len()))
    }

    /// A tile of operand `k`: borrowed where memory holds it as such, else gathered into `buffer`.
    pub fn load<'s, T: Float>(
        &self,
        view: &View<'s>,
        k: usize,
        tile: Tile,
        buffer: &'s mut [T],
    ) -> &'s [T] {
        self.borrow(view, k, tile).unwrap_or_else(|| {
            self.read(view, k, tile, buffer);
            buffer
        })
    }

    /// A tile of operand `k`, copied row by row.
    pub fn read<T: Float>(&self, view: &View<'_>, k: usize, tile: Tile, buffer: &mut [T]) {
        match self.dense(k, view.dtype().size(), tile) {
            Some(offset) => view.read_run(offset, &mut buffer[..tile.len()]),
            None => self.read_to(view, k, tile, Places::rows(tile.rows, tile.cols), buffer),
        }
    }

    /// A tile of operand `k`, copied with `lanes` rows at a time side by side: column c of row r goes to
    /// `buffer[c * lanes + r]`, and the next rows behind all columns of these.
    pub fn read_lanes<T: Float>(
        &self,
        view: &View<'_>,
        k: usize,
        tile: Tile,
        lanes: usize,
        buffer: &mut [T],
    ) {
        self.read_to(view, k, tile, Places::lanes(lanes, tile.cols), buffer);
    }

    /// Whether [`Grid::direct`] gives a slice for a tile.
    pub fn is_direct<T: Float>(&self, out: Tiles<'_, '_>, k: usize, tile: Tile) -> bool {
        out.dtype() == T::DTYPE && self.dense(k, size_of::<T>(), tile).is_some()
    }

    /// The memory of a tile of an output as a slice to write, if it is one.
    pub fn direct<'s, T: Float>(
        &self,
        out: Tiles<'s, '_>,
        k: usize,
        tile: Tile,
    ) -> Option<&'s mut [T]> {
        let memory = out.memory()?;
        Some(memory.run(self.dense(k, size_of::<T>(), tile)?, tile.len()))
    }

    /// Writes a tile of operand `k` from `buffer`.
    pub fn scatter<T: Float>(&self, out: Tiles<'_, '_>, k: usize, tile: Tile, buffer: &[T]) {
        match self.dense(k, out.dtype().size(), tile) {
            Some(offset) => out.write_run(offset, &buffer[..tile.len()]),
            None => self.write_from(out, k, tile, Places::rows(tile.rows, tile.cols), buffer),
        }
    }

    /// Writes a tile of operand `k` that [`Grid::read_lanes`] lays out.
    pub fn scatter_lanes<T: Float>(
        &self,
        out: Tiles<'_, '_>,
        k: usize,
        tile: Tile,
        lanes: usize,
        buffer: &[T],
    ) {
        self.write_from(out, k, tile, Places::lanes(lanes, tile.cols), buffer);
    }

    /// Copies a tile of operand `k` into a buffer.
    fn read_to<T: Float>(
        &self,
        view: &View<'_>,
        k: usize,
        tile: Tile,
        places: Places,
        buffer: &mut [T],
    ) {
        let (same, unit) = (view.memory::<T>(), view.dtype().size());
        view.with_reader(|reader| {
            self.rectangles(k, tile, places, |rectangle| {
                transfer::read(reader, same, unit, rectangle, buffer);
            });
        });
    }

    /// Writes a tile of operand `k` from a buffer.
    fn write_from<T: Float>(
        &self,
        out: Tiles<'_, '_>,
        k: usize,
        tile: Tile,
        places: Places,
        buffer: &[T],
    ) {
        let (same, unit) = (out.memory::<T>(), out.dtype().size());
        out.with_writer(|writer| {
            self.rectangles(k, tile, places, |rectangle| {
                transfer::write(writer, same, unit, rectangle, buffer);
            });
        });
    }

    /// Calls `f(byte offset, first column, length, byte step)` for each straight run of operand `k` in the columns
    /// `col..col+cols`.
    fn straight_runs(
        &self,
        k: usize,
        col: usize,
        cols: usize,
        mut f: impl FnMut(isize, usize, usize, isize),
    ) {
        let strides = &self.operands[k].inner;
        let Some((&last, outer)) = self.inner.split_last() else {
            return f(0, 0, cols, 0);
        };
        let step = strides[outer.len()];
        let mut done = 0;
        while done < cols {
            let (index, within) = ((col + done) / last, (col + done) % last);
            let len = (last - within).min(cols - done);
            f(offset(outer, strides, index) + within as isize * step, done, len, step);
            done += len;
        }
    }

    /// Cuts a tile into rectangles of equal steps, in memory and in a buffer.
    #[inline(always)]
    fn rectangles(&self, k: usize, tile: Tile, places: Places, mut f: impl FnMut(Rectangle)) {
        self.check(tile);
        // All groups of some columns before the next columns, where they lie next to each other in memory.
        let groups = tile.rows > places.group && self.prefers_rows(k);
        let width = if groups { GROUPED } else { tile.cols };
        for first in (0..tile.cols).step_by(width.max(1)) {
            let cols = width.min(tile.cols - first);
            let mut row = 0;
            while row < tile.rows {
                let (start, row_step, rows) = self.row_run(k, tile.row + row, tile.rows - row);
                let rows = rows.min(places.group - row % places.group);
                self.straight_runs(k, tile.col + first, cols, |offset, col, cols, col_step| {
                    f(Rectangle {
                        offset: start + offset,
                        place: places.of(row, first + col),
                        rows: Side { len: rows, memory: row_step, buffer: places.row },
                        cols: Side { len: cols, memory: col_step, buffer: places.col },
                    });
                });
                row += rows;
            }
        }
    }

    /// Offset of a row, the step from it to the next, and how many of `wanted` rows follow in that step.
    fn row_run(&self, k: usize, row: usize, wanted: usize) -> (isize, isize, usize) {
        let strides = &self.operands[k].outer;
        let (Some(&last), Some(&step)) = (self.outer.last(), strides.last()) else {
            return (0, 0, wanted);
        };
        (self.row_offset(k, row), step, wanted.min(last - row % last))
    }
}

/// Rows of a tile that memory holds as runs.
pub(crate) struct Runs<'g, M> {
    memory: M,
    starts: Starts<'g>,
    len: usize,
}

impl<'s, T: Float> Runs<'_, Memory<'s, T>> {
    /// A row.
    #[inline(always)]
    pub fn row(&self, row: usize) -> &'s [T] {
        self.memory.run(self.starts.of(row), self.len)
    }
}

impl<'s, T: Float> Runs<'_, MemoryMut<'s, T>> {
    /// A row, to write.
    #[inline(always)]
    pub fn row_mut(&self, row: usize) -> &'s mut [T] {
        self.memory.run(self.starts.of(row), self.len)
    }
}

/// Where rows begin in memory.
struct Starts<'g> {
    dims: &'g [usize],
    strides: &'g [isize],
    first: isize,
}

impl Starts<'_> {
    #[inline(always)]
    fn of(&self, row: usize) -> isize {
        self.first + offset(self.dims, self.strides, row)
    }
}

/// Byte offset of the element that stands at `index` in C order, along axes of these sizes and steps.
#[inline(always)]
fn offset(dims: &[usize], strides: &[isize], mut index: usize) -> isize {
    if let [stride] = strides[..] {
        return stride * index as isize;
    }
    let mut offset = 0;
    for (&d, &s) in dims.iter().zip(strides).rev() {
        offset += (index % d) as isize * s;
        index /= d;
    }
    offset
}

/// Merges neighbouring axes of `dims` that lie behind one another in every operand.
fn merge(dims: &mut Shape, operands: &mut [Steps], strides: impl Fn(&mut Steps) -> &mut Strides) {
    let mut kept = 0;
    for axis in 0..dims.len() {
        let d = dims[axis];
        if d == 1 {
            continue;
        }
        let mut behind =
            |o: &mut Steps| strides(o)[kept - 1] == strides(o)[axis].wrapping_mul(d as isize);
        // Axes of a shape without elements may be longer together than can be counted.
        let merged = if kept > 0 { dims[kept - 1].checked_mul(d) } else { None };
        if let Some(merged) = merged.filter(|_| operands.iter_mut().all(&mut behind)) {
            dims[kept - 1] = merged;
        } else {
            dims[kept] = d;
            kept += 1;
        }
        for o in operands.iter_mut() {
            let strides = strides(o);
            strides[kept - 1] = strides[axis];
        }
    }
    dims.truncate(kept);
    for o in operands {
        strides(o).truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::ViewMut;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Whether a call is refused by a panic.
    fn refused<R>(f: impl FnOnce() -> R) -> bool {
        catch_unwind(AssertUnwindSafe(f)).is_err()
    }

    #[test]
    fn tiles_that_leave_the_grid_are_refused() {
        let (mut data, mut buffer) = ([0.0_f32; 24], [0.0_f32; 64]);
        let mut out = ViewMut::from_slice(&mut data, &[4, 6]);
        let grid = Grid::single(out.shape(), out.strides());
        let outside = [
            Tile { row: 0, rows: 5, col: 0, cols: 6 },
            Tile { row: 3, rows: 2, col: 0, cols: 6 },
            Tile { row: 0, rows: 4, col: 1, cols: 6 },
            Tile { row: usize::MAX, rows: 2, col: 0, cols: 1 },
            Tile { row: 0, rows: 1, col: 7, cols: 0 },
        ];
        for tile in outside {
            assert!(refused(|| grid.borrow::<f32>(&out.view, 0, tile).map(<[f32]>::len)));
            assert!(refused(|| grid.read(&out.view, 0, tile, &mut buffer)));
            assert!(refused(|| grid.scatter(out.own_tiles(), 0, tile, &buffer)));
            assert!(refused(|| grid.direct::<f32>(out.own_tiles(), 0, tile).is_some()));
        }
    }

    #[test]
    fn a_grid_of_a_larger_array_does_not_lead_out_of_a_view() {
        let (large, mut small) = ([1.0_f64; 24], [2.0_f64; 12]);
        let large = View::from_slice(&large, &[4, 6]);
        let mut small = ViewMut::from_slice(&mut small, &[2, 6]);
        let mut buffer = [0.0; 24];
        let strides = [large.strides().clone(), large.clone().move_axis(0, 1).strides().clone()];
        for (shape, strides) in [[4, 6], [6, 4]].iter().zip(strides) {
            let grid = Grid::single(shape, &strides);
            let all = Tile { row: 0, rows: shape[0], col: 0, cols: shape[1] };
            assert!(refused(|| grid.load::<f64>(&small.view, 0, all, &mut buffer).len()));
            assert!(refused(|| grid.scatter(small.own_tiles(), 0, all, &buffer)));
            assert!(refused(|| grid.scatter_lanes(small.own_tiles(), 0, all, 2, &buffer)));
        }
    }
}

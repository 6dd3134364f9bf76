//! Rows side by side in memory, walked column by column.
//!
//! Where arrays are in column-major order, element c of many rows is one run of memory. To gather rows from it would be
//! to come back to every page of it for each of them. A loss with a form for columns reads such runs as they lie, keeps
//! what it knows of each row in vectors, and writes the runs of its gradients. Blocks with a row that needs care, for a
//! weight of 0 or an element outside its domain, are left to the forms for rows.

use crate::array::{Grid, Memory, MemoryMut, Runs, Tile};
use crate::buffer::Buffer;
use crate::drive::domain::Check;
use crate::drive::operand::{Input, MAX_NUMBERS, MAX_VECTORS, Output};
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::simd::Level;
use crate::threads;
use std::array;

/// Rows side by side, at least: with fewer a run is no longer than the way to it.
const LEAST: usize = 64;

/// Rows side by side, at most: a page of `f32`. Fewer of longer vectors would stay in a cache between two readings, but
/// come back to more pages: it costs more than it saves.
const MOST: usize = 1024;

/// Elements of a block that a loss has to keep beside what it reads and writes.
const KEPT: usize = 1 << 20;

/// Columns between two looks at whether the call is to stop.
const WATCHED: usize = 64;

/// The runs of a block of rows.
pub struct Columns<'b, 'a, T> {
    pub(super) level: Level,
    /// A row of the grid for each column of the vectors.
    pub(super) grid: &'b Grid,
    /// The first row, and how many.
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) vectors: &'b [Option<CheckedInput<'a>>; MAX_VECTORS],
    pub(super) grads: &'b [Option<Output<'a, 'a>>; MAX_VECTORS],
    pub(super) room: &'b mut ColumnRoom<T>,
}

/// An input and what its elements must be.
pub(super) type CheckedInput<'a> = (Input<'a, 'a>, Option<&'a Check<'a>>);

/// What is known of each row of a block.
pub struct ColumnRows<'b, T> {
    /// The first row, the batch axis first.
    pub first: usize,
    /// The numbers of the rows.
    pub numbers: [&'b [T]; MAX_NUMBERS],
    /// What their derivatives are multiplied by: numbers that `T` holds.
    pub scale: &'b [f64],
    /// Their losses.
    pub value: &'b mut [T],
    /// Whether these are wanted.
    pub wants_value: bool,
}

/// Room for runs that are of another type, or read before they are written over.
#[derive(Default)]
pub(super) struct ColumnRoom<T> {
    vectors: [Buffer<T>; MAX_VECTORS],
    grads: [Buffer<T>; MAX_VECTORS],
}

/// How many of `rows`, of which `run` lie side by side, make a block, if these are enough for one. Of each, so many
/// elements have to be kept.
pub(super) fn block_rows(rows: usize, run: usize, kept: usize) -> Option<usize> {
    let most = (KEPT / kept.max(1)).clamp(LEAST, MOST);
    (run >= LEAST).then(|| run.min(threads::part(rows, LEAST, LEAST, most)))
}

impl<'a, T: Real> Columns<'_, 'a, T> {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of elements of each.
    pub fn elements(&self) -> usize {
        self.grid.rows
    }

    /// Whether any derivative is wanted.
    pub fn derives(&self) -> bool {
        self.grads.iter().any(Option::is_some)
    }

    /// Whether the first gradient is wanted.
    pub fn wants_first(&self) -> bool {
        self.grads[0].is_some()
    }

    /// Whether it is, and stands where it may be written and read again.
    pub fn keeps_gradient(&self) -> bool {
        let (grid, block) = (self.grid, self.block());
        let is_overwritten = self.vectors[0].as_ref().is_some_and(|(o, _)| o.copied);
        self.grads[0]
            .as_ref()
            .is_some_and(|o| !is_overwritten && o.runs::<T>(grid, block).is_some())
    }

    /// The rows, in every column.
    fn block(&self) -> Tile {
        Tile { row: 0, rows: self.grid.rows, col: self.first, cols: self.rows }
    }

    /// The first `V` vectors, to read.
    #[inline(never)]
    pub fn read<const V: usize>(&mut self) -> Reader<'_, 'a, T, V> {
        let vectors = array::from_fn(|v| self.vectors[v].as_ref());
        Reader::new(self.level, self.grid, self.block(), vectors, &mut self.room.vectors)
    }

    /// The first `V` vectors, to read once more, and their gradients, to write. A gradient may lie where its vector does.
    #[inline(never)]
    pub fn write<const V: usize>(&mut self) -> Writer<'_, 'a, T, V> {
        let (level, grid, block) = (self.level, self.grid, self.block());
        let inputs = array::from_fn(|v| self.vectors[v].as_ref());
        let outputs: [_; V] = array::from_fn(|v| self.grads[v].as_ref());
        let runs = outputs.map(|o| o.and_then(|o| o.runs(grid, block)));
        let ColumnRoom { vectors, grads } = &mut *self.room;
        let reader = Reader::new(level, grid, block, inputs, vectors);
        Writer { reader, outputs, runs, buffers: grads }
    }
}

/// Columns of `V` vectors.
pub struct Reader<'b, 'a, T, const V: usize> {
    level: Level,
    grid: &'b Grid,
    block: Tile,
    inputs: [Option<&'b CheckedInput<'a>>; V],
    runs: [Option<Runs<'b, Memory<'a, T>>>; V],
    buffers: &'b mut [Buffer<T>; MAX_VECTORS],
}

impl<'b, 'a, T: Real, const V: usize> Reader<'b, 'a, T, V> {
    #[inline(always)]
    fn new(
        level: Level,
        grid: &'b Grid,
        block: Tile,
        inputs: [Option<&'b CheckedInput<'a>>; V],
        buffers: &'b mut [Buffer<T>; MAX_VECTORS],
    ) -> Self {
        let runs = inputs.map(|input| input.and_then(|(o, _)| o.runs(grid, block)));
        Reader { level, grid, block, inputs, runs, buffers }
    }

    /// A column, as long as there are rows.
    #[inline(never)]
    pub fn column(&mut self, column: usize) -> Result<[&[T]; V]> {
        if column % WATCHED == WATCHED - 1 {
            threads::check()?;
        }
        let tile = Tile { row: column, rows: 1, ..self.block };
        let mut vectors = [&[][..]; V];
        let given = self.inputs.iter().zip(&self.runs).zip(&mut *self.buffers);
        for (x, ((input, runs), buffer)) in vectors.iter_mut().zip(given) {
            *x = match (runs, input) {
                (Some(runs), _) => runs.row(column),
                (_, Some((o, _))) => o.tile(self.grid, tile, buffer)?,
                _ => &[],
            };
        }
        Ok(vectors)
    }

    /// A column all of whose elements are in their domains, or nothing.
    #[inline(never)]
    pub fn checked(&mut self, column: usize) -> Result<Option<[&[T]; V]>> {
        let Reader { level, inputs, .. } = *self;
        let vectors = self.column(column)?;
        let holds = |v: usize| {
            let check = inputs[v].and_then(|(_, check)| *check);
            check.is_none_or(|check| check.domain.all_hold(level, vectors[v]))
        };
        Ok((0..V).all(holds).then_some(vectors))
    }
}

/// A column of each vector, and that of each gradient that is wanted.
type Written<'r, T, const V: usize> = ([&'r [T]; V], [Option<&'r mut [T]>; V]);

/// Columns of `V` vectors and of their gradients.
pub struct Writer<'b, 'a, T, const V: usize> {
    reader: Reader<'b, 'a, T, V>,
    outputs: [Option<&'b Output<'a, 'a>>; V],
    runs: [Option<Runs<'b, MemoryMut<'a, T>>>; V],
    buffers: &'b mut [Buffer<T>; MAX_VECTORS],
}

impl<T: Real, const V: usize> Writer<'_, '_, T, V> {
    /// A column, to be finished once its gradients are written.
    #[inline(never)]
    pub fn column(&mut self, column: usize) -> Result<Written<'_, T, V>> {
        let rows = self.reader.block.cols;
        let mut grads = [const { None }; V];
        let wanted = self.outputs.iter().zip(&self.runs).zip(&mut *self.buffers);
        for (grad, ((o, runs), buffer)) in grads.iter_mut().zip(wanted) {
            *grad = match (runs, o) {
                (Some(runs), _) => Some(runs.row_mut(column)),
                (_, Some(_)) => Some(buffer.sized(rows)?),
                _ => None,
            };
        }
        Ok((self.reader.column(column)?, grads))
    }

    /// As [`Writer::column`], if all elements are in their domains.
    #[inline(never)]
    pub fn checked(&mut self, column: usize) -> Result<Option<Written<'_, T, V>>> {
        let holds = self.reader.checked(column)?.is_some();
        holds.then(|| self.column(column)).transpose()
    }

    /// Stores what has been written of a column.
    #[inline(never)]
    pub fn finish(&self, column: usize) {
        let tile = Tile { row: column, rows: 1, ..self.reader.block };
        for ((o, runs), buffer) in self.outputs.iter().zip(&self.runs).zip(&*self.buffers) {
            if let (Some(o), None) = (o, runs) {
                self.reader.grid.scatter(o.view, o.k, tile, &buffer[..tile.cols]);
            }
        }
    }
}

/// Rows in the order of the columns that they name, for what is done at one element of each.
#[derive(Default)]
pub struct Named {
    /// Those of one column behind those of the one before.
    rows: Vec<u32>,
    /// Where those of each column end.
    ends: Vec<u32>,
}

impl Named {
    /// Of each row the column that it names, one of `count`, or nothing; other numbers count as nothing.
    pub fn sort(
        &mut self,
        count: usize,
        columns: impl ExactSizeIterator<Item = Option<u32>> + Clone,
    ) -> Result<()> {
        let Named { rows, ends } = self;
        ends.clear();
        memory::grow(ends, count, 0)?;
        memory::grow(rows, columns.len(), 0)?;
        let named = columns.clone().flatten().map(|column| column as usize);
        named.filter(|&column| column < count).for_each(|column| ends[column] += 1);
        let mut start = 0;
        for end in &mut *ends {
            // Of each column where its next row goes, until all are there.
            start += std::mem::replace(end, start);
        }
        for (row, column) in (0..).zip(columns) {
            let Some(next) = column.and_then(|column| ends.get_mut(column as usize)) else {
                continue;
            };
            rows[*next as usize] = row;
            *next += 1;
        }
        Ok(())
    }

    /// The rows that name this one.
    pub fn of(&self, column: usize) -> impl Iterator<Item = usize> {
        let start = column.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.rows[start as usize..self.ends[column] as usize].iter().map(|&row| row as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_the_column_that_they_name() {
        let columns = [2, 0, 2, 5, 1, 2, u32::MAX, 0];
        let named = columns.iter().map(|&column| (column != 1).then_some(column));
        let mut rows = Named::default();
        for count in [3, 6, 3] {
            rows.sort(count, named.clone()).unwrap();
            let of = |column| rows.of(column).collect::<Vec<_>>();
            assert_eq!([of(0), of(1), of(2)], [vec![1, 7], vec![], vec![0, 2, 5]]);
            if count > 5 {
                assert_eq!([of(3), of(5)], [vec![], vec![3]]);
            }
        }
    }
}

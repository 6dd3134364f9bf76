//! Copies of whole arrays, from and to vectors in C order.

use super::shape::is_dense;
use crate::array::{Grid, Tile, Tiles, View, ViewMut, elements, short};
use crate::error::Result;
use crate::memory;
use crate::num::Float;
use crate::sum::BLOCK;

impl<'a> View<'a> {
    /// All elements, if memory has them in C order.
    pub fn dense<T: Float>(&self) -> Option<&'a [T]> {
        let memory = self.memory()?;
        is_dense(size_of::<T>(), self.shape(), self.strides()).then(|| memory.run(0, self.len()))
    }

    /// Adjacent elements from a byte offset on, converted.
    pub(super) fn read_run<T: Float>(&self, offset: isize, to: &mut [T]) {
        self.with_reader(|reader| reader(offset, self.dtype().size() as isize, to));
    }

    /// All elements in C order, copied.
    pub fn to_vec<T: Float>(&self) -> Result<Vec<T>> {
        let n = self.len();
        let mut out = memory::filled(T::ZERO, n)?;
        if n > 0 {
            let flat = self.clone().insert_axis(0);
            Grid::single(flat.shape(), flat.strides()).read(&flat, 0, Tile::row(n), &mut out);
        }
        Ok(out)
    }

    /// Calls `f` with one block of the elements after another in C order, and with the place of its first element.
    pub(crate) fn each_block<T: Float>(&self, mut f: impl FnMut(usize, &[T])) {
        let (n, flat) = (self.len(), self.clone().insert_axis(0));
        let grid = Grid::single(flat.shape(), flat.strides());
        let mut buffer = [T::ZERO; BLOCK];
        for col in (0..n).step_by(BLOCK) {
            let tile = Tile { col, ..Tile::row((n - col).min(BLOCK)) };
            f(col, grid.load(&flat, 0, tile, &mut buffer[..tile.cols]));
        }
    }
}

impl<'v> Tiles<'v, '_> {
    /// All elements, if memory has them in C order.
    pub fn dense<T: Float>(self) -> Option<&'v mut [T]> {
        let (memory, shape) = (self.memory()?, self.shape());
        let dense = is_dense(size_of::<T>(), shape, self.strides());
        dense.then(|| memory.run(0, elements(shape)))
    }

    /// The reverse of [`View::read_run`].
    pub(super) fn write_run<T: Float>(self, offset: isize, from: &[T]) {
        self.with_writer(|writer| writer(offset, self.dtype().size() as isize, from));
    }

    /// Writes element i of a view of `n` elements in one dimension, or of one element in none.
    ///
    /// # Panics
    /// If it is not a view of `n` elements.
    pub fn fill<T: Float>(self, n: usize, at: impl Fn(usize) -> T) -> Result<()> {
        assert_eq!(elements(self.shape()), n, "as many elements as the view has");
        if let Some(all) = self.dense::<T>() {
            for (i, x) in all.iter_mut().enumerate() {
                *x = at(i);
            }
        } else {
            self.copy_from(&memory::collect((0..n).map(at))?);
        }
        Ok(())
    }

    fn copy_from<T: Float>(self, data: &[T]) {
        assert_eq!(elements(self.shape()), data.len(), "as many elements as the view has");
        if !data.is_empty() {
            let mut shape = short(self.shape());
            let mut strides = short(self.strides());
            shape.insert(0, 1);
            strides.insert(0, 0);
            Grid::single(&shape, &strides).scatter(self, 0, Tile::row(data.len()), data);
        }
    }
}

impl ViewMut<'_> {
    /// Copies `data`, all elements in C order, into the view.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn copy_from<T: Float>(mut self, data: &[T]) {
        self.own_tiles().copy_from(data);
    }
}

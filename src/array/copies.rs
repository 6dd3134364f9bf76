//! Copies of whole arrays, from and to vectors in C order.

use crate::array::{Grid, Tile, View, ViewMut};
use crate::error::Result;
use crate::memory;
use crate::num::Float;

impl View<'_> {
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
}

impl ViewMut<'_> {
    /// Writes element i of a view of `n` elements in one dimension, or of one element in none.
    pub fn fill<T: Float>(&self, n: usize, at: impl Fn(usize) -> T) -> Result<()> {
        let unit = size_of::<T>() as isize;
        let dense = self.view.strides().iter().all(|&s| s == unit) || n == 1;
        if self.view.dtype() == T::DTYPE && dense && n > 0 {
            // SAFETY: `n` adjacent elements of type T of a view that is this caller's alone.
            let out =
                unsafe { std::slice::from_raw_parts_mut(self.view.ptr.cast::<T>().cast_mut(), n) };
            for (i, x) in out.iter_mut().enumerate() {
                *x = at(i);
            }
        } else {
            self.copy_from(&memory::collect((0..n).map(at))?);
        }
        Ok(())
    }

    /// Copies `data`, all elements in C order, into the view.
    pub fn copy_from<T: Float>(&self, data: &[T]) {
        if !data.is_empty() {
            let flat = self.view.clone().insert_axis(0);
            let grid = Grid::single(flat.shape(), flat.strides());
            grid.scatter(self, 0, Tile::row(data.len()), data);
        }
    }
}

//! The forms in which rows are worked on: one by one, together, side by side in registers, side by side in memory.

use super::{Place, RowBuffers, RowsJob};
use crate::array::{Grid, Tile};
use crate::drive::columns::{ColumnRows, Columns};
use crate::drive::domain::Check;
use crate::drive::operand::{MAX_NUMBERS, MAX_VECTORS};
use crate::drive::row_kernel::{Group, LANES, Placement, RowTile};
use crate::drive::scale::split;
use crate::error::Result;
use crate::math::Real;
use std::any::Any;

impl<T: Real> RowsJob<'_, T> {
    /// Stores the losses of a tile.
    pub(super) fn store(&self, tile: Tile, value: &[T]) {
        if let Some((view, grid)) = self.value {
            let values = Tile { row: 0, rows: 1, col: tile.row, cols: tile.rows };
            grid.scatter(view, 0, values, &value[..tile.rows]);
        }
    }

    /// Rows side by side, if nothing about them is out of the ordinary.
    pub(super) fn columns(
        &self,
        turned: &Grid,
        tile: Tile,
        buffers: &mut RowBuffers<T>,
        scratch: &mut dyn Any,
    ) -> Result<bool> {
        let Tile { row: first, rows, .. } = tile;
        let scale = buffers.scale.sized(rows)?;
        for (row, scale) in (first..).zip(&mut *scale) {
            let [factor, rest] = self.scale(row);
            if factor == 0.0 || rest != 1.0 {
                return Ok(false);
            }
            *scale = factor;
        }
        let column = Tile { col: 0, cols: 1, ..tile };
        let mut numbers = [&[][..]; MAX_NUMBERS];
        for ((x, input), buffer) in numbers.iter_mut().zip(&self.numbers).zip(&mut buffers.numbers)
        {
            let Some((o, check)) = input else { continue };
            *x = o.tile(self.row_grid, column, buffer)?;
            let Some(check) = check else { continue };
            let holds = if o.is_wider::<T>() {
                let exact = o.tile::<f64>(self.row_grid, column, &mut buffers.exact)?;
                check.domain.all_hold(self.level, exact)
            } else {
                check.domain.all_hold(self.level, x)
            };
            if !holds {
                return Ok(false);
            }
        }
        let value = buffers.value.sized(rows)?;
        let rows = ColumnRows { first, numbers, scale, value, wants_value: self.value.is_some() };
        let mut columns = Columns {
            level: self.level,
            grid: turned,
            first,
            rows: tile.rows,
            vectors: &self.vectors,
            grads: &self.grads,
            room: &mut buffers.columns,
        };
        self.kernel.columns(self.level, rows, &mut columns, scratch)
    }

    pub(super) fn rows(
        &self,
        tile: Tile,
        buffers: &mut RowBuffers<T>,
        scratch: &mut dyn Any,
    ) -> Result<()> {
        let (grid, row_grid) = (self.grid, self.row_grid);
        let column = Tile { col: 0, cols: 1, ..tile };
        let (mut vectors, mut numbers) = ([&[][..]; MAX_VECTORS], [&[][..]; MAX_NUMBERS]);
        for ((x, input), buffer) in vectors.iter_mut().zip(&self.vectors).zip(&mut buffers.vectors)
        {
            if let Some((o, _)) = input {
                *x = o.tile(grid, tile, buffer)?;
            }
        }
        for ((x, input), buffer) in numbers.iter_mut().zip(&self.numbers).zip(&mut buffers.numbers)
        {
            if let Some((o, _)) = input {
                *x = o.tile(row_grid, column, buffer)?;
            }
        }
        let mut grads = [const { None }; MAX_VECTORS];
        for ((grad, o), buffer) in grads.iter_mut().zip(&self.grads).zip(&mut buffers.grads) {
            *grad = o.as_ref().map(|o| o.tile(grid, tile, buffer)).transpose()?;
        }
        let mut number_grads = [const { None }; MAX_NUMBERS];
        let outputs = self.number_grads.iter().zip(&mut buffers.number_grads);
        for (grad, (o, buffer)) in number_grads.iter_mut().zip(outputs) {
            *grad = o.as_ref().map(|o| o.tile(row_grid, column, buffer)).transpose()?;
        }
        let [mut hess, mut elements] = [None, None];
        for (out, o, buffer) in [
            (&mut hess, &self.hess, &mut buffers.hess),
            (&mut elements, &self.elements, &mut buffers.elements),
        ] {
            *out = o.as_ref().map(|o| o.tile(grid, tile, buffer)).transpose()?;
        }
        let rows = RowTile {
            row: tile.row,
            rows: tile.rows,
            cols: tile.cols,
            vectors,
            numbers,
            grads,
            number_grads,
            hess,
            elements,
            value: &mut buffers.value[..tile.rows],
            wants_value: self.value.is_some(),
            scale: self.scale,
        };
        self.kernel.rows(self.level, rows, scratch);
        // Only now: the kernel hides that it waits for memory, and leaves the tile in the cache.
        let vectors = vectors.iter().zip(&self.vectors).map(|x| (x, grid, tile));
        let numbers = numbers.iter().zip(&self.numbers).map(|x| (x, row_grid, column));
        for ((x, input), grid, tile) in vectors.chain(numbers) {
            let Some((o, Some(check))) = input else { continue };
            if o.is_wider::<T>() {
                self.check(check, tile, o.tile::<f64>(grid, tile, &mut buffers.exact)?)?;
            } else {
                self.check(check, tile, x)?;
            }
        }
        let outputs = self.grads.iter().chain([&self.hess, &self.elements]);
        let filled = buffers.grads.iter().chain([&buffers.hess, &buffers.elements]);
        for (o, buffer) in outputs.zip(filled) {
            if let Some(o) = o {
                o.finish(grid, tile, buffer);
            }
        }
        for (o, buffer) in self.number_grads.iter().zip(&buffers.number_grads) {
            if let Some(o) = o {
                o.finish(row_grid, column, buffer);
            }
        }
        Ok(())
    }

    pub(super) fn group(&self, tile: Tile, buffers: &mut RowBuffers<T>) -> Result<()> {
        let grid = self.grid;
        let Some((input, _)) = &self.vectors[0] else { return Ok(()) };
        let x = input.tile(grid, tile, &mut buffers.vectors[0])?;
        let grad = match &self.grads[0] {
            Some(o) => o.tile(grid, tile, &mut buffers.grads[0])?,
            None => buffers.grads[0].sized(tile.len())?,
        };
        let hess = self.hess.as_ref().map(|o| o.tile(grid, tile, &mut buffers.hess)).transpose()?;
        let value = &mut buffers.value[..tile.rows];
        let scratch = buffers.elements.sized(tile.len())?;
        self.together(Placement::Rows(tile.cols), tile.row, x, [grad, scratch], hess, value);
        for (o, buffer) in [(&self.grads[0], &buffers.grads[0]), (&self.hess, &buffers.hess)] {
            if let Some(o) = o {
                o.finish(grid, tile, buffer);
            }
        }
        Ok(())
    }

    pub(super) fn lanes(&self, tile: Tile, buffers: &mut RowBuffers<T>) -> Result<()> {
        let (grid, group) = (self.grid, tile.cols * LANES);
        let Some((input, _)) = &self.vectors[0] else { return Ok(()) };
        let len = tile.rows.div_ceil(LANES) * group;
        let all = buffers.vectors[0].sized(2 * len + group)?;
        let (x, rest) = all.split_at_mut(len);
        let (grad, scratch) = rest.split_at_mut(len);
        grid.read_lanes(input.view, input.k, tile, LANES, x);
        let mut hess = self.hess.as_ref().map(|_| buffers.hess.sized(len)).transpose()?;
        for (g, value) in buffers.value[..tile.rows].chunks_mut(LANES).enumerate() {
            let (row, run) = (tile.row + g * LANES, g * group..(g + 1) * group);
            let (x, grad) = (&x[run.clone()], &mut grad[run.clone()]);
            let hess = hess.as_deref_mut().map(|hess| &mut hess[run]);
            self.together(Placement::Lanes, row, x, [grad, &mut *scratch], hess, value);
        }
        for (o, buffer) in [(&self.grads[0], &*grad), (&self.hess, hess.as_deref().unwrap_or(&[]))]
        {
            if let Some(o) = o {
                grid.scatter_lanes(o.view, o.k, tile, LANES, buffer);
            }
        }
        Ok(())
    }

    /// Checks a tile of an input.
    fn check<X: Real>(&self, check: &Check<'_>, tile: Tile, x: &[X]) -> Result<()> {
        if check.domain.all_hold(self.level, x) {
            return Ok(());
        }
        let first = tile.row * tile.cols;
        let mut outside = x.iter().enumerate().filter(|(_, x)| !check.domain.holds(**x));
        let is_number =
            self.numbers.iter().flatten().any(|(_, c)| c.is_some_and(|c| std::ptr::eq(c, check)));
        outside.try_for_each(|(i, _)| {
            let at = first + i;
            (self.outside)(check, if is_number { Place::Row(at) } else { Place::Element(at) })
        })
    }

    /// The rows from `row` on, one for each value.
    fn together(
        &self,
        order: Placement,
        row: usize,
        x: &[T],
        [grad, scratch]: [&mut [T]; 2],
        mut hess: Option<&mut [T]>,
        value: &mut [T],
    ) {
        let (mut scale, mut rest, mut done) = ([0.0; LANES], [1.0; LANES], true);
        for l in 0..value.len() {
            [scale[l], rest[l]] = self.scale(row + l);
            done &= scale[l] != 0.0 && rest[l] == 1.0;
        }
        let classes = self.grid.cols;
        let wants_grad = self.grads[0].is_some();
        let group = Group {
            order,
            row,
            classes,
            x,
            grad,
            hess: hess.as_deref_mut(),
            scratch,
            scale: &scale,
            value,
            wants_grad,
        };
        self.kernel.group(self.level, group);
        if done {
            return;
        }
        for l in 0..value.len() {
            if self.kernel.skips(row + l) {
                value[l] = T::ZERO;
            }
            for out in [Some(&mut *grad).filter(|_| wants_grad), hess.as_deref_mut()] {
                let Some(out) = out else { continue };
                if scale[l] == 0.0 {
                    (0..classes).for_each(|class| out[order.at(l, class)] = T::ZERO);
                } else if rest[l] != 1.0 {
                    for class in 0..classes {
                        let x = &mut out[order.at(l, class)];
                        *x = T::from_f64(x.to_f64() * rest[l]);
                    }
                }
            }
        }
    }

    /// What the kernel multiplies the derivatives of a row by, 0 of one that is left out, and the rest.
    fn scale(&self, row: usize) -> [f64; 2] {
        if self.kernel.skips(row) { [0.0, 1.0] } else { split::<T>(self.scale.of(row)) }
    }
}

//! Samples side by side in memory that have sums of their own.
//!
//! The rows of the grid are their elements, and a line of memory holds one element of many samples. A task adds up a stack:
//! at most [`BLOCK`] elements of some samples, line by line. Where there are few samples, several threads share a stack, each
//! with lanes of its sums, so that a thread reads and writes many pages of memory alone: two threads that go through halves
//! of the same pages take as long as one, because each fetches ahead what the other has.

use super::{BlockJob, GATHER_ROWS, TileScratch};
use crate::array::Tile;
use crate::drive::factor::Factor;
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::{DType, Float};
use crate::simd::{Isa, Level, SUM_LANES};
use crate::sum::{BLOCK, ColumnSums};
use crate::threads;
use std::mem;
use std::sync::{Mutex, PoisonError};

/// Samples of a stack, at least, and at most: as many as lie in a page of memory, as every other page costs time, and more
/// would leave no room for their sums in a first-level cache.
const STACK_SAMPLES: (usize, usize) = (64, 1024);

/// Threads that share a stack, at most: each reads several lines one behind another.
const SHARERS: usize = 4;

/// Stacks for each thread from which on no stack is shared.
const ENOUGH: usize = 4;

/// The parts of a stack, and how many of them are done.
#[derive(Default)]
struct Parts(Mutex<([ColumnSums; SHARERS], usize)>);

impl Parts {
    /// Takes the sums of one of `count` parts, and returns those of all once they are there.
    fn arrive(
        &self,
        level: Level,
        (part, count): (usize, usize),
        sums: ColumnSums,
    ) -> Option<ColumnSums> {
        let (parts, done) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts[part] = sums;
        *done += 1;
        if *done < count {
            return None;
        }
        ColumnSums::join(level, &mut parts[..count]);
        Some(mem::take(&mut parts[0]))
    }
}

impl<T: Real> BlockJob<'_, '_, T> {
    /// Whether each sample has sums of its own, and samples lie side by side.
    pub(super) fn sums_samples(&self) -> bool {
        self.turned && self.sums_rows()
    }

    /// Computes all stacks.
    pub(super) fn run_stacks(&self) -> Result<()> {
        let grid = self.grid;
        let (cols, parts) = self.stack_size();
        let (down, across) = (grid.rows.div_ceil(BLOCK), grid.cols.div_ceil(cols));
        let shared = if parts > 1 { down * across } else { 0 };
        let shared = memory::collect((0..shared).map(|_| Parts::default()))?;
        let task_ns = self.kernel.cost() * (grid.rows.min(BLOCK) * cols / parts) as f64;
        let work = |tasks: &mut threads::Tasks<'_>| {
            let mut scratch = TileScratch::new();
            for t in tasks {
                let (s, part) = (t / parts, t % parts);
                let (row, col) = (s / across * BLOCK, s % across * cols);
                let (rows, cols) = (BLOCK.min(grid.rows - row), cols.min(grid.cols - col));
                let stack = Tile { row, rows, col, cols };
                scratch.rest.samples.start_part(rows, cols, T::DTYPE == DType::F64, parts)?;
                self.add_lanes_of(stack, part, parts, &mut scratch)?;
                if let Some(shared) = shared.get(s) {
                    let sums = mem::take(&mut scratch.rest.samples);
                    let Some(sums) = shared.arrive(self.level, (part, parts), sums) else {
                        continue;
                    };
                    scratch.rest.samples = sums;
                }
                self.add_rest_of(stack, &mut scratch)?;
                self.store_sums(stack, &mut scratch)?;
            }
            Ok(())
        };
        threads::run(down * across * parts, task_ns, &work)
    }

    /// The samples of a stack, and in how many parts threads share it.
    fn stack_size(&self) -> (usize, usize) {
        let (grid, threads) = (self.grid, threads::num_threads());
        let (least, most) = STACK_SAMPLES;
        let (down, across) = (grid.rows.div_ceil(BLOCK), grid.cols.div_ceil(most));
        let alone = threads == 1
            || grid.rows < 2 * SUM_LANES
            || down * across >= ENOUGH * threads
            || (across == 1 && down.is_multiple_of(threads));
        let parts = if alone { 1 } else { threads.next_power_of_two().min(SHARERS) };
        let cols = threads::part(grid.cols * down * parts, least, least, most);
        (cols.min(grid.cols), parts)
    }

    /// Adds up the lines of one part of a stack that fill all lanes.
    fn add_lanes_of(
        &self,
        stack: Tile,
        part: usize,
        parts: usize,
        scratch: &mut TileScratch<T>,
    ) -> Result<()> {
        let lanes = SUM_LANES / parts;
        let rows = self.rows_of_tile().min(lanes);
        for chunk in 0..stack.rows / SUM_LANES {
            let first = stack.row + chunk * SUM_LANES + part * lanes;
            for row in (first..first + lanes).step_by(rows) {
                self.tile(Tile { row, rows, ..stack }, scratch)?;
            }
        }
        Ok(())
    }

    /// Adds up the lines of a stack behind these.
    fn add_rest_of(&self, stack: Tile, scratch: &mut TileScratch<T>) -> Result<()> {
        let (rows, end) = (self.rows_of_tile(), stack.row + stack.rows);
        for row in (end - stack.rows % SUM_LANES..end).step_by(rows) {
            self.tile(Tile { row, rows: rows.min(end - row), ..stack }, scratch)?;
        }
        Ok(())
    }

    /// Lines of a tile.
    fn rows_of_tile(&self) -> usize {
        if self.gathers() || self.has_lines() { GATHER_ROWS } else { 1 }
    }

    /// Adds up the values of a tile.
    #[inline(always)]
    pub(super) fn sum_samples<S: Isa>(
        &self,
        tile: Tile,
        value: &[T],
        weights: Factor<'_>,
        products: &mut Vec<f64>,
        sums: &mut ColumnSums,
    ) -> Result<()> {
        if self.weighs_sums(weights) {
            sums.add::<S, _>(value);
        } else {
            let products = weights.products_of::<S, T>(value, tile, products)?;
            sums.add::<S, _>(products);
        }
        Ok(())
    }

    /// Stores the sums of a stack.
    fn store_sums(&self, stack: Tile, scratch: &mut TileScratch<T>) -> Result<()> {
        let line = Tile { rows: 1, ..stack };
        let (weights, _) =
            self.factors.of_tile(self.level, self.grid, line, &mut scratch.factors)?;
        let by_sample = self.weighs_sums(weights);
        let (blocks, block) = (self.cols.div_ceil(BLOCK), stack.row / BLOCK);
        for c in 0..stack.cols {
            let weight = if by_sample { weights.at(c) } else { 1.0 };
            let sum = scratch.rest.samples.total(c).weighted(weight);
            self.store((stack.col + c) * blocks + block, sum);
        }
        Ok(())
    }
}

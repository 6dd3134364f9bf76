//! Samples side by side in memory that have sums of their own.
//!
//! The rows of the grid are their elements, and a line of memory holds one element of many samples. A stack is at most
//! [`BLOCK`] elements of some samples, whose sums are added up line by line. A task is a stack; or, where there are few
//! samples, the lines of some lanes of its sums, so that threads have whole pages of memory for themselves. Two threads that
//! go through halves of the same pages take hardly less time than one, because each fetches ahead what the other has.

use super::{BlockJob, TileScratch};
use crate::array::Tile;
use crate::buffer::Buffer;
use crate::drive::factor::Factor;
use crate::drive::operand::GATHER_ROWS;
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::{DType, Float};
use crate::simd::{Isa, Level, SUM_LANES};
use crate::sum::{BLOCK, ColumnSums};
use crate::threads;
use std::mem;
use std::sync::{Mutex, PoisonError};

/// Samples of a stack, at least, and about as many as it has where there are more: those that lie in a page of memory, as every
/// other page costs time. Many more would leave no room in a first-level cache for a line of each array and of the sums.
const STACK_SAMPLES: (usize, usize) = (64, 1024);

/// Parts of a stack, at most: fewer lines one behind another would be gathered from more pages.
const PARTS: usize = 8;

/// Parts of a stack of which some array is gathered: a part has [`GATHER_ROWS`] lines one behind another.
const GATHERED_PARTS: usize = SUM_LANES / GATHER_ROWS;

/// Stacks for each thread from which on none is cut into parts.
const ENOUGH: usize = 4;

/// The sums of the parts of a stack, and how many of them are done.
#[derive(Default)]
struct Parts(Mutex<([ColumnSums; PARTS], usize)>);

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
        let mut parts = mem::take(parts);
        ColumnSums::join(level, &mut parts[..count]);
        let [all, ..] = parts;
        Some(all)
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

    /// The samples of a stack, and of how many parts it is.
    fn stack_size(&self) -> (usize, usize) {
        let (grid, (least, many)) = (self.grid, STACK_SAMPLES);
        let (down, across) = (grid.rows.div_ceil(BLOCK), ((grid.cols + many / 2) / many).max(1));
        let parts = if self.is_shared(across) { self.parts() } else { 1 };
        let most = grid.cols.div_ceil(across).next_multiple_of(least);
        let cols = threads::part(grid.cols * down * parts, least, least, most);
        (cols.min(grid.cols), parts)
    }

    /// Whether parts of stacks, `across` of them side by side, are tasks.
    fn is_shared(&self, across: usize) -> bool {
        let (grid, threads) = (self.grid, threads::num_threads());
        // Stacks above one another have pages for themselves: full ones, or nearly so, are shared out as they are.
        let full = (grid.rows + BLOCK / 4) / BLOCK;
        let is_even = across == 1 && full > 0 && full.is_multiple_of(threads);
        // The lines that do not fill all lanes are one thread's.
        let (rows, rest) = (grid.rows.min(BLOCK), grid.rows.min(BLOCK) % SUM_LANES);
        let has_lanes = rows >= 2 * SUM_LANES && rest <= rows / 4;
        let is_long = self.kernel.cost() * (grid.rows * grid.cols) as f64 >= threads::WAKING_NS;
        let stacks = grid.rows.div_ceil(BLOCK) * across;
        threads > 1 && has_lanes && is_long && !is_even && stacks < ENOUGH * threads
    }

    /// Parts of a stack, a power of two: as many as threads where that is one, and more where it is not, as eight parts are less
    /// uneven than four for three threads.
    fn parts(&self) -> usize {
        let threads = threads::num_threads();
        let even = if threads.is_power_of_two() { threads } else { 2 * threads };
        let most = if self.gathers() { GATHERED_PARTS } else { PARTS };
        even.next_power_of_two().min(most)
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
        products: &mut Buffer<f64>,
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

//! The softmax of the columns of a matrix of pairs that comes in blocks of rows.

use super::kernel::{Blocks, Outputs, PairKernel, Pairs, RowOutputs};
use super::similarity::Similarity;
use crate::array::{Grid, Tile, View, ViewMut};
use crate::drive::operand::{Operand, Output};
use crate::error::Result;
use crate::memory;
use crate::simd::{self, Isa, Kernel};
use crate::softmax::{Softmax, tempered_exp};
use crate::threads;

/// Columns in a task: a cache line of their elements.
const TASK: usize = 8;
/// Rough time for one element, in nanoseconds.
const COST: f64 = 2.0;

/// The softmax of every column of similarities / temperature.
pub struct Columns {
    /// The largest of each column.
    pub max: Vec<f64>,
    /// The sum of exp((similarity - max) / temperature) of each, the largest left out.
    pub others: Vec<f64>,
    temperature: f64,
}

impl Columns {
    /// Of all pairs; `block` holds the similarities of the last block afterwards.
    pub fn of<M: Similarity>(
        pairs: &Pairs<'_, M>,
        blocks: Blocks,
        temperature: f64,
        block: &mut [f64],
    ) -> Result<Self> {
        let [_, m, _] = pairs.shape();
        // Without any rows the sum of all exponentials, the 1 of the largest included, is 0.
        let mut states = memory::filled([-f64::INFINITY, -1.0], m)?;
        for rows in blocks.iter() {
            let block = &mut block[..rows.len() * m];
            let outputs = Outputs { value: Some(&mut *block), sums: None, slopes: None };
            pairs.rows(&Copy, rows.clone(), None, outputs)?;
            let columns = View::from_slice(block, &[rows.len(), m]).move_axis(1, 0);
            let out = ViewMut::from_slice(states.as_flattened_mut(), &[m, 2]);
            let mut grid = Grid::new(&[m, 2], 1);
            let job = ColumnJob {
                of_columns: Grid::single(columns.shape(), columns.strides()),
                columns,
                temperature,
                states: Operand::output(&mut grid, &out),
                of_states: grid,
            };
            let tiles = m.div_ceil(TASK);
            threads::run(tiles, COST * (rows.len() * TASK) as f64, &|tasks| {
                for row in tasks.map(|task| task * TASK) {
                    let tile = Tile { row, rows: TASK.min(m - row), col: 0, cols: rows.len() };
                    simd::dispatch(pairs.level, ColumnTile { job: &job, tile })?;
                }
                Ok(())
            })?;
        }
        Ok(Columns {
            max: memory::collect(states.iter().map(|state| state[0]))?,
            others: memory::collect(states.iter().map(|state| state[1]))?,
            temperature,
        })
    }

    /// The softmax of a column, to be asked about its element `x` at a position alone.
    #[inline(always)]
    pub fn softmax(&self, column: usize, (at, x): (usize, f64)) -> Softmax<f64> {
        let (max, others) = (self.max[column], self.others[column]);
        Softmax { max, at: if x == max { at } else { usize::MAX }, others }
    }

    /// exp((x - max) / temperature).
    #[inline(always)]
    pub fn exp<S: Isa>(&self, x: f64, max: f64) -> f64 {
        tempered_exp::<S, f64>(x, max, self.temperature)
    }
}

/// Similarities as they are.
struct Copy;

impl PairKernel<f64> for Copy {
    #[inline(always)]
    fn row<S: Isa>(&self, _: usize, similarities: &[f64], outputs: RowOutputs<'_, f64>) -> f64 {
        if let Some(value) = outputs.value {
            value.copy_from_slice(similarities);
        }
        0.0
    }
}

struct ColumnJob<'a, 'b> {
    /// The columns of the block as rows.
    columns: View<'b>,
    of_columns: Grid,
    temperature: f64,
    /// The largest and the sum of the others so far.
    states: Output<'a, 'a>,
    of_states: Grid,
}

/// Some columns of a block.
struct ColumnTile<'a, 'b, 'c> {
    job: &'a ColumnJob<'b, 'c>,
    tile: Tile,
}

impl Kernel for ColumnTile<'_, '_, '_> {
    type Output = Result<()>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        let ColumnTile { job, tile } = self;
        threads::check()?;
        let mut columns = memory::filled(0.0, tile.len())?;
        let mut exps = memory::filled(0.0, tile.cols)?;
        job.of_columns.read(&job.columns, 0, tile, &mut columns);
        let mut buffer = Vec::new();
        let states =
            job.states.tile::<f64>(&job.of_states, Tile { cols: 2, ..tile }, &mut buffer)?;
        for (column, state) in columns.chunks_exact(tile.cols).zip(states.as_chunks_mut().0) {
            let block = Softmax::tempered::<S>(column, job.temperature, &mut exps);
            let [max, others] = *state;
            let (high, low) = ((max, others), (block.max, block.others));
            let (high, low) = if block.max > max { (low, high) } else { (high, low) };
            let share = tempered_exp::<S, f64>(low.0, high.0, job.temperature);
            *state = [high.0, high.1 + (1.0 + low.1) * share];
        }
        Ok(())
    }
}

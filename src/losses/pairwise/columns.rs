//! The softmax of the columns of a matrix of pairs that comes in blocks of rows.

use super::kernel::{Blocks, Outputs, PairKernel, Pairs, RowOutputs};
use super::similarity::Similarity;
use crate::array::{Grid, Tile, View, ViewMut};
use crate::drive::operand::{Operand, Output};
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::simd::{self, Isa, Kernel};
use crate::softmax::{Softmax, tempered_exp};
use crate::threads;
use std::marker::PhantomData;

/// Columns in a task: a cache line of their elements.
const TASK: usize = 8;
/// Rough time for one element, in nanoseconds.
const COST: f64 = 2.0;

/// The softmax of a row or a column of similarities / temperature.
pub struct Line<T> {
    /// The largest similarity.
    max: f64,
    /// That of the logits less the largest.
    pub softmax: Softmax<T>,
}

impl<T: Real> Line<T> {
    /// Fills `exps` with exp((similarity - max) / temperature).
    #[inline(always)]
    pub fn of<S: Isa>(x: &[f64], temperature: f64, logits: &mut [T], exps: &mut [T]) -> Self {
        let max = largest(x);
        for (logit, &x) in logits.iter_mut().zip(x) {
            *logit = relative_logit(x, max, temperature);
        }
        Line { max, softmax: Softmax::of::<S>(logits, exps) }
    }

    /// -log p of a similarity.
    #[inline(always)]
    pub fn loss<S: Isa>(&self, x: f64, temperature: f64) -> f64 {
        Real::log1p::<S>(self.softmax.others) - relative_logit::<f64>(x, self.max, temperature)
    }
}

/// (x - max) / temperature.
#[inline(always)]
fn relative_logit<T: Real>(x: f64, max: f64, temperature: f64) -> T {
    let logit = T::from_f64((x - max) / temperature);
    // A largest one that is infinite is as far from itself as any; nothing but -infinity has no softmax.
    if x == max && max != f64::NEG_INFINITY { T::ZERO } else { logit }
}

/// The largest of some numbers; NaN is passed over.
#[inline(always)]
fn largest(x: &[f64]) -> f64 {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut lanes = [f64::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f64::NEG_INFINITY, |most, &x| if x > most { x } else { most })
}

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
    pub fn of<M: Similarity, T: Real>(
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
            let outputs = Outputs { similarities: Some(&mut *block), ..Outputs::NONE };
            pairs.rows::<T, _>(&NoLoss, rows.clone(), None, outputs)?;
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
                    simd::dispatch(
                        pairs.level,
                        ColumnTile { job: &job, tile, of: PhantomData::<T> },
                    )?;
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
    pub fn line<T: Real>(&self, column: usize, (at, x): (usize, f64)) -> Line<T> {
        let (max, others) = (self.max[column], self.others[column]);
        let at = if x == max { at } else { usize::MAX };
        Line { max, softmax: Softmax { max: T::ZERO, at, near: false, others } }
    }

    /// exp((x - max) / temperature).
    #[inline(always)]
    pub fn exp<S: Isa, T: Real>(&self, x: f64, max: f64) -> T {
        relative_logit::<T>(x, max, self.temperature).exp_nonpositive::<S>()
    }
}

/// No loss: what is wanted are the similarities.
struct NoLoss;

impl<T: Real> PairKernel<T> for NoLoss {
    #[inline(always)]
    fn row<S: Isa>(&self, _: usize, _: &[f64], _: RowOutputs<'_, T>) -> T {
        T::ZERO
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
struct ColumnTile<'a, 'b, 'c, T> {
    job: &'a ColumnJob<'b, 'c>,
    tile: Tile,
    of: PhantomData<T>,
}

impl<T: Real> Kernel for ColumnTile<'_, '_, '_, T> {
    type Output = Result<()>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        let ColumnTile { job, tile, .. } = self;
        threads::check()?;
        let mut columns = memory::filled(0.0, tile.len())?;
        let [mut logits, mut exps] =
            [memory::filled(T::ZERO, tile.cols)?, memory::filled(T::ZERO, tile.cols)?];
        job.of_columns.read(&job.columns, 0, tile, &mut columns);
        let mut buffer = Vec::new();
        let states =
            job.states.tile::<f64>(&job.of_states, Tile { cols: 2, ..tile }, &mut buffer)?;
        for (column, state) in columns.chunks_exact(tile.cols).zip(states.as_chunks_mut().0) {
            let block = Line::of::<S>(column, job.temperature, &mut logits, &mut exps);
            let [max, others] = *state;
            let (high, low) = ((max, others), (block.max, block.softmax.others));
            let (high, low) = if block.max > max { (low, high) } else { (high, low) };
            let share = tempered_exp::<S, f64>(low.0, high.0, job.temperature);
            *state = [high.0, high.1 + (1.0 + low.1) * share];
        }
        Ok(())
    }
}

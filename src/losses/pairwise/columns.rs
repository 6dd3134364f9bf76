//! The softmax of the columns of a matrix of pairs that comes in blocks of rows.

use super::stream::Stream;
use crate::array::{Grid, Tile, ViewMut};
use crate::buffer::Buffer;
use crate::drive::operand::{Operand, Output};
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::num::DType;
use crate::simd::{self, Isa, Kernel};
use crate::softmax::{Softmax, tempered_exp};
use crate::sum::add_each;
use crate::threads;

/// Columns in a task.
const COLUMNS_IN_TASK: usize = 128;
/// Rough time for one element, in nanoseconds.
const COLUMN_COST: f64 = 1.0;

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
    let gap = x - max;
    // A number of f32 does not show how the quotient is rounded, and a product takes a fraction of the time.
    let quotient =
        if T::DTYPE == DType::F64 { gap / temperature } else { gap * (1.0 / temperature) };
    let logit = T::from_f64(quotient);
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
pub struct PairColumns {
    /// The largest of each column.
    pub max: Vec<f64>,
    /// The sum of exp((similarity - max) / temperature) of each, the largest left out.
    pub others: Vec<f64>,
    temperature: f64,
}

impl PairColumns {
    /// Of all pairs; the similarities of the last block are there afterwards.
    pub fn of<T: Real>(stream: &mut Stream<'_, '_, '_, T>, temperature: f64) -> Result<Self> {
        let (level, m) = stream.kind();
        // Without any rows the sum of all exponentials, the 1 of the largest included, is 0.
        let mut states = [memory::filled(f64::NEG_INFINITY, m)?, memory::filled(-1.0, m)?];
        for rows in stream.blocks.iter() {
            let block = stream.similarities(rows.clone())?;
            let states = states.each_mut().map(|x| ViewMut::from_slice(x, &[1, m]));
            let mut grid = Grid::new(&[1, m], 1);
            let states = states.each_ref().map(|view| Operand::output(&mut grid, view));
            let job = ColumnJob { block, temperature, states, grid };
            let tiles = m.div_ceil(COLUMNS_IN_TASK);
            threads::run(tiles, COLUMN_COST * (rows.len() * COLUMNS_IN_TASK) as f64, &|tasks| {
                let mut exps = Buffer::<T>::new();
                for col in tasks.map(|task| task * COLUMNS_IN_TASK) {
                    let tile = Tile { row: 0, rows: 1, col, cols: COLUMNS_IN_TASK.min(m - col) };
                    let exps = exps.sized(tile.cols)?;
                    simd::dispatch(level, ColumnTile { job: &job, tile, exps })?;
                }
                Ok(())
            })?;
        }
        let [max, others] = states;
        Ok(PairColumns { max, others, temperature })
    }

    /// The softmax of a column, to be asked about its element `x` at a position alone.
    #[inline(always)]
    pub fn line<T: Real>(&self, column: usize, (at, x): (usize, f64)) -> Line<T> {
        let (max, others) = (self.max[column], self.others[column]);
        let at = if x == max { at } else { usize::MAX };
        Line { max, softmax: Softmax { max: T::ZERO, at, least: T::ZERO, others } }
    }

    /// exp((x - max) / temperature).
    #[inline(always)]
    pub fn exp<S: Isa, T: Real>(&self, x: f64, max: f64) -> T {
        relative_logit::<T>(x, max, self.temperature).exp_nonpositive::<S>()
    }
}

struct ColumnJob<'a, T> {
    /// The similarities.
    block: &'a [T],
    temperature: f64,
    /// The largest of each column and the sum of its others so far.
    states: [Output<'a, 'a>; 2],
    grid: Grid,
}

/// Some columns of a block.
struct ColumnTile<'a, 'b, T> {
    job: &'a ColumnJob<'b, T>,
    tile: Tile,
    exps: &'a mut [T],
}

impl<T: Real> Kernel for ColumnTile<'_, '_, T> {
    type Output = Result<()>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        let ColumnTile { job, tile, exps } = self;
        let ColumnJob { block, temperature, ref states, ref grid } = *job;
        let rows = || block.chunks_exact(grid.cols).map(|row| &row[tile.col..][..tile.cols]);
        threads::check()?;
        let cols = tile.cols;
        let (mut max, mut at) = ([-T::INFINITY; COLUMNS_IN_TASK], [u32::MAX; COLUMNS_IN_TASK]);
        let (max, at) = (&mut max[..cols], &mut at[..cols]);
        for (row, x) in (0_u32..).zip(rows()) {
            for ((max, at), &x) in max.iter_mut().zip(&mut *at).zip(x) {
                *at = if x > *max { row } else { *at };
                *max = if x > *max { x } else { *max };
            }
        }
        let (mut sums, mut lost) = ([0.0; COLUMNS_IN_TASK], [0.0; COLUMNS_IN_TASK]);
        let (sums, lost) = (&mut sums[..cols], &mut lost[..cols]);
        for (row, x) in (0_u32..).zip(rows()) {
            for (((exp, &x), &max), &at) in exps.iter_mut().zip(x).zip(&*max).zip(&*at) {
                let all = relative_logit::<T>(x.to_f64(), max.to_f64(), temperature);
                let all = all.exp_nonpositive::<S>();
                *exp = if at == row { T::ZERO } else { all };
            }
            add_each(sums, exps, (T::DTYPE == DType::F64).then_some(&mut *lost));
        }
        let mut buffer = Buffer::new();
        let all_max = states[0].tile::<f64>(grid, tile, &mut buffer)?;
        let mut buffer = Buffer::new();
        let all_others = states[1].tile::<f64>(grid, tile, &mut buffer)?;
        for (col, state) in all_max.iter_mut().zip(all_others).enumerate() {
            let block = (max[col].to_f64(), sums[col] + lost[col]);
            let so_far = (*state.0, *state.1);
            let (high, low) = if block.0 > so_far.0 { (block, so_far) } else { (so_far, block) };
            let share = tempered_exp::<S, f64>(low.0, high.0, temperature);
            (*state.0, *state.1) = (high.0, high.1 + (1.0 + low.1) * share);
        }
        Ok(())
    }
}

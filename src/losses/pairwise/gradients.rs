//! The gradients with respect to the vectors of both batches, in tiles, from the slopes of a block of rows.

use super::kernel::{Pairs, rows_of_task};
use super::marks::Marks;
use super::product::{DEPTH, Left, PartialProduct, ProductRoom, RIGHT, Right};
use super::similarity::Batches;
use crate::array::{Grid, Tile};
use crate::array::{View, ViewMut};
use crate::drive::operand::{Operand, Output, sized};
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::scratch::{self, Reusable};
use crate::simd::{self, Isa, Kernel, Level};
use crate::sum::sum_block;
use crate::threads;
use std::ops::Range;

/// Elements of the vectors in a tile of gradients.
const COLS: usize = RIGHT;

/// Where the gradients with respect to both batches go, block of rows after block of rows.
pub struct Gradients<'a> {
    out: [Option<ViewMut<'a>>; 2],
    /// The sums for the second batch over the blocks so far, if there are several.
    carried: Option<Carried>,
}

/// What goes from block to block for each vector of the second batch.
struct Carried {
    /// The sums of slopes times elements of the others.
    sums: Vec<f64>,
    /// The sums of slopes.
    totals: Vec<f64>,
}

impl<'a> Gradients<'a> {
    /// For the batches of `pairs`; without `several` blocks, one has all rows.
    pub fn new(pairs: &Pairs<'_>, out: [Option<ViewMut<'a>>; 2], several: bool) -> Result<Self> {
        let [_, m, d] = pairs.shape();
        let carried = if several && out[1].is_some() {
            let (sums, totals) = (memory::filled(0.0, m * d)?, memory::filled(0.0, m)?);
            Some(Carried { sums, totals })
        } else {
            None
        };
        Ok(Gradients { out, carried })
    }

    /// Adds what the pairs of a block of rows contribute, by the derivative of the result with respect to each similarity,
    /// but for a factor.
    pub fn add<T: Real>(
        &mut self,
        pairs: &Pairs<'_>,
        rows: Range<usize>,
        slopes: &[T],
        marks: Option<&Marks>,
        factor: f64,
    ) -> Result<()> {
        let block = pairs.block(rows.clone());
        let [n, m, d] = block.shape();
        let [first, second] = &mut self.out;
        let carried = self.carried.as_mut().map(|Carried { sums, totals }| {
            [ViewMut::from_slice(sums, &[m, d]), ViewMut::from_slice(totals, &[m, 1])]
        });
        let [sums, totals] = carried.map_or([None, None], |carried| carried.map(Some));
        let second = sums.or_else(|| second.as_mut().map(|out| out.narrow(0..m)));
        let out = [first.as_mut().map(|out| out.narrow(rows)), second];
        let out = out.each_ref().map(|out| {
            let mut grid = Grid::new(out.as_ref()?.shape(), 1);
            let out = Operand::output(&mut grid, out.as_ref()?);
            grid.merge();
            Some((out, grid))
        });
        let mut column = Grid::new(&[m, 1], 1);
        let totals = totals.as_ref().map(|totals| Operand::output(&mut column, totals));
        let job = PullJob {
            batches: block.sides(),
            slopes,
            marks,
            out,
            carried: totals.map(|totals| (totals, column)),
            factor,
        };
        let across = d.div_ceil(COLS);
        let rows = rows_of_task(n.max(m) * across);
        let tiles = n.max(m).div_ceil(rows) * across;
        threads::run(tiles, block.cost() / tiles as f64, &|tasks| {
            scratch::with(|scratch| {
                tasks.try_for_each(|task| {
                    let (row, col) = (task / across * rows, task % across * COLS);
                    let tile = Tile { row, rows, col, cols: COLS.min(d - col) };
                    job.tile(block.level, tile, scratch)
                })
            })
        })
    }

    /// Writes what was carried from block to block, times the factor of all blocks.
    pub fn finish<T: Real>(self, pairs: &Pairs<'_>, factor: f64) -> Result<()> {
        let Gradients { out: [_, Some(out)], carried: Some(Carried { mut sums, totals }) } = self
        else {
            return Ok(());
        };
        let [_, _, d] = pairs.shape();
        let batches = pairs.sides();
        let mut own = memory::filled(T::ZERO, d)?;
        for ((row, sums), total) in sums.chunks_exact_mut(d.max(1)).enumerate().zip(totals) {
            batches.less_own(pairs.level, [1, row], &(0..d), total, &mut own, sums);
        }
        let of_sum = pairs.similarity.factor();
        let gradient = |sum: &f64| T::from_f64(of_sum * sum * factor);
        out.copy_from(&memory::collect(sums.iter().map(gradient))?);
        Ok(())
    }
}

impl Batches<'_, '_> {
    /// Takes the sum of its slopes times an own vector, relative to the centre, from the sums of slopes times the others.
    fn less_own<T: Real>(
        &self,
        level: Level,
        vector: [usize; 2],
        elements: &Range<usize>,
        total: f64,
        buffer: &mut [T],
        sums: &mut [f64],
    ) {
        if total != 0.0 {
            let own = self.load(vector, elements, buffer);
            let centre = self.centre.get(elements.clone()).unwrap_or_default();
            simd::dispatch(level, LessOwn { own, centre, total, sums });
        }
    }
}

/// [`Batches::less_own`].
struct LessOwn<'r, T> {
    own: &'r [T],
    centre: &'r [f64],
    total: f64,
    sums: &'r mut [f64],
}

impl<T: Real> Kernel for LessOwn<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        for ((sum, &own), &centre) in self.sums.iter_mut().zip(self.own).zip(self.centre) {
            *sum -= self.total * (own - T::from_f64(centre)).to_f64();
        }
    }
}

/// Turns sums into gradients.
struct Scaled<'r, T> {
    sums: &'r [f64],
    factors: [f64; 2],
    grads: &'r mut [T],
}

impl<T: Real> Kernel for Scaled<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let [by_similarity, of_all] = self.factors;
        for (g, sum) in self.grads.iter_mut().zip(self.sums) {
            *g = T::from_f64(by_similarity * *sum * of_all);
        }
    }
}

struct PullJob<'a, 'b, T> {
    batches: Batches<'a, 'b>,
    slopes: &'a [T],
    marks: Option<&'a Marks>,
    factor: f64,
    out: [Option<(Output<'a, 'a>, Grid)>; 2],
    /// The sums of slopes of the second batch, if its gradients are sums that are continued.
    carried: Option<(Output<'a, 'a>, Grid)>,
}

/// Room for a tile.
#[derive(Default)]
struct GradientScratch<T> {
    room: ProductRoom<T>,
    /// The sums of slopes times elements of the others.
    sums: Vec<f64>,
    /// The sums of slopes, if they are of use.
    totals: Vec<f64>,
    /// What is continued.
    carried: Vec<f64>,
    own: Vec<T>,
    other: Vec<T>,
    grads: Vec<T>,
}

impl<T: Real> Reusable for GradientScratch<T> {
    fn bytes(&self) -> usize {
        let GradientScratch { room, sums, totals, carried, own, other, grads } = self;
        let sums = sums.bytes() + totals.bytes() + carried.bytes();
        room.bytes() + sums + own.bytes() + other.bytes() + grads.bytes()
    }
}

impl<T: Real> PullJob<'_, '_, T> {
    /// A tile of the gradients; of the vectors of either batch as far as there are any.
    fn tile(&self, level: Level, tile: Tile, scratch: &mut GradientScratch<T>) -> Result<()> {
        for (of, out) in self.out.iter().enumerate() {
            let Some((out, grid)) = out else { continue };
            let rows = tile.rows.min(grid.rows.saturating_sub(tile.row));
            if rows == 0 {
                continue;
            }
            let tile = Tile { rows, ..tile };
            let row = |r: usize| Tile { row: tile.row + r, rows: 1, ..tile };
            let carried = self.carried.as_ref().filter(|_| of == 1);
            let column = Tile { col: 0, cols: 1, ..tile };
            // Of all tiles of a row one has its total.
            let of_rows = carried.filter(|_| tile.col == 0);
            let GradientScratch { sums, totals, carried: room, .. } = &mut *scratch;
            let (sums, totals) = (sized(sums, tile.len())?, sized(totals, rows)?);
            totals.fill(0.0);
            if carried.is_some() {
                for (r, sums) in sums.chunks_exact_mut(tile.cols).enumerate() {
                    sums.copy_from_slice(out.tile::<f64>(grid, row(r), room)?);
                }
            }
            if let Some((so_far, grid)) = of_rows {
                totals.copy_from_slice(so_far.tile::<f64>(grid, column, room)?);
            }
            self.sum(level, of, tile, scratch)?;
            let GradientScratch { sums, totals, carried: room, own, grads: buffer, .. } =
                &mut *scratch;
            let (sums, totals) = (&mut sums[..tile.len()], &totals[..rows]);
            if carried.is_some() {
                for (r, sums) in sums.chunks_exact(tile.cols).enumerate() {
                    out.tile::<f64>(grid, row(r), room)?.copy_from_slice(sums);
                }
                if let Some((so_far, grid)) = of_rows {
                    so_far.tile::<f64>(grid, column, room)?.copy_from_slice(totals);
                }
                continue;
            }
            let part = tile.col..tile.col + tile.cols;
            let own = sized(own, tile.cols)?;
            let rows = sums.chunks_exact_mut(tile.cols).zip(totals);
            for (r, (sums, &total)) in rows.enumerate() {
                self.batches.less_own(level, [of, tile.row + r], &part, total, own, sums);
                let grads = out.tile::<T>(grid, row(r), buffer)?;
                let factors = [self.batches.similarity.factor(), self.factor];
                simd::dispatch(level, Scaled { sums, factors, grads });
                out.finish(grid, row(r), buffer);
            }
        }
        Ok(())
    }

    /// Adds slope times [`toward`](super::similarity::Similarity::toward) of the others to the sums of the own vectors of a
    /// tile, but for what the sum of the slopes makes of these themselves.
    fn sum(
        &self,
        level: Level,
        of: usize,
        tile: Tile,
        scratch: &mut GradientScratch<T>,
    ) -> Result<()> {
        let PullJob { batches, .. } = self;
        let similarity = batches.similarity;
        let GradientScratch { room, sums, totals, own, other, .. } = scratch;
        let slopes = View::from_slice(self.slopes, &batches.pairs()).move_axis(of, 0);
        let elements = batches.views[1 - of].clone().move_axis(1, 0);
        let [of_slopes, of_elements] =
            [&slopes, &elements].map(|view| Grid::single(view.shape(), view.strides()));
        let part = tile.col..tile.col + tile.cols;
        let (sums, totals) = (&mut sums[..tile.len()], &mut totals[..tile.rows]);
        let [own, other] = [sized(own, tile.cols)?, sized(other, tile.cols)?];
        let count = slopes.shape()[1];
        // What adds to a sum does so in the order of the others, however these come in blocks.
        let is_marked = self.marked(of, Tile { col: 0, cols: count, ..tile }).next().is_some();
        let step = if is_marked { DEPTH } else { count.max(1) };
        for first in (0..count.max(1)).step_by(step) {
            let run = Tile { col: first, cols: step.min(count - first), ..tile };
            let along = run.col..run.col + run.cols;
            let mut all_finite = true;
            PartialProduct {
                tile,
                along: along.clone(),
                left: &mut SlopeFactor {
                    job: self,
                    of,
                    view: &slopes,
                    grid: &of_slopes,
                    totals: &mut *totals,
                },
                right: &mut ElementFactor {
                    view: &elements,
                    grid: &of_elements,
                    centre: batches.centre,
                    all_finite: &mut all_finite,
                },
                room,
                fresh: first == 0 && !(of == 1 && self.carried.is_some()),
                sums: &mut *sums,
            }
            .add(level)?;
            for [row, at] in self.marked(of, run) {
                let slope = self.slope(of, [row, at]);
                let own = batches.load([of, row], &part, own);
                let other = batches.load([1 - of, at], &part, other);
                let sums = sums[(row - tile.row) * tile.cols..].iter_mut();
                for ((sum, own), other) in sums.zip(own).zip(other).filter(|_| slope != 0.0) {
                    *sum += slope * similarity.toward(own.to_f64(), other.to_f64());
                }
            }
            // Distances that are no numbers are marked.
            for at in along.filter(|_| !all_finite && !similarity.cancels()) {
                let other = batches.load([1 - of, at], &part, other);
                for (row, sums) in (tile.row..).zip(sums.chunks_exact_mut(tile.cols)) {
                    let slope = self.slope(of, [row, at]);
                    for (sum, other) in sums.iter_mut().zip(other) {
                        let x = other.to_f64();
                        *sum += if slope == 0.0 || x.is_finite() { 0.0 } else { slope * x };
                    }
                }
            }
        }
        Ok(())
    }

    /// The marked pairs of some own vectors, the rows of a tile, with some others, its columns.
    fn marked(&self, of: usize, tile: Tile) -> impl Iterator<Item = [usize; 2]> {
        let [own, others] = [tile.row..tile.row + tile.rows, tile.col..tile.col + tile.cols];
        let (rows, cols) = if of == 0 { (own, others) } else { (others, own) };
        let marked = self.marks.map(|marks| marks.within(rows, cols));
        marked.into_iter().flatten().map(move |pair| [pair[of], pair[1 - of]])
    }

    /// The slope of an own vector with another.
    fn slope(&self, of: usize, pair: [usize; 2]) -> f64 {
        let [_, m] = self.batches.pairs();
        self.slopes[pair[of] * m + pair[1 - of]].to_f64()
    }
}

/// Slopes as the left factor, but for those of marked pairs.
struct SlopeFactor<'s, 'a, 'b, T> {
    job: &'s PullJob<'a, 'b, T>,
    of: usize,
    /// Own vectors by others.
    view: &'s View<'s>,
    grid: &'s Grid,
    /// The sum of each row, if it is of use.
    totals: &'s mut [f64],
}

impl<T: Real> Left<T> for SlopeFactor<'_, '_, '_, T> {
    fn copy(&mut self, level: Level, tile: Tile, again: bool, rows: &mut [T]) {
        self.grid.read(self.view, 0, tile, rows);
        for [own, other] in self.job.marked(self.of, tile) {
            rows[(own - tile.row) * tile.cols + other - tile.col] = T::ZERO;
        }
        if self.job.batches.similarity.cancels() && !again {
            simd::dispatch(level, RowSums { rows, cols: tile.cols, totals: self.totals });
        }
    }
}

/// Adds the sum of each row to its total.
struct RowSums<'r, T> {
    rows: &'r [T],
    cols: usize,
    totals: &'r mut [f64],
}

impl<T: Real> Kernel for RowSums<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        for (total, row) in self.totals.iter_mut().zip(self.rows.chunks_exact(self.cols)) {
            *total += sum_block::<S, T>(row);
        }
    }
}

/// Elements of the other vectors as the right factor, relative to the centre; 0 for those that are not finite, which count
/// nothing where their slope is 0.
struct ElementFactor<'s> {
    /// Elements by vectors.
    view: &'s View<'s>,
    grid: &'s Grid,
    centre: &'s [f64],
    all_finite: &'s mut bool,
}

impl<T: Real> Right<T> for ElementFactor<'_> {
    fn copy(&mut self, level: Level, tile: Tile, lanes: usize, panels: &mut [T]) {
        self.grid.read_lanes(self.view, 0, tile, lanes, panels);
        let centre = self.centre.get(tile.row..tile.row + tile.rows).unwrap_or_default();
        *self.all_finite &=
            simd::dispatch(level, FinitePanels { panels, lanes, cols: tile.cols, centre });
    }
}

/// Takes the centre from panels of `lanes` vectors, and makes 0 of what is not finite; whether all is.
struct FinitePanels<'r, T> {
    panels: &'r mut [T],
    lanes: usize,
    cols: usize,
    centre: &'r [f64],
}

impl<T: Real> Kernel for FinitePanels<'_, T> {
    type Output = bool;
    #[inline(always)]
    fn run<S: Isa>(self) -> bool {
        let FinitePanels { panels, lanes, cols, centre } = self;
        for (panel, centre) in panels.chunks_exact_mut(lanes * cols).zip(centre.chunks(lanes)) {
            for line in panel.chunks_exact_mut(lanes) {
                for (x, &centre) in line.iter_mut().zip(centre) {
                    *x -= T::from_f64(centre);
                }
            }
        }
        let finite = all_finite(panels);
        if !finite {
            for x in panels.iter_mut().filter(|x| !x.to_f64().is_finite()) {
                *x = T::ZERO;
            }
        }
        finite
    }
}

#[inline(always)]
fn all_finite<T: Real>(x: &[T]) -> bool {
    const FINITE_LANES: usize = 16;
    let (chunks, rest) = x.as_chunks::<FINITE_LANES>();
    let mut lanes = [T::ZERO; FINITE_LANES];
    for chunk in chunks {
        for l in 0..FINITE_LANES {
            // 0, or NaN of a number that is not finite.
            lanes[l] += chunk[l] * T::ZERO;
        }
    }
    lanes.iter().chain(rest).all(|x| (*x * T::ZERO).to_f64() == 0.0)
}

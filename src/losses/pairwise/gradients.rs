//! The gradients with respect to the vectors of both batches, in tiles, from the slopes of a block of rows.

use super::gradient_kernels::{FinitePanels, RowTotals};
use super::kernel::{Pairs, rows_of_task};
use super::marks::Marks;
use super::product::{BlockSums, DEPTH, Factors, PartialProduct, ProductRoom, RIGHT};
use super::similarity::Batches;
use crate::array::{Grid, Tile};
use crate::array::{View, ViewMut};
use crate::buffer::Buffer;
use crate::drive::operand::{Operand, Output};
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::scratch::{self, Reusable};
use crate::simd::{self, Level};
use crate::threads;
use std::ops::Range;

/// Elements of the vectors in a tile of gradients.
const COLS: usize = RIGHT;

/// Vectors that are written together where their elements lie pages apart: a cache line of `f32`.
const TOGETHER: usize = 16;

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
        let Gradients { out: [_, Some(out)], carried: Some(Carried { sums, totals }) } = self
        else {
            return Ok(());
        };
        let [_, m, d] = pairs.shape();
        let batches = pairs.sides();
        let mut own = Buffer::new();
        let mut grads = memory::filled(T::ZERO, m * d)?;
        let all = BlockSums::dense(&sums, d);
        for (row, grads) in grads.chunks_exact_mut(d.max(1)).enumerate() {
            let (tile, sums) = (Tile { row, ..Tile::row(d) }, all.from(row));
            let totals = &totals[row..=row];
            batches.gradients(pairs.level, 1, tile, (totals, sums), factor, &mut own, grads)?;
        }
        out.copy_from(&grads);
        Ok(())
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
    sums: Buffer<f64>,
    /// The sums of slopes, if they are of use.
    totals: Buffer<f64>,
    /// What is continued.
    carried: Buffer<f64>,
    own: Buffer<T>,
    other: Buffer<T>,
    grads: Buffer<T>,
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
            let count = self.batches.pairs()[1 - of];
            let [first, second] = pairs_of(of, Tile { col: 0, cols: count, ..tile });
            let is_marked = self.marks.is_some_and(|marks| marks.any(first, second));
            if carried.is_none() && !is_marked {
                self.directly(level, of, tile, scratch)?;
                continue;
            }
            let GradientScratch { sums, totals, carried: room, .. } = &mut *scratch;
            let (sums, totals) = (sums.sized(tile.len())?, totals.sized(rows)?);
            totals.fill(0.0);
            if carried.is_some() {
                for (r, sums) in sums.chunks_exact_mut(tile.cols).enumerate() {
                    sums.copy_from_slice(out.tile::<f64>(grid, row(r), room)?);
                }
            }
            if let Some((so_far, grid)) = of_rows {
                totals.copy_from_slice(so_far.tile::<f64>(grid, column, room)?);
            }
            self.sum(level, of, tile, if is_marked { DEPTH } else { count.max(1) }, scratch)?;
            let GradientScratch { sums, totals, carried: room, own, grads, .. } = &mut *scratch;
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
            let sums = BlockSums::dense(sums, tile.cols);
            self.write(level, of, tile, (totals, sums), (own, grads))?;
        }
        Ok(())
    }

    /// Writes a tile of the gradients.
    #[inline(never)]
    fn write(
        &self,
        level: Level,
        of: usize,
        tile: Tile,
        (totals, sums): (&[f64], BlockSums<'_>),
        (own, buffer): (&mut Buffer<T>, &mut Buffer<T>),
    ) -> Result<()> {
        let Some((out, grid)) = &self.out[of] else { return Ok(()) };
        let together = if grid.prefers_rows(out.k) { TOGETHER } else { 1 };
        for (first, totals) in (0..).step_by(together).zip(totals.chunks(together)) {
            let tile = Tile { row: tile.row + first, rows: totals.len(), ..tile };
            let grads = out.tile::<T>(grid, tile, buffer)?;
            let sums = (totals, sums.from(first));
            self.batches.gradients(level, of, tile, sums, self.factor, own, grads)?;
            out.finish(grid, tile, buffer);
        }
        Ok(())
    }

    /// Writes the gradients of a tile without marked pairs as soon as there are its sums.
    fn directly(
        &self,
        level: Level,
        of: usize,
        tile: Tile,
        scratch: &mut GradientScratch<T>,
    ) -> Result<()> {
        let GradientScratch { room, sums, totals, own, other, grads, .. } = scratch;
        let totals = totals.sized(tile.rows)?;
        totals.fill(0.0);
        let matrices = Matrices::of(self, of);
        let along = 0..matrices.others;
        let target = Target::Gradients { own: &mut *own, grads: &mut *grads, sums: &mut *sums };
        let mut factors = matrices.factors(tile, &mut *totals, target);
        PartialProduct { tile, along, factors: &mut factors, room }.compute(level)?;
        if factors.lacks_terms() {
            let sums = &mut sums[..tile.len()];
            self.add_infinite(of, tile, 0..matrices.others, sums, other.sized(tile.cols)?);
            let sums = BlockSums::dense(sums, tile.cols);
            self.write(level, of, tile, (totals, sums), (own, grads))?;
        }
        Ok(())
    }

    /// Adds slope times element for elements of some others that are not finite, and whose slope is not 0, to the sums of a
    /// tile.
    #[inline(never)]
    fn add_infinite(
        &self,
        of: usize,
        tile: Tile,
        others: Range<usize>,
        sums: &mut [f64],
        buffer: &mut [T],
    ) {
        let part = tile.col..tile.col + tile.cols;
        for at in others {
            let other = self.batches.load([1 - of, at], &part, buffer);
            for (row, sums) in (tile.row..).zip(sums.chunks_exact_mut(tile.cols)) {
                let slope = self.slope(of, [row, at]);
                for (sum, other) in sums.iter_mut().zip(other) {
                    let x = other.to_f64();
                    *sum += if slope == 0.0 || x.is_finite() { 0.0 } else { slope * x };
                }
            }
        }
    }

    /// Adds slope times [`toward`](super::similarity::Similarity::toward) of the others, `step` of them at once, to the sums
    /// of the own vectors of a tile, but for what the sum of the slopes makes of these themselves.
    fn sum(
        &self,
        level: Level,
        of: usize,
        tile: Tile,
        step: usize,
        scratch: &mut GradientScratch<T>,
    ) -> Result<()> {
        let PullJob { batches, .. } = self;
        let similarity = batches.similarity;
        let GradientScratch { room, sums, totals, own, other, .. } = scratch;
        let matrices = Matrices::of(self, of);
        let part = tile.col..tile.col + tile.cols;
        let (sums, totals) = (&mut sums[..tile.len()], &mut totals[..tile.rows]);
        let [own, other] = [own.sized(tile.cols)?, other.sized(tile.cols)?];
        let count = matrices.others;
        let continues = of == 1 && self.carried.is_some();
        // What adds to a sum does so in the order of the others, however these come in blocks.
        for first in (0..count.max(1)).step_by(step) {
            let run = Tile { col: first, cols: step.min(count - first), ..tile };
            let along = run.col..run.col + run.cols;
            let target = Target::Sums(&mut *sums, first > 0 || continues);
            let mut factors = matrices.factors(tile, &mut *totals, target);
            PartialProduct { tile, along: along.clone(), factors: &mut factors, room }
                .compute(level)?;
            let lacks_terms = factors.lacks_terms();
            self.each_marked(of, run, &mut |[row, at]| {
                let slope = self.slope(of, [row, at]);
                let own = batches.load([of, row], &part, own);
                let other = batches.load([1 - of, at], &part, other);
                let sums = sums[(row - tile.row) * tile.cols..].iter_mut();
                for ((sum, own), other) in sums.zip(own).zip(other).filter(|_| slope != 0.0) {
                    *sum += slope * similarity.toward(own.to_f64(), other.to_f64());
                }
            });
            if lacks_terms {
                self.add_infinite(of, tile, along, sums, other);
            }
        }
        Ok(())
    }

    /// Calls `f` with each marked pair of some own vectors, the rows of a tile, with some others, its columns.
    fn each_marked(&self, of: usize, tile: Tile, f: &mut dyn FnMut([usize; 2])) {
        if let Some(marks) = self.marks {
            let [rows, cols] = pairs_of(of, tile);
            marks.each(rows, cols, &mut |pair| f([pair[of], pair[1 - of]]));
        }
    }

    /// The slope of an own vector with another.
    fn slope(&self, of: usize, pair: [usize; 2]) -> f64 {
        let [_, m] = self.batches.pairs();
        self.slopes[pair[of] * m + pair[1 - of]].to_f64()
    }
}

/// The rows and the columns of the matrix of pairs of own vectors, the rows of a tile, with others, its columns.
fn pairs_of(of: usize, tile: Tile) -> [Range<usize>; 2] {
    let [own, others] = [tile.row..tile.row + tile.rows, tile.col..tile.col + tile.cols];
    if of == 0 { [own, others] } else { [others, own] }
}

/// What the gradients of one batch are products of.
struct Matrices<'s, 'a, 'b, T> {
    job: &'s PullJob<'a, 'b, T>,
    of: usize,
    /// Slopes, own vectors by others.
    slopes: (View<'s>, Grid),
    /// Elements by other vectors.
    elements: (View<'s>, Grid),
    /// How many these are.
    others: usize,
}

impl<'s, 'a, 'b, T: Real> Matrices<'s, 'a, 'b, T> {
    fn of(job: &'s PullJob<'a, 'b, T>, of: usize) -> Self {
        let slopes = View::from_slice(job.slopes, &job.batches.pairs()).move_axis(of, 0);
        let elements = job.batches.views[1 - of].clone().move_axis(1, 0);
        let others = slopes.shape()[1];
        let [slopes, elements] = [slopes, elements].map(|view| {
            let grid = Grid::single(view.shape(), view.strides());
            (view, grid)
        });
        Matrices { job, of, slopes, elements, others }
    }

    fn factors<'f>(
        &'f self,
        tile: Tile,
        totals: &'f mut [f64],
        target: Target<'f, T>,
    ) -> GradientFactors<'f, 's, 'a, 'b, T> {
        GradientFactors { matrices: self, tile, totals, all_finite: true, target }
    }
}

/// Where products of the matrices go.
enum Target<'f, T> {
    /// To the gradients, with room for own vectors and for these; or to sums if terms are still to be added.
    Gradients { own: &'f mut Buffer<T>, grads: &'f mut Buffer<T>, sums: &'f mut Buffer<f64> },
    /// To the sums of a tile, and whether there are any yet.
    Sums(&'f mut [f64], bool),
}

/// Slopes as the left factor, but for those of marked pairs; as the right one the elements of the other vectors, relative to
/// the centre. 0 stands for those that are not finite, which count nothing where their slope is 0.
struct GradientFactors<'f, 's, 'a, 'b, T> {
    matrices: &'f Matrices<'s, 'a, 'b, T>,
    tile: Tile,
    /// The sum of each row of slopes, if it is of use.
    totals: &'f mut [f64],
    /// Whether all elements so far are finite.
    all_finite: bool,
    target: Target<'f, T>,
}

impl<T> GradientFactors<'_, '_, '_, '_, T> {
    /// Whether elements that are not finite are still to be added, where they count. Distances that are no numbers are marked.
    fn lacks_terms(&self) -> bool {
        !self.all_finite && !self.matrices.job.batches.similarity.cancels()
    }

    /// The same elements, counted from the first of the tile.
    fn within(&self, cols: &Range<usize>) -> Range<usize> {
        cols.start - self.tile.col..cols.end - self.tile.col
    }
}

impl<T: Real> Factors<T> for GradientFactors<'_, '_, '_, '_, T> {
    fn left(&mut self, level: Level, tile: Tile, again: bool, rows: &mut [T]) {
        let Matrices { job, of, slopes: (view, grid), .. } = self.matrices;
        grid.read(view, 0, tile, rows);
        job.each_marked(*of, tile, &mut |[own, other]| {
            rows[(own - tile.row) * tile.cols + other - tile.col] = T::ZERO;
        });
        if job.batches.similarity.cancels() && !again {
            simd::dispatch(level, RowTotals { rows, cols: tile.cols, totals: self.totals });
        }
    }

    fn right(&mut self, level: Level, tile: Tile, lanes: usize, panels: &mut [T]) {
        let Matrices { job, elements: (view, grid), .. } = self.matrices;
        grid.read_lanes(view, 0, tile, lanes, panels);
        let centre = job.batches.centre.get(tile.row..tile.row + tile.rows).unwrap_or_default();
        self.all_finite &=
            simd::dispatch(level, FinitePanels { panels, lanes, cols: tile.cols, centre });
    }

    fn resumes(&self) -> bool {
        matches!(self.target, Target::Sums(_, true))
    }

    fn resume(&self, row: usize, cols: Range<usize>, sums: &mut [f64]) {
        if let Target::Sums(all, _) = &self.target {
            let all = &all[(row - self.tile.row) * self.tile.cols..];
            sums.copy_from_slice(&all[self.within(&cols)]);
        }
    }

    fn finish(&mut self, level: Level, cols: Range<usize>, sums: BlockSums<'_>) -> Result<()> {
        let Matrices { job, of, .. } = self.matrices;
        let tile = Tile { col: cols.start, cols: cols.len(), ..self.tile };
        let (lacks_terms, within) = (self.lacks_terms(), self.within(&cols));
        let all = match &mut self.target {
            Target::Gradients { own, grads, .. } if !lacks_terms => {
                return job.write(level, *of, tile, (self.totals, sums), (own, grads));
            }
            Target::Gradients { sums, .. } => sums.sized(self.tile.len())?,
            Target::Sums(all, _) => all,
        };
        for (r, all) in all.chunks_exact_mut(self.tile.cols).enumerate() {
            sums.from(r).copy_to(&mut all[within.clone()]);
        }
        Ok(())
    }
}

//! The gradients with respect to the vectors of both batches, in tiles, from the slopes of a block of rows.

use super::kernel::Pairs;
use super::similarity::{LANES, Similarity, VECTORS};
use crate::array::{Grid, Tile};
use crate::array::{View, ViewMut};
use crate::drive::operand::{Operand, Output};
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::simd::{self, Isa, Kernel};
use crate::threads;
use std::marker::PhantomData;
use std::ops::Range;

/// Vectors whose differences a lane adds in a row.
const CHAIN: usize = 16;
/// Vectors, and bytes of each, in a tile of gradients.
const PULL_TILE: (usize, usize) = (256, 512);
/// Vectors whose gradients are summed together.
const TOGETHER: usize = 8;

/// Where the gradients with respect to both batches go, block of rows after block of rows.
pub struct Gradients<'a, T> {
    out: [Option<ViewMut<'a>>; 2],
    /// The sums for the second batch over the blocks so far, if there are several.
    carried: Option<Vec<f64>>,
    of: PhantomData<T>,
}

impl<'a, T: Real> Gradients<'a, T> {
    /// For the batches of `pairs`; without `several` blocks, one has all rows.
    pub fn new<M: Similarity>(
        pairs: &Pairs<'_, M>,
        out: [Option<ViewMut<'a>>; 2],
        several: bool,
    ) -> Result<Self> {
        let carries = several && out[1].is_some();
        let carried = carries.then(|| memory::filled(0.0, pairs.batches[1].len())).transpose()?;
        Ok(Gradients { out, carried, of: PhantomData })
    }

    /// Adds what the pairs of a block of rows contribute, by the derivative of the result with respect to each similarity,
    /// but for a factor.
    pub fn add<M: Similarity>(
        &mut self,
        pairs: &Pairs<'_, M>,
        rows: Range<usize>,
        slopes: &[T],
        factor: f64,
    ) -> Result<()> {
        let block = pairs.block(rows.clone());
        let [n, m, d] = block.shape();
        let [first, second] = &mut self.out;
        let carried = self.carried.as_mut().map(|sums| ViewMut::from_slice(sums, &[m, d]));
        let is_carried = carried.is_some();
        let second = carried.or_else(|| second.as_mut().map(|out| out.narrow(0..m)));
        let out = [first.as_mut().map(|out| out.narrow(rows)), second];
        let out = out.each_ref().map(|out| {
            let mut grid = Grid::new(out.as_ref()?.shape(), 1);
            let out = Operand::output(&mut grid, out.as_ref()?);
            grid.merge();
            Some((out, grid))
        });
        let job = PullJob::<M, T> {
            batches: &block.batches,
            grids: [block.grid(0), block.grid(1)],
            out,
            is_carried,
            slopes,
            factor,
            of: PhantomData,
        };
        let (rows, cols) = (PULL_TILE.0, PULL_TILE.1 / size_of::<T>());
        let across = d.div_ceil(cols);
        let tiles = n.max(m).div_ceil(rows) * across;
        threads::run(tiles, block.cost() / tiles as f64, &|tasks| {
            for task in tasks {
                let (row, col) = (task / across * rows, task % across * cols);
                let tile = Tile { row, rows, col, cols: cols.min(d - col) };
                simd::dispatch(block.level, PullTile { job: &job, tile })?;
            }
            Ok(())
        })
    }

    /// Writes what was carried from block to block, times the factor of all blocks.
    pub fn finish<M: Similarity>(self, factor: f64) -> Result<()> {
        let Gradients { out: [_, Some(out)], carried: Some(sums), .. } = self else {
            return Ok(());
        };
        let gradient = |sum: &f64| T::from_f64(M::FACTOR * sum * factor);
        out.copy_from(&memory::collect(sums.iter().map(gradient))?);
        Ok(())
    }
}

struct PullJob<'a, 'b, M, T> {
    batches: &'a [View<'b>; 2],
    grids: [Grid; 2],
    slopes: &'a [T],
    factor: f64,
    out: [Option<(Output<'a, 'a>, Grid)>; 2],
    /// Whether those of the second batch are sums that are continued.
    is_carried: bool,
    of: PhantomData<M>,
}

/// A tile of the gradients; of the vectors of either batch as far as there are any.
struct PullTile<'a, 'b, 'c, M, T> {
    job: &'a PullJob<'b, 'c, M, T>,
    tile: Tile,
}

impl<M: Similarity, T: Real> Kernel for PullTile<'_, '_, '_, M, T> {
    type Output = Result<()>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        let PullTile { job, tile } = self;
        let mut panels: [PullPanel<T>; 2] = Default::default();
        let mut sums = Vec::new();
        let mut buffer = Vec::new();
        let mut carried = Vec::new();
        for (of, out) in job.out.iter().enumerate() {
            let Some((out, grid)) = out else { continue };
            let rows = tile.rows.min(grid.rows.saturating_sub(tile.row));
            if rows == 0 {
                continue;
            }
            let tile = Tile { rows, ..tile };
            let is_carried = of == 1 && job.is_carried;
            let row = |r: usize| Tile { row: tile.row + r, rows: 1, ..tile };
            job.sum::<S>(of, tile, &mut panels, &mut sums, |sums| {
                for r in (0..tile.rows).filter(|_| is_carried) {
                    let row = out.tile::<f64>(grid, row(r), &mut carried)?;
                    for (so_far, sums) in row.chunks(LANES).zip(of_vector(sums, tile, r)) {
                        sums[..so_far.len()].copy_from_slice(so_far);
                    }
                }
                Ok(())
            })?;
            for r in 0..tile.rows {
                let sums = of_vector(&mut sums, tile, r);
                if is_carried {
                    let row = out.tile::<f64>(grid, row(r), &mut carried)?;
                    for (so_far, sums) in row.chunks_mut(LANES).zip(sums) {
                        so_far.copy_from_slice(&sums[..so_far.len()]);
                    }
                    continue;
                }
                let grads = out.tile::<T>(grid, row(r), &mut buffer)?;
                for (g, sums) in grads.chunks_mut(LANES).zip(sums) {
                    for (g, sum) in g.iter_mut().zip(sums) {
                        *g = T::from_f64(M::FACTOR * *sum * job.factor);
                    }
                }
                out.finish(grid, row(r), &buffer);
            }
        }
        Ok(())
    }
}

/// The sums of the vector `r` of a tile, chunk after chunk.
#[inline(always)]
fn of_vector(
    sums: &mut [[f64; LANES]],
    tile: Tile,
    r: usize,
) -> impl Iterator<Item = &mut [f64; LANES]> {
    let width = tile.cols.div_ceil(LANES);
    let of_group = &mut sums[r / TOGETHER * TOGETHER * width..][..TOGETHER * width];
    of_group[r % TOGETHER..].iter_mut().step_by(TOGETHER)
}

/// A tile of vectors, with whole chunks of elements and whole groups of vectors; what is missing to them is 0. Behind a
/// chunk of all vectors stands the next of all.
#[derive(Default)]
struct PullPanel<T> {
    x: Vec<[T; LANES]>,
    /// Vectors.
    rows: usize,
    /// Chunks of each.
    width: usize,
    /// The first vector, where the panel is filled.
    start: Option<usize>,
    finite: bool,
}

impl<T: Real> PullPanel<T> {
    #[inline(always)]
    fn fill(&mut self, grid: &Grid, view: &View<'_>, tile: Tile) -> Result<()> {
        if self.start == Some(tile.row) {
            return Ok(());
        }
        self.start = Some(tile.row);
        self.rows = tile.rows.next_multiple_of(TOGETHER);
        self.width = tile.cols.div_ceil(LANES);
        memory::grow(&mut self.x, self.rows * self.width, [T::ZERO; LANES])?;
        self.x.truncate(self.rows * self.width);
        let mut buffer = memory::filled(T::ZERO, tile.cols)?;
        for r in 0..self.rows {
            let places = self.x[r..].iter_mut().step_by(self.rows);
            if r >= tile.rows {
                for place in places {
                    *place = [T::ZERO; LANES];
                }
                continue;
            }
            let tile = Tile { row: tile.row + r, rows: 1, ..tile };
            let row = grid.load(view, 0, tile, &mut buffer);
            for (place, chunk) in places.zip(row.chunks(LANES)) {
                if let Some(chunk) = chunk.first_chunk() {
                    *place = *chunk;
                } else {
                    *place = [T::ZERO; LANES];
                    place[..chunk.len()].copy_from_slice(chunk);
                }
            }
        }
        self.finite = all_finite(&self.x);
        Ok(())
    }
}

impl<M: Similarity, T: Real> PullJob<'_, '_, M, T> {
    /// Fills `sums` with the sums of slope times [`Similarity::toward`] over the others, for the own vectors of a tile:
    /// group after group of them, chunk after chunk of a group. They begin at 0, or where `begin` sets them.
    #[inline(always)]
    fn sum<S: Isa>(
        &self,
        of: usize,
        tile: Tile,
        panels: &mut [PullPanel<T>; 2],
        sums: &mut Vec<[f64; LANES]>,
        begin: impl FnOnce(&mut [[f64; LANES]]) -> Result<()>,
    ) -> Result<()> {
        let counts = self.batches.each_ref().map(|batch| batch.shape()[0]);
        let fill = |panel: &mut PullPanel<T>, batch: usize, row: usize| {
            let tile = Tile { row, rows: PULL_TILE.0.min(counts[batch] - row), ..tile };
            panel.fill(&self.grids[batch], &self.batches[batch], tile)
        };
        let [first, second] = panels;
        let (own, others) = if of == 0 { (first, second) } else { (second, first) };
        fill(own, of, tile.row)?;
        let width = own.width;
        sums.clear();
        memory::grow(sums, own.x.len(), [0.0; LANES])?;
        begin(sums)?;
        let mut parts = memory::filled([T::ZERO; LANES], TOGETHER * width)?;
        let mut by_own = [[T::ZERO; VECTORS]; TOGETHER];
        let mut by_other = [[T::ZERO; TOGETHER]; VECTORS];
        for start in (0..counts[1 - of]).step_by(PULL_TILE.0) {
            threads::check()?;
            fill(others, 1 - of, start)?;
            let finite = own.finite && others.finite;
            for (group, sums) in sums.chunks_mut(TOGETHER * width).enumerate() {
                let first = tile.row + group * TOGETHER;
                let add = |slope: T, gap: T, sum: T| slope.mul_add::<S>(gap, sum);
                // A vector that does not count may hold anything.
                let add_counting = |slope: T, gap: T, sum: T| {
                    slope.mul_add::<S>(if slope == T::ZERO { T::ZERO } else { gap }, sum)
                };
                for block in (0..others.rows).step_by(VECTORS) {
                    let pull = Pull { own, others, group, block };
                    if of == 0 {
                        self.slopes(first, start + block, &mut by_own);
                        let slope = |k: usize, m: usize| by_own[k][m];
                        if finite {
                            pull.at_level::<S, M>(slope, add, &mut parts);
                        } else {
                            pull.at_level::<S, M>(slope, add_counting, &mut parts);
                        }
                    } else {
                        self.slopes(start + block, first, &mut by_other);
                        let slope = |k: usize, m: usize| by_other[m][k];
                        if finite {
                            pull.at_level::<S, M>(slope, add, &mut parts);
                        } else {
                            pull.at_level::<S, M>(slope, add_counting, &mut parts);
                        }
                    }
                    let parts = parts.as_flattened();
                    for (sum, part) in sums.as_flattened_mut().iter_mut().zip(parts) {
                        *sum += part.to_f64();
                    }
                }
            }
        }
        Ok(())
    }

    /// Fills a part of the matrix of slopes, with 0 beyond its end.
    #[inline(always)]
    fn slopes<const ROWS: usize, const COLS: usize>(
        &self,
        row: usize,
        col: usize,
        part: &mut [[T; COLS]; ROWS],
    ) {
        let m = self.batches[1].shape()[0];
        let mut rows = self.slopes[row * m..].chunks_exact(m);
        for part in part {
            let slopes = rows.next().map_or(&[][..], |slopes| &slopes[col..]);
            if let Some(slopes) = slopes.first_chunk() {
                *part = *slopes;
            } else {
                *part = [T::ZERO; COLS];
                part[..slopes.len()].copy_from_slice(slopes);
            }
        }
    }
}

#[inline(always)]
fn all_finite<T: Real>(panel: &[[T; LANES]]) -> bool {
    let mut lanes = [T::ZERO; LANES];
    for chunk in panel {
        for l in 0..LANES {
            // 0, or NaN of a number that is not finite.
            lanes[l] += chunk[l] * T::ZERO;
        }
    }
    lanes.iter().all(|lane| !lane.is_nan())
}

/// A group of vectors, and up to [`VECTORS`] others from `block` on that they are pulled to.
struct Pull<'a, T> {
    own: &'a PullPanel<T>,
    others: &'a PullPanel<T>,
    group: usize,
    block: usize,
}

impl<T: Real> Pull<'_, T> {
    /// The sums of slope times [`Similarity::toward`] over the others, for every own vector, a register at a time.
    #[inline(always)]
    fn at_level<S: Isa, M: Similarity>(
        &self,
        slope: impl Fn(usize, usize) -> T,
        add: impl Fn(T, T, T) -> T,
        out: &mut [[T; LANES]],
    ) {
        match S::REGISTER / size_of::<T>() {
            16 => self.sum::<M, 16>(slope, add, out),
            8 => self.sum::<M, 8>(slope, add, out),
            4 => self.sum::<M, 4>(slope, add, out),
            _ => self.sum::<M, 2>(slope, add, out),
        }
    }

    /// The same, `W` elements at a time.
    #[inline(always)]
    fn sum<M: Similarity, const W: usize>(
        &self,
        slope: impl Fn(usize, usize) -> T,
        add: impl Fn(T, T, T) -> T,
        out: &mut [[T; LANES]],
    ) {
        let own = self.own.x.chunks_exact(self.own.rows);
        let others = self.others.x.chunks_exact(self.others.rows);
        for ((own, others), out) in own.zip(others).zip(out.as_chunks_mut::<TOGETHER>().0) {
            let own = &own.as_chunks::<TOGETHER>().0[self.group];
            let others = &others[self.block..];
            let others = &others[..VECTORS.min(others.len())];
            for w in 0..LANES / W {
                let mut from = [[T::ZERO; W]; TOGETHER];
                unrolled!(k in [0, 1, 2, 3, 4, 5, 6, 7] { from[k] = own[k].as_chunks().0[w]; });
                let mut total = [[T::ZERO; W]; TOGETHER];
                for (chain, others) in others.chunks(CHAIN).enumerate() {
                    let mut lanes = [[T::ZERO; W]; TOGETHER];
                    for (m, other) in others.iter().enumerate() {
                        let other = other.as_chunks::<W>().0[w];
                        unrolled!(k in [0, 1, 2, 3, 4, 5, 6, 7] {
                            let slope = slope(k, chain * CHAIN + m);
                            for l in 0..W {
                                let toward = M::toward(from[k][l], other[l]);
                                lanes[k][l] = add(slope, toward, lanes[k][l]);
                            }
                        });
                    }
                    unrolled!(k in [0, 1, 2, 3, 4, 5, 6, 7] {
                        for l in 0..W {
                            total[k][l] += lanes[k][l];
                        }
                    });
                }
                unrolled!(k in [0, 1, 2, 3, 4, 5, 6, 7] {
                    out[k].as_chunks_mut().0[w] = total[k];
                });
            }
        }
    }
}

//! The gradients with respect to the vectors of both batches, in tiles.

use super::LANES;
use crate::array::View;
use crate::array::{Grid, Tile};
use crate::drive::operand::Output;
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::simd::{Isa, Kernel};
use crate::threads;

/// Vectors whose differences a lane adds in a row.
const CHAIN: usize = 16;
/// Vectors whose differences are summed in the type of computation.
const VECTORS: usize = 128;
/// Vectors, and bytes of each, in a tile of gradients.
pub(super) const PULL_TILE: (usize, usize) = (256, 512);
/// Vectors whose gradients are summed together.
const TOGETHER: usize = 8;

pub(super) struct PullJob<'a, 'b, T> {
    pub batches: &'a [View<'b>; 2],
    pub grids: [Grid; 2],
    pub slopes: &'a [T],
    /// What the sums are multiplied by.
    pub factor: f64,
    pub out: [Option<(Output<'a, 'b>, Grid)>; 2],
    pub n: usize,
}

/// A tile of the gradients.
pub(super) struct PullTile<'a, 'b, 'c, T> {
    pub job: &'a PullJob<'b, 'c, T>,
    pub tile: Tile,
}

impl<T: Real> Kernel for PullTile<'_, '_, '_, T> {
    type Output = Result<()>;
    #[inline(always)]
    fn run<S: Isa>(self) -> Result<()> {
        let PullTile { job, tile } = self;
        let mut panels: [PullPanel<T>; 2] = Default::default();
        let mut sums = Vec::new();
        let mut buffer = Vec::new();
        for (of, out) in job.out.iter().enumerate() {
            let Some((out, grid)) = out else { continue };
            job.sum::<S>(of, tile, &mut panels, &mut sums)?;
            for r in 0..tile.rows {
                let sums = &sums[r / TOGETHER * TOGETHER * panels[of].width..][r % TOGETHER..];
                let tile = Tile { row: tile.row + r, rows: 1, ..tile };
                let row = out.tile::<T>(grid, tile, &mut buffer)?;
                for (g, sums) in row.chunks_mut(LANES).zip(sums.iter().step_by(TOGETHER)) {
                    for (g, sum) in g.iter_mut().zip(sums) {
                        *g = T::from_f64(-2.0 * sum * job.factor);
                    }
                }
                out.finish(grid, tile, &buffer);
            }
        }
        Ok(())
    }
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

impl<T: Real> PullJob<'_, '_, T> {
    /// Fills `sums` with the sums of slope (other - own) over the others, for the own vectors of a tile: group after group
    /// of them, chunk after chunk of a group.
    #[inline(always)]
    fn sum<S: Isa>(
        &self,
        of: usize,
        tile: Tile,
        panels: &mut [PullPanel<T>; 2],
        sums: &mut Vec<[f64; LANES]>,
    ) -> Result<()> {
        let fill = |panel: &mut PullPanel<T>, batch: usize, row: usize| {
            let tile = Tile { row, rows: PULL_TILE.0.min(self.n - row), ..tile };
            panel.fill(&self.grids[batch], &self.batches[batch], tile)
        };
        let [first, second] = panels;
        let (own, others) = if of == 0 { (first, second) } else { (second, first) };
        fill(own, of, tile.row)?;
        let width = own.width;
        sums.clear();
        memory::grow(sums, own.x.len(), [0.0; LANES])?;
        let mut parts = memory::filled([T::ZERO; LANES], TOGETHER * width)?;
        let mut by_own = [[T::ZERO; VECTORS]; TOGETHER];
        let mut by_other = [[T::ZERO; TOGETHER]; VECTORS];
        for start in (0..self.n).step_by(PULL_TILE.0) {
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
                            pull.at_level::<S>(slope, add, &mut parts);
                        } else {
                            pull.at_level::<S>(slope, add_counting, &mut parts);
                        }
                    } else {
                        self.slopes(start + block, first, &mut by_other);
                        let slope = |k: usize, m: usize| by_other[m][k];
                        if finite {
                            pull.at_level::<S>(slope, add, &mut parts);
                        } else {
                            pull.at_level::<S>(slope, add_counting, &mut parts);
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
        let mut rows = self.slopes[row * self.n..].chunks_exact(self.n);
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
    /// The sums of slope (other - own) over the others, for every own vector, a register at a time.
    #[inline(always)]
    fn at_level<S: Isa>(
        &self,
        slope: impl Fn(usize, usize) -> T,
        add: impl Fn(T, T, T) -> T,
        out: &mut [[T; LANES]],
    ) {
        match S::REGISTER / size_of::<T>() {
            16 => self.sum::<16>(slope, add, out),
            8 => self.sum::<8>(slope, add, out),
            4 => self.sum::<4>(slope, add, out),
            _ => self.sum::<2>(slope, add, out),
        }
    }

    /// The same, `W` elements at a time.
    #[inline(always)]
    fn sum<const W: usize>(
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
                                lanes[k][l] = add(slope, other[l] - from[k][l], lanes[k][l]);
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

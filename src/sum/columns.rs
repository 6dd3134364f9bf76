//! Sums of columns side by side, all columns of a row at once, each in the order of the sum of one row.

use super::{BLOCK, ExactSum, PairwiseSum};
use crate::error::Result;
use crate::memory;
use crate::num::Float;
use crate::simd::{self, Isa, Kernel, Level, SUM_LANES};
use std::{hint, slice};

/// The sums of columns, each in the order of [`super::sum_block`] or [`super::sum_block_exactly`]; or a part of their lanes,
/// so that several threads can share the rows. [`ColumnSums::join`] makes the sums of all lanes.
#[derive(Default)]
pub struct ColumnSums {
    cols: usize,
    /// Rows that have been added.
    rows: usize,
    /// The number of lanes of this part.
    here: usize,
    /// Rows of this part that fill its lanes, all of them equally often; rows behind these are added one by one.
    chunked: usize,
    /// Whether what additions round off is put back.
    exact: bool,
    /// Lane by lane, all columns of each.
    lanes: Vec<f64>,
    /// What the additions have rounded off.
    lost: Vec<f64>,
    /// The sums of the rows behind [`Self::chunked`], unless these are exact: then they go on in the first lane.
    rest: Vec<f64>,
}

impl ColumnSums {
    /// Begins with the first of at most [`BLOCK`] rows.
    pub fn start(&mut self, rows: usize, cols: usize, exact: bool) -> Result<()> {
        self.start_part(rows, cols, exact, 1)
    }

    /// Begins with the first row of one of several `parts`, whose number is a power of two and divides [`SUM_LANES`]. Row r
    /// is in lane r mod [`SUM_LANES`], and a part has as many lanes, one behind another, as any other. The last rows, which
    /// do not fill all lanes, are added after [`ColumnSums::join`].
    pub fn start_part(
        &mut self,
        rows: usize,
        cols: usize,
        exact: bool,
        parts: usize,
    ) -> Result<()> {
        (self.rows, self.cols, self.exact) = (0, cols, exact);
        self.here = SUM_LANES / parts;
        self.chunked = rows / SUM_LANES * self.here;
        let lanes = if self.chunked > 0 { self.here } else { 1 };
        memory::grow(&mut self.lanes, lanes * cols, 0.0)?;
        memory::grow(&mut self.lost, if exact { lanes * cols } else { 0 }, 0.0)?;
        memory::grow(&mut self.rest, if exact { 0 } else { cols }, 0.0)?;
        if !exact {
            self.rest[..cols].fill(0.0);
        } else if self.chunked == 0 {
            self.lanes[..cols].fill(0.0);
            self.lost[..cols].fill(0.0);
        }
        Ok(())
    }

    /// The next rows. Their number divides that of the lanes that are here, but for the last ones.
    pub fn add<S: Isa, T: Float>(&mut self, x: &[T]) {
        simd::dispatch(S::LEVEL, AddRows { sums: self, x });
    }

    /// Makes the first of all parts the sums of all lanes. Each has all its rows but the last ones, that fill no lanes.
    pub fn join(level: Level, parts: &mut [Self]) {
        debug_assert!(parts.iter().all(|part| part.rows == part.chunked));
        simd::dispatch(level, Join { parts });
    }

    /// The sum of a column, once all rows are there.
    pub fn total(&self, col: usize) -> f64 {
        if self.exact {
            return ExactSum { sum: self.lanes[col], lost: self.lost[col] }.total();
        }
        let rest = self.rest[col];
        if self.chunked > 0 { self.lanes[col] + rest } else { rest }
    }
}

/// [`ColumnSums::join`].
struct Join<'a> {
    parts: &'a mut [ColumnSums],
}

impl Kernel for Join<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let (mut lanes, mut lost) = (Lanes::default(), Lanes::default());
        for (p, part) in self.parts.iter_mut().enumerate() {
            let (len, first) = (part.here * part.cols, p * part.here);
            if part.chunked > 0 {
                place(&mut lanes[first..], part.lanes[..len].chunks_exact_mut(part.cols));
            }
            if part.chunked > 0 && part.exact {
                place(&mut lost[first..], part.lost[..len].chunks_exact_mut(part.cols));
            }
        }
        fold_lanes(&mut lost, None);
        let [lost, ..] = lost;
        fold_lanes(&mut lanes, (!lost.is_empty()).then_some(lost));
    }
}

/// The columns of each lane.
type Lanes<'a> = [&'a mut [f64]; SUM_LANES];

fn place<'a>(lanes: &mut [&'a mut [f64]], given: impl Iterator<Item = &'a mut [f64]>) {
    for (lane, given) in lanes.iter_mut().zip(given) {
        *lane = given;
    }
}

/// Adds lanes to the first of them in the order of [`simd::add_lanes`], all columns at once, as the lanes of one column may
/// lie pages apart; and what that rounds off to `lost`, which makes it the order of [`simd::add_lanes_exactly`].
#[inline(always)]
pub fn fold_lanes<L: AsMut<[f64]>>(lanes: &mut [L; SUM_LANES], mut lost: Option<&mut [f64]>) {
    // If it knew this number, the compiler would write the loops out, ten times as long.
    let mut half = hint::black_box(SUM_LANES / 2);
    while half > 0 {
        let (low, high) = lanes[..2 * half].split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            add_each(low.as_mut(), high.as_mut(), lost.as_deref_mut());
        }
        half /= 2;
    }
}

/// [`ColumnSums::add`].
struct AddRows<'a, T> {
    sums: &'a mut ColumnSums,
    x: &'a [T],
}

impl<T: Float> Kernel for AddRows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Isa>(self) {
        let AddRows { sums, x } = self;
        let row = sums.rows;
        sums.rows += x.len() / sums.cols;
        if row >= sums.chunked {
            for x in x.chunks_exact(sums.cols) {
                let kept = if sums.exact { &mut sums.lanes } else { &mut sums.rest };
                add_each(kept, x, sums.exact.then_some(&mut sums.lost));
            }
            return;
        }
        let lanes = row % sums.here * sums.cols..;
        if row < sums.here {
            // The first of each lane: what stood there before does not count.
            for (sum, x) in sums.lanes[lanes.clone()].iter_mut().zip(x) {
                *sum = 0.0 + x.to_f64();
            }
            if sums.exact {
                sums.lost[lanes][..x.len()].fill(0.0);
            }
        } else {
            let lost = sums.exact.then(|| &mut sums.lost[lanes.clone()]);
            add_each(&mut sums.lanes[lanes], x, lost);
        }
        if sums.rows == sums.chunked && sums.here == SUM_LANES {
            ColumnSums::join(S::LEVEL, slice::from_mut(sums));
        }
    }
}

/// Adds a number to each sum, and what that rounds off to `lost`.
#[inline(always)]
pub fn add_each<T: Float>(sums: &mut [f64], x: &[T], lost: Option<&mut [f64]>) {
    let sums = sums.iter_mut().zip(x);
    let Some(lost) = lost else { return sums.for_each(|(sum, x)| *sum += x.to_f64()) };
    for ((sum, x), lost) in sums.zip(lost) {
        let (old, x) = (*sum, x.to_f64());
        *sum = old + x;
        *lost += f64::lost(old, x, *sum);
    }
}

/// The sums of columns of any length side by side, each in the order of [`super::sum`] or [`super::sum_exactly`].
#[derive(Default)]
pub struct LongColumnSums {
    /// Rows in all, and so far.
    len: usize,
    rows: usize,
    cols: usize,
    exact: bool,
    block: ColumnSums,
    /// The sums of the blocks, where there are several.
    blocks: Vec<PairwiseSum>,
}

impl LongColumnSums {
    /// Begins with the first of `len` rows.
    pub fn start(&mut self, len: usize, cols: usize, exact: bool) -> Result<()> {
        (self.len, self.rows, self.cols, self.exact) = (len, 0, cols, exact);
        let several = if len > BLOCK { cols } else { 0 };
        self.blocks = memory::collect((0..several).map(|_| PairwiseSum::default()))?;
        self.block.start(len.min(BLOCK), cols, exact)
    }

    /// The next row.
    pub fn add<S: Isa, T: Float>(&mut self, x: &[T]) -> Result<()> {
        self.block.add::<S, T>(x);
        self.rows += 1;
        if self.rows.is_multiple_of(BLOCK) || self.rows == self.len {
            for (c, sum) in self.blocks.iter_mut().enumerate() {
                sum.add(self.block.total(c));
            }
            if self.rows < self.len {
                self.block.start(BLOCK.min(self.len - self.rows), self.cols, self.exact)?;
            }
        }
        Ok(())
    }

    /// The sum of a column, once all rows are there.
    pub fn total(&self, col: usize) -> f64 {
        self.blocks.get(col).map_or_else(|| self.block.total(col), PairwiseSum::total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Baseline;
    use crate::sum::{sum_block, sum_block_exactly};

    #[test]
    fn columns_are_summed_as_rows_are() {
        // One room for sums of other sizes one after another: nothing of those before may be left.
        let mut sums = ColumnSums::default();
        sums.start(BLOCK, 5, true).unwrap();
        sums.add::<Baseline, _>(&vec![f64::NAN; BLOCK * 5 / 32]);
        for rows in [1, 100, 5, 31, BLOCK, 32, 33, 40] {
            for (exact, cols) in [(false, 3), (true, 2), (true, 5), (false, 4)] {
                let column = |c: usize| (0..rows).map(move |r| 1.0 / (3 * r + 7 * c + 1) as f64);
                sums.start(rows, cols, exact).unwrap();
                for first in (0..rows).step_by(8) {
                    let part = first..rows.min(first + 8);
                    let x: Vec<f64> = part
                        .flat_map(|r| (0..cols).map(move |c| column(c).nth(r).unwrap()))
                        .collect();
                    sums.add::<Baseline, _>(&x);
                }
                for c in 0..cols {
                    let x: Vec<f64> = column(c).collect();
                    let expected = if exact {
                        sum_block_exactly::<Baseline, _>(&x)
                    } else {
                        sum_block::<Baseline, _>(&x)
                    };
                    assert_eq!(sums.total(c).to_bits(), expected.to_bits(), "{rows}, {exact}");
                }
            }
        }
        sums.start(0, 3, false).unwrap();
        assert_eq!([0, 1, 2].map(|c| sums.total(c)), [0.0; 3]);
    }

    #[test]
    fn parts_make_the_sums_of_the_whole() {
        let (cols, level) = (3, Baseline::LEVEL);
        for rows in [5, 32, 64, 100, 1000, BLOCK] {
            let x: Vec<f64> = (0..rows * cols).map(|i| 1.0 / (7 * i + 1) as f64).collect();
            let row = |r: usize| &x[r * cols..][..cols];
            for (exact, parts) in [(false, 2), (true, 2), (false, 4), (true, 8)] {
                let mut whole = ColumnSums::default();
                whole.start(rows, cols, exact).unwrap();
                (0..rows).for_each(|r| whole.add::<Baseline, _>(row(r)));
                let (lanes, chunked) = (SUM_LANES / parts, rows - rows % SUM_LANES);
                let of_part = |part: usize| {
                    let mut sums = ColumnSums::default();
                    sums.start_part(rows, cols, exact, parts).unwrap();
                    let own = (0..chunked).filter(|r| r % SUM_LANES / lanes == part);
                    own.for_each(|r| sums.add::<Baseline, _>(row(r)));
                    sums
                };
                let mut all: Vec<_> = (0..parts).map(of_part).collect();
                ColumnSums::join(level, &mut all);
                (chunked..rows).for_each(|r| all[0].add::<Baseline, _>(row(r)));
                for c in 0..cols {
                    assert_eq!(all[0].total(c).to_bits(), whole.total(c).to_bits(), "{rows}");
                }
            }
        }
    }
}

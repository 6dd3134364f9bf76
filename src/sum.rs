//! Sums: lane by lane within a block, exact or pairwise across blocks, in an order that the length alone decides.

use crate::error::Result;
use crate::memory;
use crate::num::DType;
use crate::num::Float;
use crate::simd::{self, Isa, Kernel, Level, SUM_LANES, add_lanes};
use std::{hint, slice};

/// Longest run that is summed at once; longer ones are summed from the sums of their blocks.
pub const BLOCK: usize = 1024;

/// Sum of at most [`BLOCK`] numbers, in f64. The order is a function of the length alone.
#[inline(always)]
pub fn sum_block<S: Isa, T: Float>(x: &[T]) -> f64 {
    if x.len() < SUM_LANES { sum_in_order(x) } else { sum_lanes::<S, T>(x) }
}

#[inline(always)]
fn sum_in_order<T: Float>(x: &[T]) -> f64 {
    x.iter().fold(0.0, |sum, v| sum + v.to_f64())
}

#[inline(never)]
fn sum_lanes<S: Isa, T: Float>(x: &[T]) -> f64 {
    let (chunks, rest) = x.as_chunks();
    T::sum_chunks::<S>(chunks) + sum_in_order(rest)
}

/// [`sum_block`] with what its additions round off put back, so that equal numbers, which all round the same way, do
/// not drift.
#[inline(always)]
pub fn sum_block_exactly<S: Isa, T: Float>(x: &[T]) -> f64 {
    // An f64 has room for what a sum of so few f32 would round off.
    if T::DTYPE == DType::F32 {
        sum_block::<S, T>(x)
    } else if x.len() < SUM_LANES {
        ExactSum::default().and_all(x)
    } else {
        sum_lanes_exactly::<S, T>(x)
    }
}

#[inline(never)]
fn sum_lanes_exactly<S: Isa, T: Float>(x: &[T]) -> f64 {
    let (chunks, rest) = x.as_chunks();
    let (sum, lost) = T::sum_chunks_and_lost::<S>(chunks);
    ExactSum { sum, lost }.and_all(rest)
}

/// [`sum_block`] of the products of `f32` with factors, each in f64; a factor of 0 leaves nothing.
#[inline(always)]
pub fn sum_block_of_products<T: Float, F: Float>(x: &[T], factors: &[F]) -> f64 {
    let product = |x: &T, factor: &F| x.to_f64().weighted(factor.to_f64());
    let (chunks, rest) = x.as_chunks::<SUM_LANES>();
    let (of_chunks, of_rest) = factors.as_chunks::<SUM_LANES>();
    let mut lanes = [0.0; SUM_LANES];
    for (x, factors) in chunks.iter().zip(of_chunks) {
        for l in 0..SUM_LANES {
            lanes[l] += product(&x[l], &factors[l]);
        }
    }
    let rest = rest.iter().zip(of_rest).fold(0.0, |sum, (x, factor)| sum + product(x, factor));
    if chunks.is_empty() { rest } else { add_lanes(lanes) + rest }
}

/// Sum of any number of numbers: blocks, then pairwise.
#[inline(never)]
pub fn sum<S: Isa, T: Float>(x: &[T]) -> f64 {
    if x.len() <= BLOCK { sum_block::<S, T>(x) } else { sum_blocks(x, sum_block::<S, T>) }
}

/// [`sum`] by [`sum_block_exactly`].
#[inline(never)]
pub fn sum_exactly<S: Isa, T: Float>(x: &[T]) -> f64 {
    if x.len() <= BLOCK {
        sum_block_exactly::<S, T>(x)
    } else {
        sum_blocks(x, sum_block_exactly::<S, T>)
    }
}

#[inline(never)]
fn sum_blocks<T>(x: &[T], of_block: fn(&[T]) -> f64) -> f64 {
    let mut sum = PairwiseSum::default();
    for block in x.chunks(BLOCK) {
        sum.add(of_block(block));
    }
    sum.total()
}

/// The pairwise sum of numbers that come one after another: of the first half, the largest power of 2 below their number,
/// and of the rest.
pub struct PairwiseSum {
    /// The sums of whole subtrees: where bit i of `count` is set, of 2^i numbers.
    subtrees: [f64; usize::BITS as usize],
    count: usize,
}

impl Default for PairwiseSum {
    fn default() -> Self {
        PairwiseSum { subtrees: [0.0; usize::BITS as usize], count: 0 }
    }
}

impl PairwiseSum {
    /// The next number.
    #[inline(never)]
    pub fn add(&mut self, mut x: f64) {
        let full = self.count.trailing_ones() as usize;
        for subtree in &self.subtrees[..full] {
            x += subtree;
        }
        self.subtrees[full] = x;
        self.count += 1;
    }

    /// The sum.
    #[inline(never)]
    pub fn total(&self) -> f64 {
        let subtrees = self.subtrees.iter().enumerate().filter(|(i, _)| self.count >> i & 1 == 1);
        subtrees.map(|(_, subtree)| *subtree).reduce(|low, high| high + low).unwrap_or(0.0)
    }
}

/// A sum that keeps what its additions round off: of any number of numbers within an ulp of the sum of their sizes.
#[derive(Clone, Copy, Default)]
pub struct ExactSum {
    sum: f64,
    lost: f64,
}

impl ExactSum {
    /// The next number.
    #[inline(always)]
    pub fn add(&mut self, x: f64) {
        let new = self.sum + x;
        let added = new - self.sum;
        self.lost += (self.sum - (new - added)) + (x - added);
        self.sum = new;
    }

    /// The sum with some more numbers.
    #[inline(always)]
    fn and_all<T: Float>(mut self, x: &[T]) -> f64 {
        for x in x {
            self.add(x.to_f64());
        }
        self.total()
    }

    /// The sum.
    #[inline(always)]
    pub fn total(&self) -> f64 {
        // Infinities leave a NaN there.
        if self.lost.is_nan() { self.sum } else { self.sum + self.lost }
    }
}

/// The sums of columns side by side, each in the order of [`sum_block`] or [`sum_block_exactly`]; or some lanes of them, so
/// that several threads can share a block. [`ColumnSums::join`] makes the sums of all lanes.
#[derive(Default)]
pub struct ColumnSums {
    cols: usize,
    /// Rows so far.
    rows: usize,
    /// How many of the lanes are here.
    here: usize,
    /// Of the rows that are here those that fill all lanes several times over; what follows is added one by one.
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

    /// Begins with the first of the rows of one of several `parts`, a power of two. Those of part p have it as the p-th of as
    /// many equal ranges of their number modulo [`SUM_LANES`]; what does not fill all lanes comes after [`ColumnSums::join`].
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

    /// Makes the first of all parts, which have all their rows, the sums of all lanes.
    pub fn join(level: Level, parts: &mut [Self]) {
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
        fold_columns(&mut lost, &mut []);
        let [lost, ..] = lost;
        fold_columns(&mut lanes, lost);
    }
}

/// The columns of each lane.
type Lanes<'a> = [&'a mut [f64]; SUM_LANES];

fn place<'a>(lanes: &mut [&'a mut [f64]], given: impl Iterator<Item = &'a mut [f64]>) {
    for (lane, given) in lanes.iter_mut().zip(given) {
        *lane = given;
    }
}

/// Adds lanes to the first of them in the order of [`add_lanes`] or [`simd::add_lanes_exactly`](crate::simd::add_lanes_exactly),
/// all columns at once: the lanes of one column lie pages apart.
#[inline(always)]
fn fold_columns(lanes: &mut Lanes<'_>, lost: &mut [f64]) {
    // If it knew this number, the compiler would write the loops out, ten times as long.
    let mut half = hint::black_box(SUM_LANES / 2);
    while half > 0 {
        let (low, high) = lanes[..2 * half].split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            add_each(low, high, (!lost.is_empty()).then_some(&mut *lost));
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

/// Adds lanes of `len` numbers each, one behind another, to the first of them, in the order of [`add_lanes`].
#[inline(always)]
pub fn fold_lanes(lanes: &mut [f64], len: usize) {
    let mut half = lanes.len() / len / 2;
    while half > 0 {
        let (low, high) = lanes.split_at_mut(half * len);
        for (sum, x) in low.iter_mut().zip(high) {
            *sum += *x;
        }
        half /= 2;
    }
}

/// The sums of columns of any length side by side, each in the order of [`sum`] or [`sum_exactly`].
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

/// A [`PairwiseSum`] of the sums of the blocks of a row, which costs a row of one block nothing.
pub struct BlockSum {
    only: f64,
    several: Option<PairwiseSum>,
}

impl BlockSum {
    /// For a row of this many elements.
    #[inline(always)]
    pub fn new(len: usize) -> Self {
        BlockSum { only: 0.0, several: (len > BLOCK).then(PairwiseSum::default) }
    }

    /// The sum of the next block.
    #[inline(always)]
    pub fn add(&mut self, sum: f64) {
        match &mut self.several {
            None => self.only = sum,
            Some(several) => several.add(sum),
        }
    }

    /// The sum.
    #[inline(always)]
    pub fn total(&self) -> f64 {
        self.several.as_ref().map_or(self.only, PairwiseSum::total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Baseline;
    use std::ops::Range;

    /// Pairwise sum of `x(i)` over a range.
    fn sum_pairwise(range: Range<usize>, x: &impl Fn(usize) -> f64) -> f64 {
        match range.len() {
            0 => 0.0,
            1 => x(range.start),
            n => {
                let middle = range.start + n.next_power_of_two() / 2;
                sum_pairwise(range.start..middle, x) + sum_pairwise(middle..range.end, x)
            }
        }
    }

    #[test]
    fn sums() {
        for n in [0, 1, 5, 31, 32, 33, 65, 1000, BLOCK] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(sum_block::<Baseline, _>(&x), (n * n.saturating_sub(1) / 2) as f64);
            let x: Vec<f64> = x.iter().map(|&v| v.into()).collect();
            assert_eq!(sum_pairwise(0..n, &|i| x[i]), (n * n.saturating_sub(1) / 2) as f64);
            let thirds = |i: usize| x[i] / 3.0;
            let mut streamed = PairwiseSum::default();
            (0..n).for_each(|i| streamed.add(thirds(i)));
            assert_eq!(streamed.total(), sum_pairwise(0..n, &thirds));
        }
    }

    #[test]
    fn products_are_summed_as_if_they_were_stored() {
        for n in [0, 1, 31, 32, 33, 100, BLOCK] {
            let mut x: Vec<f32> = (0..n).map(|i| 1.0 / (3 * i + 1) as f32).collect();
            let mut factors: Vec<f32> = (0..n).map(|i| ((i * 7919) % 997) as f32).collect();
            if n > 1 {
                (x[1], factors[1]) = (f32::INFINITY, 0.0);
            }
            let products = x.iter().zip(&factors).map(|(&x, &w)| f64::from(x).weighted(w.into()));
            let products: Vec<f64> = products.collect();
            let expected = sum_block::<Baseline, _>(&products);
            assert_eq!(sum_block_of_products(&x, &factors).to_bits(), expected.to_bits(), "{n}");
        }
    }

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

//! Sums: lane by lane within a block, exact or pairwise across blocks, in an order that the length alone decides.

mod columns;

pub use columns::{ColumnSums, LongColumnSums, add_each, fold_lanes};

use crate::num::DType;
use crate::num::Float;
use crate::simd::{Isa, SUM_LANES, add_lanes};

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
}

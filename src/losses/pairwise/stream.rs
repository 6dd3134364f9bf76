//! A call block by block of rows: one matrix of slopes serves all blocks.

use super::gradients::Gradients;
use super::kernel::{BlockOfPairs, PairRows, Pairs, RowBlocks};
use super::marks::Marks;
use crate::array::ViewMut;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::math::Real;
use crate::scratch::Reusable;
use crate::simd::Level;
use std::ops::Range;

/// Memory of a call.
#[derive(Default)]
pub struct StreamRoom<T> {
    /// The slopes of a block.
    pub slopes: Buffer<T>,
    /// The vectors of both batches at length 1.
    pub units: [Buffer<T>; 2],
}

impl<T: Real> Reusable for StreamRoom<T> {
    fn bytes(&self) -> usize {
        let StreamRoom { slopes, units: [first, second] } = self;
        slopes.bytes() + first.bytes() + second.bytes()
    }
}

/// What goes from block to block.
pub struct Stream<'p, 'v, 'g, T> {
    pairs: &'p Pairs<'v>,
    /// The blocks of rows.
    pub blocks: RowBlocks,
    /// Of a block.
    slopes: &'p mut [T],
    marks: Option<Marks>,
    gradients: Gradients<'g>,
    /// Whether any gradient is wanted.
    pub derives: bool,
}

impl<'p, 'v, 'g, T: Real> Stream<'p, 'v, 'g, T> {
    /// Of gradients with the batch axis first. `slopes` has room for those of a block, if these or similarities are kept.
    pub fn new(
        pairs: &'p Pairs<'v>,
        blocks: RowBlocks,
        grads: [Option<ViewMut<'g>>; 2],
        slopes: &'p mut [T],
    ) -> Result<Self> {
        let derives = grads.iter().any(Option::is_some);
        let [_, m, _] = pairs.shape();
        let marks = derives && pairs.similarity.cancels();
        let marks = marks.then(|| Marks::new(blocks.most(), m)).transpose()?;
        let gradients = Gradients::new(pairs, grads, blocks.several())?;
        Ok(Stream { pairs, blocks, slopes, marks, gradients, derives })
    }

    /// The instruction set and the number of vectors of the second batch.
    pub fn kind(&self) -> (Level, usize) {
        (self.pairs.level, self.pairs.shape()[1])
    }

    /// Computes the similarities of a block, for a kernel that writes its slopes over them.
    pub fn similarities(&mut self, rows: Range<usize>) -> Result<&[T]> {
        let [_, m, _] = self.pairs.shape();
        let out = &mut self.slopes[..rows.len() * m];
        self.pairs.similarities(rows, out)?;
        Ok(out)
    }

    /// Runs `kernel` over a block, and adds its part of the gradients, but for a factor.
    pub fn run(
        &mut self,
        kernel: &dyn PairRows<T>,
        rows: Range<usize>,
        outputs: BlockOfPairs<'_, T>,
        factor: f64,
    ) -> Result<()> {
        let Stream { pairs, derives, ref mut slopes, ref marks, ref mut gradients, .. } = *self;
        let [_, m, _] = pairs.shape();
        let mut slopes = slopes.get_mut(..rows.len() * m);
        let marks = marks.as_ref();
        let outputs = BlockOfPairs { slopes: slopes.as_deref_mut(), derives, marks, ..outputs };
        pairs.rows(Some(kernel), rows.clone(), outputs)?;
        let slopes = slopes.as_deref().unwrap_or_default();
        if derives { gradients.add(pairs, rows, slopes, marks, factor) } else { Ok(()) }
    }

    /// Finishes the gradients, with the factor of all blocks.
    pub fn finish(self, factor: f64) -> Result<()> {
        self.gradients.finish::<T>(self.pairs, factor)
    }
}

//! Blocks: consecutive frames over which the exponents of [`Linear`](super::linear::Linear) stay the same.

use super::Side;
use crate::error::Result;
use crate::memory;
use std::ops::Range;

/// Bits that exponents let mantissas grow by in a block. With a bit and a half for each of the sums, and 1 for the start,
/// no mantissa exceeds 2^506, and products of two of them are finite.
const GROWTH: f64 = 448.0;
/// Bits that mantissas may fall by in a block of several frames.
const FALL: f64 = 256.0;
/// What a frame counts as, in bits, to be a block of its own. That it must be where an emission is 0: all that is said of
/// what mantissas become in a block holds for those that do not fall to nothing in the middle of it.
pub(super) const ALONE: f64 = FALL + 1.0;
/// Frames of a block.
pub(super) const FRAMES: usize = 32;
/// Emissions may lie so many bits below 1.
pub(super) const DEEPEST: f64 = 600.0;
/// What mantissas keep above the smallest normal number.
const MARGIN: f64 = 1000.0;
/// In a block of one frame, where emissions may fall deeper, exponents stay closer together.
const GROWTH_OF_ONE: f64 = 240.0;
/// The lowest floor.
const FLOOR: f64 = 700.0;

/// Consecutive frames that are computed in one go.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    pub frames: Range<usize>,
    /// How far, in bits, emissions can make a mantissa fall over all its frames.
    pub fall: f64,
}

/// Cuts frames of a side into blocks, in the order of that side; the smallest emission of frame t lies `bits(t)` below 1.
#[allow(clippy::disallowed_methods, reason = "room is reserved first")]
pub(super) fn cut(
    side: Side,
    frames: &Range<usize>,
    bits: impl Fn(usize) -> f64,
    blocks: &mut Vec<Block>,
) -> Result<()> {
    blocks.clear();
    let mut fall = f64::INFINITY;
    for i in 0..frames.len() {
        let t = side.nth(frames, i);
        fall += bits(t);
        match blocks.last_mut() {
            Some(block) if fall <= FALL && block.frames.len() < FRAMES => {
                block.frames = block.frames.start.min(t)..block.frames.end.max(t + 1);
                block.fall = fall;
            }
            _ => {
                fall = bits(t);
                if blocks.len() == blocks.capacity() {
                    memory::reserve(blocks, blocks.len().max(FRAMES))?;
                }
                blocks.push(Block { frames: t..t + 1, fall });
            }
        }
    }
    Ok(())
}

impl Block {
    /// How far an exponent may lie below one that feeds it.
    pub fn growth(&self) -> f64 {
        let frames = self.frames.len() as f64;
        if frames > 1.0 { (GROWTH / frames).floor() } else { GROWTH_OF_ONE }
    }

    /// Mantissas at the start are at least 2 to minus this, and therefore normal at the end.
    pub fn floor(&self) -> f64 {
        FLOOR.min(MARGIN - self.fall)
    }
}

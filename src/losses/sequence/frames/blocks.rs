//! Blocks: consecutive frames that are computed in one go.
//!
//! An arithmetic of plain numbers whose exponents are set once a block ("block floating point") limits how long a block
//! may be: emissions make the mantissas fall, and sums over paths make them grow, and in between they must neither
//! vanish nor overflow. The limits are in bits, that is, in powers of 2:
//!
//! ```text
//!  2^506   no mantissa exceeds this: GROWTH, a bit and a half for each sum of a frame, and 1 for the start
//!  1       the largest mantissas at the start of a block
//!  2^-700  FLOOR: smaller mantissas are raised to it at the start of a block
//!  2^-956  FLOOR and FALL: as far as emissions can make such a mantissa fall by the end of the block
//!  2^-1022 the smallest normal number
//! ```

use super::Direction;
use crate::error::Result;
use crate::memory;
use std::ops::Range;

/// Bits by which mantissas may grow in a block because the exponents of neighbouring states differ. The product of two
/// mantissas is finite.
const GROWTH: f64 = 448.0;
/// Bits by which the emissions may make mantissas fall in a block of several frames.
const FALL: f64 = 256.0;
/// The bits of a frame that has to be a block by itself, as a frame does in which an emission is 0: the bounds above
/// hold for mantissas that do not become 0 in the middle of a block.
pub const ALONE: f64 = FALL + 1.0;
/// The most frames of a block.
pub const BLOCK_FRAMES: usize = 32;
/// The most bits by which an emission may lie below 1 in any block.
pub const DEEPEST: f64 = 600.0;
/// The exponent, without its sign, that mantissas keep above to the end of a block, 22 bits above the smallest normal
/// number.
const LOWEST: f64 = 1000.0;
/// As [`GROWTH`] for a block of one frame, whose emissions may fall further: there the exponents stay closer together.
const GROWTH_OF_ONE: f64 = 240.0;
/// Mantissas at the start of a block are at least 2 to minus this.
const FLOOR: f64 = 700.0;

/// Consecutive frames that are computed in one go.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    pub frames: Range<usize>,
    /// The bits by which the emissions of all its frames can make a mantissa fall.
    pub fall: f64,
}

/// Cuts frames into blocks, in the order of a direction; the smallest emission of frame t lies `bits(t)` below 1.
#[expect(clippy::disallowed_methods, reason = "room is reserved first")]
pub fn cut(
    direction: Direction,
    frames: &Range<usize>,
    bits: impl Fn(usize) -> f64,
    blocks: &mut Vec<Block>,
) -> Result<()> {
    blocks.clear();
    let mut fall = f64::INFINITY;
    for i in 0..frames.len() {
        let t = direction.nth(frames, i);
        fall += bits(t);
        match blocks.last_mut() {
            Some(block) if fall <= FALL && block.frames.len() < BLOCK_FRAMES => {
                block.frames = block.frames.start.min(t)..block.frames.end.max(t + 1);
                block.fall = fall;
            }
            _ => {
                fall = bits(t);
                if blocks.len() == blocks.capacity() {
                    memory::reserve(blocks, blocks.len().max(BLOCK_FRAMES))?;
                }
                blocks.push(Block { frames: t..t + 1, fall });
            }
        }
    }
    Ok(())
}

impl Block {
    /// The bits by which the exponent of a state may lie below the exponent of a state that leads to it.
    pub fn growth(&self) -> f64 {
        let frames = self.frames.len() as f64;
        if frames > 1.0 { (GROWTH / frames).floor() } else { GROWTH_OF_ONE }
    }

    /// Mantissas at the start of the block are at least 2 to minus this, and therefore normal numbers at its end.
    pub fn floor(&self) -> f64 {
        FLOOR.min(LOWEST - self.fall)
    }
}

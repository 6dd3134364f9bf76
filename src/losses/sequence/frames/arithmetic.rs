//! The interface of a lattice: its states, and how sums over paths are represented and computed.
//!
//! A *state row* is one number, of whatever representation, for each state at one frame: the sum of the probabilities
//! of all paths from the end of the utterance where a direction starts up to this state. Here state rows are slices of
//! `f64` that only their arithmetic can read.

use super::Direction;
use super::blocks::Block;
use super::emissions::{EmissionForm, Frame};
use crate::error::Result;
use crate::scratch::Reusable;
use crate::simd::Level;
use std::f64::consts::LN_2;

/// The states of a sample's lattice.
pub trait Topology: Sync {
    /// Buffers that a direction needs for its steps.
    type Buffers: StepBuffers<Self>;

    /// How many frames.
    fn frames(&self) -> usize;
    /// Numbers of an emission row.
    fn emission_stride(&self) -> usize;
    /// Numbers of a row of occupancies: one for each state, and padding.
    fn occupancy_len(&self) -> usize;
}

/// Buffers that a direction uses again from sample to sample.
pub trait StepBuffers<T: ?Sized>: Reusable + Send {
    /// Makes room for a target whose states take `state_len` numbers a frame.
    fn fit(&mut self, target: &T, state_len: usize) -> Result<()>;
}

/// Which paths a direction's state row may have lost to the limits of its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// None; all numbers are right up to rounding.
    Full,
    /// None, but some numbers were raised to the least one that can be represented.
    Raised,
    /// Some path may be lost: a number may be 0 where there is a path.
    Lossy,
}

impl Precision {
    /// Whether no path is lost, so that there is none where a number is 0.
    pub fn has_all_paths(self) -> bool {
        self < Precision::Lossy
    }
}

/// The sum over all paths, from the state rows of both directions at the middle.
#[derive(Clone, Copy, Debug)]
pub struct MidpointLikelihood {
    /// The likelihood is `total * 2^scale`.
    pub scale: f64,
    pub total: f64,
    /// The logarithm of the likelihood.
    pub log: f64,
}

impl MidpointLikelihood {
    pub fn new(scale: f64, total: f64) -> Self {
        MidpointLikelihood { scale, total, log: total.ln() + scale * LN_2 }
    }
}

/// One block, which a direction goes through on its own half.
pub struct AdvanceArgs<'a, T: Topology> {
    pub direction: Direction,
    pub target: &'a T,
    pub block: &'a Block,
    /// The emission rows of the block, first frame first.
    pub e: &'a [f64],
    /// The state row at the frame before the block; it becomes the one at the block's last frame.
    pub state: &'a mut [f64],
    pub buffers: &'a mut T::Buffers,
    /// Where the rows of all frames go, if they are stored.
    pub store: Option<&'a mut [f64]>,
}

/// The step over the middle, where a direction meets the opposite one.
pub struct MeetArgs<'a, T: Topology> {
    pub direction: Direction,
    pub target: &'a T,
    /// The last state row of the opposite direction.
    pub opposite: &'a [f64],
    pub opposite_precision: Precision,
    /// The last state row of this direction; it becomes a state for [`PassBackArgs`].
    pub state: &'a mut [f64],
    pub buffers: &'a mut T::Buffers,
    /// The scale of the likelihood, if the opposite direction has computed it already.
    pub scale: Option<f64>,
}

/// One block of the opposite direction's half, which is stored.
pub struct PassBackArgs<'a, T: Topology> {
    /// The passing direction.
    pub direction: Direction,
    pub target: &'a T,
    pub block: &'a Block,
    /// The emission rows of the block, first frame first.
    pub e: &'a [f64],
    /// By how much to multiply the stored row of the block's first frame, first in this direction, to get occupancies;
    /// it becomes the same for the next block.
    pub state: &'a mut [f64],
    /// The scale of the likelihood.
    pub scale: f64,
    pub buffers: &'a mut T::Buffers,
    /// The stored block. Its rows become occupancies.
    pub store: &'a mut [f64],
    /// The precision of the stored half.
    pub stored_precision: Precision,
    /// For each frame of the block, the sums of its occupancies over the blanks and over the labels.
    pub totals: &'a mut [[f64; 2]],
}

/// How sums over paths are represented.
pub trait Arithmetic {
    /// The lattice.
    type Target: Topology;

    /// The form of the emissions.
    const FORM: EmissionForm;

    /// Numbers of a state row, as a direction hands it on from block to block.
    fn state_len(target: &Self::Target) -> usize;

    /// Numbers that are stored of a block before its rows.
    fn head_len(_: &Self::Target) -> usize {
        0
    }

    /// Numbers that are stored of a frame; the occupancies stand first.
    fn row_len(target: &Self::Target) -> usize {
        Self::state_len(target)
    }

    /// How many bits the emissions of a frame can make a number fall, as far as that limits the length of a block.
    fn fall(_: &Frame) -> f64 {
        0.0
    }

    /// Numbers that a stored block takes.
    fn store_len(target: &Self::Target, block: &Block) -> usize {
        Self::head_len(target) + block.frames.len() * Self::row_len(target)
    }

    /// The state row before any frame: one state has probability 1, and the others 0.
    fn start(direction: Direction, target: &Self::Target, state: &mut [f64]);

    /// Goes through the frames of a block.
    fn advance(level: Level, args: AdvanceArgs<'_, Self::Target>) -> Result<Precision>;

    /// Steps over the middle.
    fn meet(level: Level, args: MeetArgs<'_, Self::Target>) -> MidpointLikelihood;

    /// Turns the rows of a stored block into occupancies, whose sum over a frame is [`MidpointLikelihood::total`]. Whether
    /// they can be trusted.
    fn pass_back(level: Level, args: PassBackArgs<'_, Self::Target>) -> Result<bool>;
}

//! What of a lattice is stored, and what computed again.

use super::blocks::{Block, FRAMES};
use super::frames::Frame;
use super::sweep::{Arithmetic, Storage};
use super::target::Target;
use std::ops::Range;

/// How much of a half is stored, and how often it is cut into pieces before its rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Plan {
    pub levels: usize,
    /// Pieces of a level.
    pub fan: usize,
    /// Whether there is anything to store.
    stores: bool,
}

impl Plan {
    pub const NOTHING: Plan = Plan { levels: 0, fan: 1, stores: false };

    /// The fewest levels whose rows and checkpoints fit in `budget` bytes, or if none do, those that take the least.
    pub fn new<A: Arithmetic>(target: &Target, blocks: &[Block], budget: usize) -> Self {
        let sizes = Sizes::of::<A>(target, blocks);
        let mut best = (usize::MAX, Plan::NOTHING);
        for levels in 0..=sizes.blocks.max(2).ilog2() as usize + 1 {
            for fan in 2..=sizes.blocks.max(2) {
                let plan = Plan { levels, fan, stores: true };
                best = best.min((sizes.bytes(plan), plan));
                if levels == 0 || plan.leaf(sizes.blocks) <= 1 {
                    break;
                }
            }
            if best.0 <= budget {
                break;
            }
        }
        best.1
    }

    /// Blocks of a piece of the last level.
    fn leaf(&self, blocks: usize) -> usize {
        (0..self.levels).fold(blocks, |blocks, _| blocks.div_ceil(self.fan))
    }

    pub fn pieces(
        self,
        blocks: &Range<usize>,
    ) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let Range { start, end } = *blocks;
        let piece = (end - start).div_ceil(self.fan).max(1);
        (start..end).step_by(piece).map(move |begin| begin..end.min(begin + piece))
    }
}

/// Elements that the parts of a half take.
pub(super) struct Sizes {
    state: usize,
    all_rows: usize,
    largest_block: usize,
    blocks: usize,
}

impl Sizes {
    pub fn of<A: Arithmetic>(target: &Target, blocks: &[Block]) -> Self {
        let sizes = || blocks.iter().map(|block| A::store_len(target, block.frames.len()));
        Sizes {
            state: A::state_len(target),
            all_rows: sizes().sum(),
            largest_block: sizes().max().unwrap_or(0),
            blocks: blocks.len(),
        }
    }

    pub fn store(&self, plan: Plan) -> usize {
        match plan.levels {
            _ if !plan.stores => 0,
            0 => self.all_rows,
            _ => self.largest_block.saturating_mul(plan.leaf(self.blocks)),
        }
    }

    fn bytes(&self, plan: Plan) -> usize {
        let checkpoints = (plan.levels * plan.fan).saturating_mul(self.state);
        self.store(plan).saturating_add(checkpoints).saturating_mul(size_of::<f64>())
    }
}

/// Bytes that a sample takes beside its stored rows and emissions.
pub(super) fn fixed_bytes(labels: usize, frames: usize) -> usize {
    frames * size_of::<Frame>() + Target::bytes(labels, frames) + Storage::fixed_bytes(labels)
}

/// The lowest memory limit, in bytes, for a sample, with states of so many elements a number.
pub(super) fn least_bytes(labels: usize, frames: usize, elements: usize) -> usize {
    let state = elements * (2 * labels + 40) * size_of::<f64>();
    let levels = frames.max(2).ilog2() as usize + 1;
    // Beside what is stored, each of the four directions has a state and two rows of them.
    let more = 4 * 3 * (state - state / elements * 2);
    fixed_bytes(labels, frames) + 2 * (FRAMES + 2 * levels) * state + more
}

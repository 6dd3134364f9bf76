//! Which rows of a lattice are stored, and which are computed again when they are needed.
//!
//! A plan of level 0 stores the rows of all blocks. A plan of level 1 cuts the blocks into `fan` pieces and stores the
//! state at the start of each piece, its checkpoint; on the way back the rows of one piece at a time are computed again
//! from its checkpoint. A plan of level 2 cuts each piece once more, and so on: every level computes all rows once
//! more.

use std::ops::Range;

/// How often the blocks of a half are cut into pieces before rows are stored, and into how many pieces each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointPlan {
    pub levels: usize,
    /// The pieces that a level makes of a piece of the level before.
    pub fan: usize,
    /// Whether any rows are to be stored.
    stores: bool,
}

impl CheckpointPlan {
    /// For a likelihood alone: no rows, no checkpoints.
    pub const NOTHING: Self = CheckpointPlan { levels: 0, fan: 1, stores: false };

    /// The plan with the fewest levels whose rows and checkpoints fit in `budget` bytes; if none fits, the plan that
    /// takes the least.
    pub fn new(sizes: &StoreSizes, budget: usize) -> Self {
        let mut best = (usize::MAX, Self::NOTHING);
        for levels in 0..=sizes.blocks.max(2).ilog2() as usize + 1 {
            for fan in 2..=sizes.blocks.max(2) {
                let plan = CheckpointPlan { levels, fan, stores: true };
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

    /// Blocks of a piece of the last level, the largest if there are some.
    fn leaf(&self, blocks: usize) -> usize {
        (0..self.levels).fold(blocks, |blocks, _| blocks.div_ceil(self.fan))
    }

    /// The pieces that the next level makes of some blocks.
    pub fn pieces(
        self,
        blocks: &Range<usize>,
    ) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let Range { start, end } = *blocks;
        let piece = (end - start).div_ceil(self.fan).max(1);
        (start..end).step_by(piece).map(move |begin| begin..end.min(begin + piece))
    }
}

/// Numbers that the parts of a half take when they are stored.
pub struct StoreSizes {
    /// A checkpoint.
    state: usize,
    all_rows: usize,
    largest_block: usize,
    /// How many blocks.
    blocks: usize,
}

impl StoreSizes {
    /// From the size of a state, and the size of the rows of each block.
    pub fn new(state: usize, rows: impl ExactSizeIterator<Item = usize> + Clone) -> Self {
        StoreSizes {
            state,
            blocks: rows.len(),
            all_rows: rows.clone().sum(),
            largest_block: rows.max().unwrap_or(0),
        }
    }

    /// The rows that a plan stores at a time.
    pub fn rows(&self, plan: CheckpointPlan) -> usize {
        match plan.levels {
            _ if !plan.stores => 0,
            0 => self.all_rows,
            _ => self.largest_block.saturating_mul(plan.leaf(self.blocks)),
        }
    }

    fn bytes(&self, plan: CheckpointPlan) -> usize {
        let checkpoints = (plan.levels * plan.fan).saturating_mul(self.state);
        self.rows(plan).saturating_add(checkpoints).saturating_mul(size_of::<f64>())
    }
}

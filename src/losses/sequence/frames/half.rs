//! One half of the frames: a direction goes through it up to the middle, and the opposite one passes back through it.
//!
//! ```text
//! frames            0 1 2 3 4 | 5 6 7 8 9
//! to the middle     > > > > > | < < < < <     each direction stores the rows, or checkpoints, of its own half
//! back              < < < < < | > > > > >     each direction passes through the half of the opposite one
//! ```
//!
//! With checkpoints, the rows of a piece are computed again by the half's own direction just before the opposite one
//! passes through them.

use super::Direction;
use super::arithmetic::{
    AdvanceArgs, Arithmetic, MidpointLikelihood, PassBackArgs, Precision, StepBuffers, Topology,
};
use super::blocks::{self, Block};
use super::checkpoints::{CheckpointPlan, StoreSizes};
use super::emissions::{EmissionForm, EmissionSource, Frame};
use super::occupancies::{Occupancies, OccupancySink};
use crate::buffer::{Buffer, poison};
use crate::error::Result;
use crate::scratch::Reusable;
use crate::simd::Level;
use crate::{memory, threads};
use std::ops::Range;

/// How much the likelihood may differ from frame to frame. Rounding leaves a hundred-thousandth of it at a million
/// frames.
const TOLERANCE: f64 = 1e-6;

/// The lattice of a sample.
pub struct SampleLattice<'a, T> {
    pub level: Level,
    pub target: &'a T,
    pub frames: &'a [Frame],
    pub source: &'a dyn EmissionSource,
    /// All emission rows in the form [`EmissionForm::Linear`], if they are kept.
    pub table: Option<&'a [f64]>,
    /// Bytes that the stored rows may take.
    pub budget: usize,
    /// Whether the two directions run on two threads.
    pub parallel: bool,
}

impl<T: Topology> SampleLattice<'_, T> {
    /// The emission rows of a block, from the table or computed in `window`.
    fn emissions<'s>(
        &'s self,
        form: EmissionForm,
        block: &Block,
        window: &'s mut Buffer<f64>,
    ) -> Result<&'s [f64]> {
        let Range { start, end } = block.frames;
        let stride = self.target.emission_stride();
        Ok(match self.table {
            Some(table) if form == EmissionForm::Linear => &table[start * stride..end * stride],
            _ => {
                let window = window.sized((end - start) * form.rows() * stride)?;
                self.source.fill(form, block.frames.clone(), window)?;
                window
            }
        })
    }
}

/// A direction on its way through some frames.
#[derive(Default)]
pub struct Cursor<B> {
    /// The state row where it is.
    pub state: Buffer<f64>,
    pub buffers: B,
    /// The emission rows of a block, if there is no table of them.
    window: Buffer<f64>,
    /// The sums of the occupancies of a block.
    totals: Buffer<[f64; 2]>,
    sink_scratch: Buffer<f64>,
}

impl<B> Cursor<B> {
    /// Makes room for a target.
    pub fn fit<A: Arithmetic>(&mut self, target: &A::Target) -> Result<()>
    where
        B: StepBuffers<A::Target>,
    {
        let state_len = A::state_len(target);
        poison(self.state.sized(state_len)?);
        self.buffers.fit(target, state_len)
    }
}

impl<B: Reusable> Reusable for Cursor<B> {
    fn bytes(&self) -> usize {
        let Cursor { state, buffers, window, totals, sink_scratch } = self;
        let sinks = totals.bytes() + sink_scratch.bytes();
        state.bytes() + buffers.bytes() + window.bytes() + sinks
    }
}

/// The memory of a half.
#[derive(Default)]
pub struct HalfStorage {
    blocks: Vec<Block>,
    store: Buffer<f64>,
    checkpoints: Buffer<f64>,
}

impl HalfStorage {
    pub fn bytes(&self) -> usize {
        self.store.bytes() + self.checkpoints.bytes() + self.blocks.bytes()
    }
}

/// A half of the frames, and the direction that goes through it up to the middle.
pub struct HalfLattice<'a, A: Arithmetic> {
    lattice: &'a SampleLattice<'a, A::Target>,
    pub direction: Direction,
    blocks: &'a [Block],
    pub cursor: &'a mut Cursor<<A::Target as Topology>::Buffers>,
    plan: CheckpointPlan,
    /// The stored blocks of the half, or of a piece of it, in the order of the direction.
    store: &'a mut [f64],
    checkpoints: &'a mut [f64],
    pub precision: Precision,
}

impl<'a, A: Arithmetic> HalfLattice<'a, A> {
    /// At the half's end of the utterance. Rows are stored if they are to become occupancies.
    pub fn new(
        lattice: &'a SampleLattice<'a, A::Target>,
        direction: Direction,
        HalfStorage { blocks, store, checkpoints }: &'a mut HalfStorage,
        cursor: &'a mut Cursor<<A::Target as Topology>::Buffers>,
        stores: bool,
    ) -> Result<Self> {
        let target = lattice.target;
        let half = direction.half(target.frames());
        blocks::cut(direction, &half, |t| A::fall(&lattice.frames[t]), blocks)?;
        A::start(direction, target, &mut cursor.state);
        let rows = blocks.iter().map(|block| A::store_len(target, block));
        let sizes = StoreSizes::new(A::state_len(target), rows);
        let plan = if stores {
            CheckpointPlan::new(&sizes, lattice.budget / 2)
        } else {
            CheckpointPlan::NOTHING
        };
        let store = store.sized(sizes.rows(plan))?;
        poison(store);
        let checkpoints = checkpoints.sized(plan.levels * plan.fan * A::state_len(target))?;
        let precision = Precision::Full;
        Ok(HalfLattice { lattice, direction, blocks, cursor, plan, store, checkpoints, precision })
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Goes through all blocks, and stores what the plan says.
    pub fn advance_to_middle(&mut self) -> Result<()> {
        let all = 0..self.blocks.len();
        if self.plan == CheckpointPlan::NOTHING {
            return self.skip(all);
        }
        if self.plan.levels == 0 {
            return self.store(all);
        }
        for (i, piece) in self.plan.pieces(&all).enumerate() {
            self.save_checkpoint(0, i);
            self.skip(piece)?;
        }
        Ok(())
    }

    fn checkpoint(&self, level: usize, i: usize) -> Range<usize> {
        let len = self.cursor.state.len();
        let start = (level * self.plan.fan + i) * len;
        start..start + len
    }

    fn save_checkpoint(&mut self, level: usize, i: usize) {
        let place = self.checkpoint(level, i);
        self.checkpoints[place].copy_from_slice(&self.cursor.state);
    }

    fn restore_checkpoint(&mut self, level: usize, i: usize) {
        let place = self.checkpoint(level, i);
        self.cursor.state.copy_from_slice(&self.checkpoints[place]);
    }

    /// Goes through some blocks and stores nothing.
    fn skip(&mut self, blocks: Range<usize>) -> Result<()> {
        for block in &self.blocks[blocks] {
            self.advance(block, None)?;
        }
        Ok(())
    }

    /// Goes through some blocks and stores their rows.
    fn store(&mut self, blocks: Range<usize>) -> Result<()> {
        let mut begin = 0;
        for block in &self.blocks[blocks] {
            let len = A::store_len(self.lattice.target, block);
            self.advance(block, Some(begin..begin + len))?;
            begin += len;
        }
        Ok(())
    }

    fn advance(&mut self, block: &Block, place: Option<Range<usize>>) -> Result<()> {
        threads::check()?;
        let SampleLattice { level, target, .. } = *self.lattice;
        let Cursor { state, buffers, window, .. } = &mut *self.cursor;
        let e = self.lattice.emissions(A::FORM, block, window)?;
        let store = place.map(|place| &mut self.store[place]);
        let direction = self.direction;
        let args = AdvanceArgs { direction, target, block, e, state, buffers, store };
        self.precision = self.precision.max(A::advance(level, args)?);
        Ok(())
    }
}

/// A half, and the opposite direction on its way back through it from the middle.
pub struct HalfPassBack<'a, A: Arithmetic> {
    pub half: HalfLattice<'a, A>,
    pub cursor: &'a mut Cursor<<A::Target as Topology>::Buffers>,
    pub likelihood: MidpointLikelihood,
    /// Whether all occupancies so far can be trusted.
    pub trusted: bool,
}

impl<A: Arithmetic> HalfPassBack<'_, A> {
    /// Passes through the whole half.
    pub fn run(&mut self, sink: &dyn OccupancySink) -> Result<()> {
        let blocks = 0..self.half.blocks.len();
        self.through_pieces(0, blocks, sink)
    }

    /// Passes through some blocks, which are a piece of the level before `level`: either their rows are stored, or the
    /// half's cursor stands where they begin.
    fn through_pieces(
        &mut self,
        level: usize,
        blocks: Range<usize>,
        sink: &dyn OccupancySink,
    ) -> Result<()> {
        if level == self.half.plan.levels {
            if level > 0 {
                self.half.store(blocks.clone())?;
            }
            return self.through_stored(blocks, sink);
        }
        let pieces = memory::collect(self.half.plan.pieces(&blocks))?;
        // The checkpoints of the first level were saved on the way to the middle.
        if level > 0 {
            for (i, piece) in pieces.iter().enumerate() {
                self.half.save_checkpoint(level, i);
                if i + 1 < pieces.len() {
                    self.half.skip(piece.clone())?;
                }
            }
        }
        for (i, piece) in pieces.into_iter().enumerate().rev() {
            self.half.restore_checkpoint(level, i);
            self.through_pieces(level + 1, piece, sink)?;
        }
        Ok(())
    }

    /// Passes through blocks whose rows are stored, and hands their occupancies to the sink.
    fn through_stored(&mut self, blocks: Range<usize>, sink: &dyn OccupancySink) -> Result<()> {
        let HalfLattice { lattice, precision: stored_precision, .. } = self.half;
        let SampleLattice { level, target, .. } = *lattice;
        let MidpointLikelihood { scale, total: likelihood, .. } = self.likelihood;
        let sizes = self.half.blocks[blocks.clone()].iter();
        let mut end: usize = sizes.map(|block| A::store_len(target, block)).sum();
        let Cursor { state, buffers, totals, sink_scratch, .. } = &mut *self.cursor;
        // The half's own cursor has nothing to do now: its window is free.
        let window = &mut self.half.cursor.window;
        for block in self.half.blocks[blocks].iter().rev() {
            threads::check()?;
            let begin = end - A::store_len(target, block);
            let store = &mut self.half.store[begin..end];
            end = begin;
            let totals = totals.sized(block.frames.len())?;
            let e = lattice.emissions(A::FORM, block, window)?;
            self.trusted &= A::pass_back(
                level,
                PassBackArgs {
                    direction: self.half.direction.opposite(),
                    target,
                    block,
                    e,
                    state,
                    scale,
                    buffers,
                    store: &mut *store,
                    stored_precision,
                    totals: &mut *totals,
                },
            )?;
            let error = |[a, b]: &[f64; 2]| ((a + b) / likelihood - 1.0).abs();
            self.trusted &= totals.iter().all(|total| error(total) <= TOLERANCE);
            let rows = Occupancies::new(
                &store[A::head_len(target)..],
                self.half.direction,
                block.frames.len(),
                [A::row_len(target), target.occupancy_len()],
            );
            let e = Some(e).filter(|_| A::FORM == EmissionForm::Linear);
            sink.take(block.frames.clone(), &rows, totals, e, sink_scratch)?;
        }
        Ok(())
    }
}

//! The two directions of a lattice: they meet in the middle, then each passes through what the other one has stored.
//!
//! The first half of the frames is stored from the start, the second half from the end, both at once. Then the direction
//! that comes from the end goes through the first half and turns the stored rows into occupancies, and the other one
//! does the same with the second half. That is the work and the memory of a full forward pass and a backward one, on two
//! threads where there are two. The middle depends on the number of frames alone, and so does every bit of the result.
//!
//! Where the rows of a half do not fit, only checkpoints are stored, and the rows between two of them are computed again
//! when they are needed: once where the square root of the frames fits, more often where it does not.

use super::blocks::{Block, FRAMES};
use super::checkpoints::{Plan, Sizes};
use super::frames::{Form, Frame, Source};
use super::planes::{Lines, sized};
use super::target::Target;
use super::weights::Weights;
use super::{LANES, Side, task_ns};
use crate::error::Result;
use crate::simd::Level;
use crate::{memory, threads};
use std::f64::consts::LN_2;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// How much the likelihood may differ from frame to frame. Rounding leaves a hundred-thousandth of it at a million frames.
const TOLERANCE: f64 = 1e-6;

/// A direction on its way through some frames.
#[derive(Default)]
struct Walk {
    /// Where it is.
    state: Lines,
    work: Work,
    /// Emission rows of a block that are not kept.
    window: Vec<f64>,
    /// The sums of occupancies of a block.
    totals: Vec<[f64; 2]>,
    sink: Vec<f64>,
}

/// Buffers of one direction.
#[derive(Default)]
pub(super) struct Work {
    pub own: Lines,
    pub rows: Lines,
    pub weights: Weights,
}

impl Walk {
    /// Makes room for those of a target; they may be any.
    fn fit<A: Arithmetic>(&mut self, target: &Target) -> Result<()> {
        let Walk { state, work, .. } = self;
        forget(work.own.sized(2 * target.width)?);
        forget(work.rows.sized(2 * A::state_len(target))?);
        forget(state.sized(A::state_len(target))?);
        work.weights.fit(target)
    }

    fn bytes(&self) -> usize {
        let Walk { state, work, window, sink, .. } = self;
        let lines = [state, &work.own, &work.rows].map(Lines::capacity);
        let vectors = [window, sink].map(Vec::capacity);
        let numbers: usize = lines.into_iter().chain(vectors).sum();
        numbers * size_of::<f64>() + work.weights.bytes()
    }
}

/// Elements of a state as a row of mantissas and the exponents that belong to it.
pub(super) fn state_len(target: &Target) -> usize {
    2 * target.row()
}

/// Two directions at the same frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crossing {
    /// The likelihood is `total * 2^scale`, if the numbers have exponents.
    pub scale: f64,
    pub total: f64,
    /// The logarithm of the likelihood.
    pub log: f64,
}

impl Crossing {
    /// By its exponent.
    pub fn of(scale: f64, total: f64) -> Self {
        Crossing { scale, total, log: total.ln() + scale * LN_2 }
    }
}

/// What a direction has kept of its mantissas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kept {
    /// All of them.
    All,
    /// Some are more than they were: no path is lost.
    Raised,
    /// A path may be lost.
    Lossy,
}

/// How sums over paths are represented.
pub(super) trait Arithmetic {
    /// The form of the emissions.
    const FORM: Form;

    /// Elements of a direction's state at some frame.
    fn state_len(target: &Target) -> usize;
    /// Cuts frames of a side into blocks, in the order of that side.
    fn blocks(
        side: Side,
        range: Range<usize>,
        frames: &[Frame],
        blocks: &mut Vec<Block>,
    ) -> Result<()>;
    /// Elements that a block of so many frames takes when its rows are stored.
    fn store_len(target: &Target, frames: usize) -> usize;
    /// Where in a stored block the occupancies of its first frame begin, and the elements from one frame to the next.
    fn occupancies(target: &Target) -> [usize; 2];
    /// The state before any frame: all of it in one state.
    fn start(target: &Target, state: &mut [f64], first: usize);
    /// Goes through the frames of a block, storing them.
    fn advance(
        level: Level,
        at: (Side, &Target),
        block: (&Block, &[f64]),
        state: &mut [f64],
        work: &mut Work,
        store: Option<&mut [f64]>,
    ) -> Result<Kept>;
    /// Steps from the middle over to the state `over` of the other direction, and makes `state` one for [`pass`]. With
    /// that state comes whether it is whole: then there is no path where it is 0.
    fn cross(
        level: Level,
        at: (Side, &Target),
        over: (&[f64], bool),
        state: &mut [f64],
        work: &mut Work,
        scale: Option<f64>,
    ) -> Crossing;
    /// Goes through a block that the other direction has stored, whole or not, and turns its rows into occupancies,
    /// whose sums over the blanks and the labels of a frame are `totals` times `2^scale`. Whether the result can be
    /// trusted.
    fn pass(
        level: Level,
        at: (Side, &Target),
        block: (&Block, &[f64]),
        state: (&mut [f64], f64),
        work: &mut Work,
        stored: (&mut [f64], bool),
        totals: &mut [[f64; 2]],
    ) -> Result<bool>;
}

/// Takes the occupancies of a block.
pub(super) trait Sink: Sync {
    /// Row i is that of frame `frames.start + i`, and `totals[i]` its sums over blanks and labels. Emission rows in the
    /// form [`Form::Linear`] come along if they are at hand.
    fn take(
        &self,
        frames: Range<usize>,
        rows: &Occupancies<'_>,
        totals: &[[f64; 2]],
        e: Option<&[f64]>,
        scratch: &mut Vec<f64>,
    ) -> Result<()>;
}

/// Rows of a block: two planes of occupancies each.
pub(super) struct Occupancies<'a> {
    store: &'a [f64],
    side: Side,
    frames: usize,
    first: usize,
    step: usize,
    len: usize,
}

impl<'a> Occupancies<'a> {
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [f64] {
        let i = self.side.nth(&(0..self.frames), i);
        &self.store[self.first + i * self.step..][..self.len]
    }
}

/// The lattice of a sample.
pub(super) struct Lattice<'a> {
    pub level: Level,
    pub target: &'a Target,
    pub frames: &'a [Frame],
    pub source: &'a dyn Source,
    /// All emission rows in the form [`Form::Linear`], if they are kept.
    pub table: Option<&'a [f64]>,
    /// Bytes that the stored rows may take.
    pub budget: usize,
    pub parallel: bool,
}

/// What a lattice gives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// The logarithm of the sum over all paths.
    pub log_likelihood: f64,
    /// Whether nothing of weight was lost or added. If there is no sink, whether nothing at all was.
    pub trusted: bool,
}

/// Memory that goes from sample to sample.
#[derive(Default)]
pub(super) struct Storage {
    halves: [Memory; 2],
    /// Two that climb to the middle and two that descend from it.
    walks: [Walk; 4],
}

/// What a half keeps.
#[derive(Default)]
struct Memory {
    blocks: Vec<Block>,
    store: Lines,
    checkpoints: Vec<f64>,
}

impl Storage {
    /// Roughly what it takes for so many labels without rows and checkpoints.
    pub fn fixed_bytes(labels: usize) -> usize {
        let plane = labels + 2 * LANES;
        // States, buffers of a direction, and windows on the emissions: two wide ones, and two for the sink.
        (4 * 17 + 2 * 2 * FRAMES + 2 * (FRAMES + 1)) * plane * size_of::<f64>()
    }

    /// What it takes.
    pub fn bytes(&self) -> usize {
        let half = |half: &Memory| {
            let numbers = half.store.capacity() + half.checkpoints.capacity();
            numbers * size_of::<f64>() + half.blocks.capacity() * size_of::<Block>()
        };
        let halves: usize = self.halves.iter().map(half).sum();
        halves + self.walks.iter().map(Walk::bytes).sum::<usize>()
    }
}

impl Lattice<'_> {
    /// Runs both directions.
    pub fn run<A: Arithmetic>(
        &self,
        storage: &mut Storage,
        sink: Option<&dyn Sink>,
    ) -> Result<Outcome> {
        let target = self.target;
        for walk in &mut storage.walks {
            walk.fit::<A>(target)?;
        }
        let [memory, end_memory] = &mut storage.halves;
        let [start_walk, end_walk, from_end, from_start] = &mut storage.walks;
        let keep = sink.is_some();
        let mut start = Half::new::<A>(self, Side::Start, memory, start_walk, keep)?;
        let mut end = Half::new::<A>(self, Side::End, end_memory, end_walk, keep)?;
        self.both([&mut start, &mut end], |half| half.climb::<A>(self, keep))?;

        let cross = |own: &Half<'_>, over: &Half<'_>, walk: &mut Walk, scale| {
            walk.state.copy_from_slice(&own.walk.state);
            let (at, over) = ((own.side, target), (&*over.walk.state, over.is_whole()));
            A::cross(self.level, at, over, &mut walk.state, &mut walk.work, scale)
        };
        let crossing = cross(&end, &start, from_end, None);
        let log_likelihood = crossing.log;
        let Some(sink) = sink.filter(|_| crossing.total != 0.0) else {
            let all = start.kept.max(end.kept) == Kept::All;
            return Ok(Outcome { log_likelihood, trusted: all && log_likelihood < f64::INFINITY });
        };
        if !end.blocks.is_empty() {
            cross(&start, &end, from_start, Some(crossing.scale));
        }
        // What one direction has lost shows in the other one, which must not have lost the same paths.
        let trusted = start.is_whole() || end.is_whole();
        let mut start = Meeting { half: start, walk: from_end, crossing, trusted };
        let mut end = Meeting { half: end, walk: from_start, crossing, trusted };
        self.both([&mut start, &mut end], |meeting| {
            let blocks = 0..meeting.half.blocks.len();
            meeting.descend::<A>(self, 0, blocks, sink)
        })?;
        Ok(Outcome { log_likelihood, trusted: start.trusted && end.trusted })
    }

    fn both<T: Send>(
        &self,
        sides: [&mut T; 2],
        work: impl Fn(&mut T) -> Result<()> + Sync,
    ) -> Result<()> {
        let sides = sides.map(Mutex::new);
        threads::run(2, task_ns(self.parallel), &|tasks| {
            for i in tasks {
                work(&mut sides[i].lock().unwrap_or_else(PoisonError::into_inner))?;
            }
            Ok(())
        })
    }

    /// The emission rows of a block.
    fn emissions<'s>(
        &'s self,
        form: Form,
        block: &Block,
        window: &'s mut Vec<f64>,
    ) -> Result<&'s [f64]> {
        let Range { start, end } = block.frames;
        let stride = self.target.stride();
        Ok(match self.table {
            Some(table) if form == Form::Linear => &table[start * stride..end * stride],
            _ => {
                let window = sized(window, (end - start) * form.parts() * stride)?;
                self.source.fill(form, block.frames.clone(), window)?;
                window
            }
        })
    }
}

/// One direction on its half of the frames.
struct Half<'a> {
    side: Side,
    blocks: &'a [Block],
    walk: &'a mut Walk,
    plan: Plan,
    /// Where each block's rows begin in `store`, if all are stored.
    store: &'a mut [f64],
    checkpoints: &'a mut [f64],
    kept: Kept,
}

impl<'a> Half<'a> {
    fn new<A: Arithmetic>(
        lattice: &Lattice<'_>,
        side: Side,
        Memory { blocks, store, checkpoints }: &'a mut Memory,
        walk: &'a mut Walk,
        keep: bool,
    ) -> Result<Self> {
        let target = lattice.target;
        A::blocks(side, target.half(side), lattice.frames, blocks)?;
        A::start(target, &mut walk.state, if side == Side::Start { 0 } else { target.len });
        let plan =
            if keep { Plan::new::<A>(target, blocks, lattice.budget / 2) } else { Plan::NOTHING };
        let store = store.sized(Sizes::of::<A>(target, blocks).store(plan))?;
        forget(store);
        let checkpoints = sized(checkpoints, plan.levels * plan.fan * A::state_len(target))?;
        Ok(Half { side, walk, store, checkpoints, blocks, plan, kept: Kept::All })
    }

    fn is_whole(&self) -> bool {
        self.kept < Kept::Lossy
    }

    /// Goes from the end of the utterance to the middle.
    fn climb<A: Arithmetic>(&mut self, lattice: &Lattice<'_>, keep: bool) -> Result<()> {
        let all = 0..self.blocks.len();
        if !keep {
            return self.skip::<A>(lattice, all);
        }
        if self.plan.levels == 0 {
            return self.store::<A>(lattice, all);
        }
        for (i, piece) in self.plan.pieces(&all).enumerate() {
            self.save(0, i);
            self.skip::<A>(lattice, piece)?;
        }
        Ok(())
    }

    fn checkpoint(&self, level: usize, i: usize) -> Range<usize> {
        let len = self.walk.state.len();
        let start = (level * self.plan.fan + i) * len;
        start..start + len
    }

    fn save(&mut self, level: usize, i: usize) {
        let place = self.checkpoint(level, i);
        self.checkpoints[place].copy_from_slice(&self.walk.state);
    }

    fn restore(&mut self, level: usize, i: usize) {
        let place = self.checkpoint(level, i);
        self.walk.state.copy_from_slice(&self.checkpoints[place]);
    }

    /// Goes through some blocks.
    fn skip<A: Arithmetic>(&mut self, lattice: &Lattice<'_>, blocks: Range<usize>) -> Result<()> {
        for block in &self.blocks[blocks] {
            self.advance::<A>(lattice, block, None)?;
        }
        Ok(())
    }

    /// Goes through some blocks and stores their rows.
    fn store<A: Arithmetic>(&mut self, lattice: &Lattice<'_>, blocks: Range<usize>) -> Result<()> {
        let mut begin = 0;
        for block in &self.blocks[blocks] {
            let len = A::store_len(lattice.target, block.frames.len());
            self.advance::<A>(lattice, block, Some(begin..begin + len))?;
            begin += len;
        }
        Ok(())
    }

    fn advance<A: Arithmetic>(
        &mut self,
        lattice: &Lattice<'_>,
        block: &Block,
        store: Option<Range<usize>>,
    ) -> Result<()> {
        threads::check()?;
        let Walk { state, work, window, .. } = &mut *self.walk;
        let e = lattice.emissions(A::FORM, block, window)?;
        let store = store.map(|place| &mut self.store[place]);
        let at = (self.side, lattice.target);
        let kept = A::advance(lattice.level, at, (block, e), state, work, store)?;
        self.kept = self.kept.max(kept);
        Ok(())
    }
}

/// A half, and the other direction on its way through it.
struct Meeting<'a> {
    half: Half<'a>,
    walk: &'a mut Walk,
    crossing: Crossing,
    trusted: bool,
}

impl Meeting<'_> {
    /// Goes back through some blocks, whose rows are stored or which begin at the half's checkpoints of `level`.
    fn descend<A: Arithmetic>(
        &mut self,
        lattice: &Lattice<'_>,
        level: usize,
        blocks: Range<usize>,
        sink: &dyn Sink,
    ) -> Result<()> {
        if level == self.half.plan.levels {
            if level > 0 {
                self.half.store::<A>(lattice, blocks.clone())?;
            }
            return self.pass::<A>(lattice, blocks, sink);
        }
        let pieces = memory::collect(self.half.plan.pieces(&blocks))?;
        // The first level was saved on the way to the middle.
        if level > 0 {
            for (i, piece) in pieces.iter().enumerate() {
                self.half.save(level, i);
                if i + 1 < pieces.len() {
                    self.half.skip::<A>(lattice, piece.clone())?;
                }
            }
        }
        for (i, piece) in pieces.into_iter().enumerate().rev() {
            self.half.restore(level, i);
            self.descend::<A>(lattice, level + 1, piece, sink)?;
        }
        Ok(())
    }

    /// Goes back through stored blocks.
    fn pass<A: Arithmetic>(
        &mut self,
        lattice: &Lattice<'_>,
        blocks: Range<usize>,
        sink: &dyn Sink,
    ) -> Result<()> {
        let target = lattice.target;
        let lens = |block: &Block| A::store_len(target, block.frames.len());
        let mut end: usize = self.half.blocks[blocks.clone()].iter().map(lens).sum();
        let (owner, side) = (self.half.side, self.half.side.other());
        let whole = self.half.is_whole();
        let Walk { state, work, totals, sink: scratch, .. } = &mut *self.walk;
        // That of the half is idle now.
        let window = &mut self.half.walk.window;
        for block in self.half.blocks[blocks].iter().rev() {
            threads::check()?;
            let begin = end - lens(block);
            let store = &mut self.half.store[begin..end];
            let stored = (&mut *store, whole);
            end = begin;
            let totals = sized(totals, block.frames.len())?;
            let e = lattice.emissions(A::FORM, block, window)?;
            let state = (&mut state[..], self.crossing.scale);
            let at = (side, target);
            self.trusted &= A::pass(lattice.level, at, (block, e), state, work, stored, totals)?;
            let error = |[a, b]: &[f64; 2]| ((a + b) / self.crossing.total - 1.0).abs();
            self.trusted &= totals.iter().all(|total| error(total) <= TOLERANCE);
            let ([first, step], frames) = (A::occupancies(target), block.frames.len());
            let (side, len) = (owner, 2 * target.width);
            let rows = Occupancies { store, side, frames, first, step, len };
            let e = Some(e).filter(|_| A::FORM == Form::Linear);
            sink.take(block.frames.clone(), &rows, totals, e, scratch)?;
        }
        Ok(())
    }
}

/// Marks elements as not to be read before they are written: they may be those of another sample. Where debug assertions
/// are on, whoever does it all the same gets numbers that no result survives.
fn forget(buffer: &mut [f64]) {
    if cfg!(debug_assertions) {
        buffer.fill(1e300);
    }
}

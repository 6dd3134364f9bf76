//! The two directions of a lattice: they meet in the middle, then each passes through what the other one has stored.
//!
//! The first half of the frames is stored from the start, the second half from the end, both at once. Then the direction
//! that comes from the end goes through the first half and turns the stored rows into occupancies, and the other one
//! does the same with the second half. That is the work and the memory of a full forward pass and a backward one, on two
//! threads where there are two. The middle depends on the number of frames alone, and so does every bit of the result.
//!
//! Where the rows of a half do not fit, only checkpoints are stored, and the rows between two of them are computed again
//! when they are needed: once where the square root of the frames fits, more often where it does not.

use super::checkpoints::{Plan, Sizes};
use super::frames::{Form, Source};
use super::planes::{Lines, sized};
use super::target::Target;
use super::weights::Weights;
use super::{Error, Side, task_ns};
use crate::parallel;
use crate::simd::Level;
use std::f64::consts::LN_2;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// How much the likelihood may differ from frame to frame. Rounding leaves a hundred-thousandth of it at a million frames.
const TOLERANCE: f64 = 1e-6;

/// Consecutive frames that are computed in one go.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Block {
    pub frames: Range<usize>,
    /// How far, in bits, emissions can make a mantissa fall over all its frames.
    pub fall: f64,
}

/// Buffers of one direction.
pub(super) struct Work {
    pub own: Lines,
    pub rows: Lines,
    pub weights: Weights,
    pub label_e: Lines,
    window: Vec<f64>,
    totals: Vec<[f64; 2]>,
    sink: Vec<f64>,
}

impl Work {
    fn new(target: &Target) -> Self {
        Work {
            own: Lines::zeros(2 * target.width),
            rows: Lines::zeros(2 * state_len(target)),
            weights: Weights::new(target),
            label_e: Lines::zeros(2 * target.width),
            window: Vec::new(),
            totals: Vec::new(),
            sink: Vec::new(),
        }
    }

    /// One that is there already, if it has the size.
    fn reuse(works: &mut Vec<Work>, target: &Target) -> Self {
        let mut work = works
            .pop()
            .filter(|work| work.own.len() == 2 * target.width)
            .unwrap_or_else(|| Work::new(target));
        work.label_e.fill(0.0);
        forget(&mut work.rows);
        forget(&mut work.own);
        work
    }

    fn bytes(&self) -> usize {
        let lines = [&self.own, &self.rows, &self.label_e].map(Lines::capacity);
        let vectors = [&self.window, &self.sink].map(Vec::capacity);
        let numbers: usize = lines.into_iter().chain(vectors).sum();
        numbers * size_of::<f64>() + self.weights.bytes()
    }

    /// Roughly what it takes for so many labels.
    pub fn expected_bytes(labels: usize) -> usize {
        (labels + 10) * 18 * size_of::<f64>()
    }
}

/// Elements of a direction's state at some frame: a row of mantissas and the exponents that belong to it.
pub(super) fn state_len(target: &Target) -> usize {
    2 * target.row()
}

/// Two directions at the same frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crossing {
    /// The likelihood is `total * 2^scale`.
    pub scale: f64,
    pub total: f64,
}

impl Crossing {
    fn log(self) -> f64 {
        self.total.ln() + self.scale * LN_2
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

    /// Elements that a block of so many frames takes when its rows are stored.
    fn store_len(target: &Target, frames: usize) -> usize;
    /// The two planes of occupancies of a stored block's frame i, in the order in which its frames were stored.
    fn occupancies<'a>(target: &Target, store: &'a [f64], i: usize) -> &'a [f64];
    /// The state before any frame: all of it in one state.
    fn start(state: &mut [f64], first: usize);
    /// Goes through the frames of a block, storing them.
    fn advance(
        level: Level,
        at: (Side, &Target),
        block: (&Block, &[f64]),
        state: &mut [f64],
        work: &mut Work,
        store: Option<&mut [f64]>,
    ) -> Kept;
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
    ) -> bool;
}

/// Takes the occupancies of a block.
pub(super) trait Sink: Sync {
    /// `rows(i)` are those of frame `frames.start + i`, and `totals[i]` their sums over blanks and labels.
    fn take<'a>(
        &self,
        frames: Range<usize>,
        rows: &dyn Fn(usize) -> &'a [f64],
        totals: &[[f64; 2]],
        scratch: &mut Vec<f64>,
    );
}

/// The lattice of a sample.
pub(super) struct Lattice<'a> {
    pub level: Level,
    pub target: &'a Target,
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

/// Memory that is kept from sample to sample.
#[derive(Default)]
pub(super) struct Storage {
    stores: [Lines; 2],
    checkpoints: [Vec<f64>; 2],
    works: Vec<Work>,
}

impl Storage {
    /// What it takes.
    pub fn bytes(&self) -> usize {
        let stores: usize = self.stores.iter().map(Lines::capacity).sum();
        let checkpoints: usize = self.checkpoints.iter().map(Vec::capacity).sum();
        let numbers = stores + checkpoints;
        numbers * size_of::<f64>() + self.works.iter().map(Work::bytes).sum::<usize>()
    }
}

impl Lattice<'_> {
    /// Runs both directions. `blocks` are those of the two sides, in the order of each.
    pub fn run<A: Arithmetic>(
        &self,
        blocks: [Vec<Block>; 2],
        storage: &mut Storage,
        sink: Option<&dyn Sink>,
    ) -> Result<Outcome, Error> {
        let target = self.target;
        let Storage { stores, checkpoints, works } = storage;
        let [store, end_store] = stores;
        let [saved, end_saved] = checkpoints;
        let [blocks, end_blocks] = blocks;
        let keep = sink.is_some();
        let work = Work::reuse(works, target);
        let mut start = Half::new::<A>(self, Side::Start, blocks, work, (store, saved), keep)?;
        let work = Work::reuse(works, target);
        let mut end =
            Half::new::<A>(self, Side::End, end_blocks, work, (end_store, end_saved), keep)?;
        self.both([&mut start, &mut end], |half| half.climb::<A>(self, keep));

        let (mut from_end, mut from_start) = (end.state.clone(), start.state.clone());
        let cross = |side, over: &Half<'_>, state: &mut [f64], work: &mut Work, scale| {
            A::cross(self.level, (side, target), (&over.state, over.is_whole()), state, work, scale)
        };
        let crossing = cross(Side::End, &start, &mut from_end, &mut end.work, None);
        let log_likelihood = crossing.log();
        let Some(sink) = sink.filter(|_| crossing.total != 0.0) else {
            let all = start.kept.max(end.kept) == Kept::All;
            works.extend([start.work, end.work]);
            let trusted = all && log_likelihood < f64::INFINITY;
            return Ok(Outcome { log_likelihood, trusted });
        };
        if !end.blocks.is_empty() {
            let scale = Some(crossing.scale);
            cross(Side::Start, &end, &mut from_start, &mut start.work, scale);
        }
        // What one direction has lost shows in the other one, which must not have lost the same paths.
        let trusted = start.is_whole() || end.is_whole();
        let mut meet = |half, state| Meeting {
            half,
            state,
            work: Work::reuse(works, target),
            crossing,
            trusted,
        };
        let (mut start, mut end) = (meet(start, from_end), meet(end, from_start));
        self.both([&mut start, &mut end], |meeting| {
            let blocks = 0..meeting.half.blocks.len();
            meeting.descend::<A>(self, 0, blocks, sink);
        });
        works.extend([start.half.work, start.work, end.half.work, end.work]);
        Ok(Outcome { log_likelihood, trusted: start.trusted && end.trusted })
    }

    fn both<T: Send>(&self, sides: [&mut T; 2], work: impl Fn(&mut T) + Sync) {
        let sides = sides.map(Mutex::new);
        parallel::run(2, task_ns(self.parallel), &|tasks| {
            for i in tasks {
                work(&mut sides[i].lock().unwrap_or_else(PoisonError::into_inner));
            }
        });
    }

    /// The emission rows of a block.
    fn emissions<'s>(&'s self, form: Form, block: &Block, window: &'s mut Vec<f64>) -> &'s [f64] {
        let Range { start, end } = block.frames;
        let stride = self.target.stride;
        match self.table {
            Some(table) if form == Form::Linear => &table[start * stride..end * stride],
            _ => {
                let parts = if form == Form::Wide { 2 } else { 1 };
                window.resize((end - start) * parts * stride, 0.0);
                self.source.fill(form, block.frames.clone(), window);
                window
            }
        }
    }
}

/// One direction on its half of the frames.
struct Half<'a> {
    side: Side,
    blocks: Vec<Block>,
    state: Vec<f64>,
    work: Work,
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
        blocks: Vec<Block>,
        work: Work,
        (store, checkpoints): (&'a mut Lines, &'a mut Vec<f64>),
        keep: bool,
    ) -> Result<Self, Error> {
        let target = lattice.target;
        let mut state = vec![0.0; state_len(target)];
        A::start(&mut state, if side == Side::Start { 0 } else { target.len });
        let plan =
            if keep { Plan::new::<A>(target, &blocks, lattice.budget / 2) } else { Plan::NOTHING };
        let store = store.sized(Sizes::of::<A>(target, &blocks).store(plan))?;
        forget(store);
        Ok(Half {
            side,
            work,
            store,
            checkpoints: sized(checkpoints, plan.levels * plan.fan * state.len())?,
            state,
            blocks,
            plan,
            kept: Kept::All,
        })
    }

    fn is_whole(&self) -> bool {
        self.kept < Kept::Lossy
    }

    /// Goes from the end of the utterance to the middle.
    fn climb<A: Arithmetic>(&mut self, lattice: &Lattice<'_>, keep: bool) {
        let all = 0..self.blocks.len();
        if !keep {
            self.skip::<A>(lattice, all);
        } else if self.plan.levels == 0 {
            self.store::<A>(lattice, all);
        } else {
            let pieces = self.plan.pieces(&all);
            for (i, piece) in pieces.enumerate() {
                self.save(0, i);
                self.skip::<A>(lattice, piece);
            }
        }
    }

    fn checkpoint(&self, level: usize, i: usize) -> Range<usize> {
        let start = (level * self.plan.fan + i) * self.state.len();
        start..start + self.state.len()
    }

    fn save(&mut self, level: usize, i: usize) {
        let place = self.checkpoint(level, i);
        self.checkpoints[place].copy_from_slice(&self.state);
    }

    fn restore(&mut self, level: usize, i: usize) {
        let place = self.checkpoint(level, i);
        self.state.copy_from_slice(&self.checkpoints[place]);
    }

    /// Goes through some blocks.
    fn skip<A: Arithmetic>(&mut self, lattice: &Lattice<'_>, blocks: Range<usize>) {
        for block in &self.blocks[blocks] {
            let mut window = std::mem::take(&mut self.work.window);
            let e = lattice.emissions(A::FORM, block, &mut window);
            let at = (self.side, lattice.target);
            let kept =
                A::advance(lattice.level, at, (block, e), &mut self.state, &mut self.work, None);
            self.kept = self.kept.max(kept);
            self.work.window = window;
        }
    }

    /// Goes through some blocks and stores their rows.
    fn store<A: Arithmetic>(&mut self, lattice: &Lattice<'_>, blocks: Range<usize>) {
        let mut begin = 0;
        for block in &self.blocks[blocks] {
            let len = A::store_len(lattice.target, block.frames.len());
            let store = &mut self.store[begin..begin + len];
            begin += len;
            let mut window = std::mem::take(&mut self.work.window);
            let e = lattice.emissions(A::FORM, block, &mut window);
            let at = (self.side, lattice.target);
            let (state, work) = (&mut self.state, &mut self.work);
            let kept = A::advance(lattice.level, at, (block, e), state, work, Some(store));
            self.kept = self.kept.max(kept);
            self.work.window = window;
        }
    }
}

/// A half, and the other direction on its way through it.
struct Meeting<'a> {
    half: Half<'a>,
    state: Vec<f64>,
    work: Work,
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
    ) {
        if level == self.half.plan.levels {
            if level > 0 {
                self.half.store::<A>(lattice, blocks.clone());
            }
            return self.pass::<A>(lattice, blocks, sink);
        }
        let pieces: Vec<_> = self.half.plan.pieces(&blocks).collect();
        // The first level was saved on the way to the middle.
        if level > 0 {
            for (i, piece) in pieces.iter().enumerate() {
                self.half.save(level, i);
                if i + 1 < pieces.len() {
                    self.half.skip::<A>(lattice, piece.clone());
                }
            }
        }
        for (i, piece) in pieces.into_iter().enumerate().rev() {
            self.half.restore(level, i);
            self.descend::<A>(lattice, level + 1, piece, sink);
        }
    }

    /// Goes back through stored blocks.
    fn pass<A: Arithmetic>(
        &mut self,
        lattice: &Lattice<'_>,
        blocks: Range<usize>,
        sink: &dyn Sink,
    ) {
        let target = lattice.target;
        let lens = |block: &Block| A::store_len(target, block.frames.len());
        let mut end: usize = self.half.blocks[blocks.clone()].iter().map(lens).sum();
        let (owner, side) = (self.half.side, self.half.side.other());
        let whole = self.half.is_whole();
        let mut window = std::mem::take(&mut self.work.window);
        let mut totals = std::mem::take(&mut self.work.totals);
        for block in self.half.blocks[blocks].iter().rev() {
            let begin = end - lens(block);
            let store = &mut self.half.store[begin..end];
            let stored = (&mut *store, whole);
            end = begin;
            totals.resize(block.frames.len(), [0.0; 2]);
            let e = lattice.emissions(A::FORM, block, &mut window);
            let state = (&mut self.state[..], self.crossing.scale);
            let (at, work) = ((side, target), &mut self.work);
            self.trusted &=
                A::pass(lattice.level, at, (block, e), state, work, stored, &mut totals);
            let error = |[a, b]: &[f64; 2]| ((a + b) / self.crossing.total - 1.0).abs();
            self.trusted &= totals.iter().all(|total| error(total) <= TOLERANCE);
            let last = block.frames.len() - 1;
            let rows = |i| {
                let i = if owner == Side::Start { i } else { last - i };
                A::occupancies(target, store, i)
            };
            sink.take(block.frames.clone(), &rows, &totals, &mut self.work.sink);
        }
        (self.work.window, self.work.totals) = (window, totals);
    }
}

/// Marks elements as not to be read before they are written: they may be those of another sample. Where debug assertions
/// are on, whoever does it all the same gets numbers that no result survives.
fn forget(buffer: &mut [f64]) {
    if cfg!(debug_assertions) {
        buffer.fill(1e300);
    }
}

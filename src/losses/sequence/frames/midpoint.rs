//! The two directions of a lattice: they meet in the middle, then each passes back through the half of the other one.
//!
//! The forward direction stores the rows of the first half of the frames, the backward direction those of the second
//! half, both at once. Where they meet, their products add up to the likelihood. Then the backward direction goes on
//! through the first half and turns the stored rows into occupancies, and the forward direction does the same with the
//! second half. That is the work and the memory of one full forward pass and one backward pass, on two threads where
//! there are two. The middle depends on the number of frames alone, and so does every bit of the result.
//!
//! Where the rows of a half do not fit into the memory limit, see [`super::checkpoints`].

use super::arithmetic::{Arithmetic, MeetArgs, Precision, Topology};
use super::half::{Cursor, HalfLattice, HalfPassBack, HalfStorage, SampleLattice};
use super::occupancies::OccupancySink;
use super::{Direction, task_ns};
use crate::error::Result;
use crate::scratch::Reusable;
use crate::threads;
use std::sync::{Mutex, PoisonError};

/// The sum over all paths of a lattice.
#[derive(Clone, Copy, Debug)]
pub struct PathSum {
    /// Its logarithm.
    pub log_likelihood: f64,
    /// Whether nothing of weight was lost or added. If there is no sink, whether nothing at all was.
    pub trusted: bool,
}

/// The memory of both halves, which goes from sample to sample.
#[derive(Default)]
pub struct MidpointStorage<B> {
    halves: [HalfStorage; 2],
    /// Two cursors for the way to the middle, and two for the way back.
    cursors: [Cursor<B>; 4],
}

impl<B: Reusable> Reusable for MidpointStorage<B> {
    fn bytes(&self) -> usize {
        let halves: usize = self.halves.iter().map(HalfStorage::bytes).sum();
        halves + self.cursors.iter().map(Cursor::bytes).sum::<usize>()
    }
}

impl<T: Topology> SampleLattice<'_, T> {
    /// Runs both directions. With a sink they go all the way; without one, to the middle.
    pub fn run<A: Arithmetic<Target = T>>(
        &self,
        storage: &mut MidpointStorage<T::Buffers>,
        sink: Option<&dyn OccupancySink>,
    ) -> Result<PathSum> {
        let target = self.target;
        for cursor in &mut storage.cursors {
            cursor.fit::<A>(target)?;
        }
        let [first, second] = &mut storage.halves;
        let [to_middle, to_middle_backward, back, back_forward] = &mut storage.cursors;
        let stores = sink.is_some();
        let mut first = HalfLattice::<A>::new(self, Direction::Forward, first, to_middle, stores)?;
        let mut second =
            HalfLattice::<A>::new(self, Direction::Backward, second, to_middle_backward, stores)?;
        self.both([&mut first, &mut second], HalfLattice::advance_to_middle)?;

        let meet = |own: &HalfLattice<'_, A>,
                    opposite: &HalfLattice<'_, A>,
                    cursor: &mut Cursor<T::Buffers>,
                    scale| {
            cursor.state.copy_from_slice(&own.cursor.state);
            let args = MeetArgs {
                direction: own.direction,
                target,
                opposite: &opposite.cursor.state,
                opposite_precision: opposite.precision,
                state: &mut cursor.state,
                buffers: &mut cursor.buffers,
                scale,
            };
            A::meet(self.level, args)
        };
        let likelihood = meet(&second, &first, back, None);
        let log_likelihood = likelihood.log;
        let Some(sink) = sink.filter(|_| likelihood.total != 0.0) else {
            let full = first.precision.max(second.precision) == Precision::Full;
            return Ok(PathSum { log_likelihood, trusted: full && log_likelihood < f64::INFINITY });
        };
        if !second.is_empty() {
            meet(&first, &second, back_forward, Some(likelihood.scale));
        }
        // Paths that one direction has lost show in the opposite one, unless that has lost the same paths.
        let trusted = first.precision.has_all_paths() || second.precision.has_all_paths();
        let mut first = HalfPassBack { half: first, cursor: back, likelihood, trusted };
        let mut second = HalfPassBack { half: second, cursor: back_forward, likelihood, trusted };
        self.both([&mut first, &mut second], |half| half.run(sink))?;
        Ok(PathSum { log_likelihood, trusted: first.trusted && second.trusted })
    }

    /// Does the work of both halves, on two threads if the lattice is parallel.
    fn both<H: Send>(
        &self,
        halves: [&mut H; 2],
        work: impl Fn(&mut H) -> Result<()> + Sync,
    ) -> Result<()> {
        let halves = halves.map(Mutex::new);
        threads::run(2, task_ns(self.parallel), &|tasks| {
            for i in tasks {
                work(&mut halves[i].lock().unwrap_or_else(PoisonError::into_inner))?;
            }
            Ok(())
        })
    }
}

//! Memory that goes from sample to sample, and from call to call if there is little of it: to get it from the system anew
//! takes a tenth of the time of a call.

use super::frames::Frame;
use super::planes::Lines;
use super::sweep::Storage;
use super::target::Target;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, TryLockError};

/// What the samples of one thread are computed in.
#[derive(Default)]
pub(super) struct Scratch {
    pub target: Target,
    pub frames: Vec<Frame>,
    pub table: Lines,
    pub storage: Storage,
}

impl Scratch {
    /// Calls `work` with what an earlier call has left, or with a new one.
    pub fn with<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
        let mut scratch = KEPT.take().unwrap_or_default();
        let result = work(&mut scratch);
        KEPT.put(scratch);
        result
    }

    fn bytes(&self) -> usize {
        let frames = self.frames.capacity() * size_of::<Frame>();
        let table = self.table.capacity() * size_of::<f64>();
        self.target.capacity() + frames + table + self.storage.bytes()
    }
}

/// What no call uses now. A slot that is locked is passed over, so that nobody waits, a child least of all whose parent
/// held the lock when it forked.
struct Kept {
    slots: [Mutex<Option<Box<Scratch>>>; SLOTS],
    /// What is in the slots.
    bytes: AtomicUsize,
}

const SLOTS: usize = 64;

/// The most that is kept in all.
const MOST_BYTES: usize = 64 << 20;

static KEPT: Kept = Kept { slots: [const { Mutex::new(None) }; SLOTS], bytes: AtomicUsize::new(0) };

thread_local! {
    /// The slot that this thread turns to first: what it has left is in the cache of its CPU.
    static OWN_SLOT: Cell<usize> = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) % SLOTS)
    };
}

impl Kept {
    /// The first result that is not None of the slots that nobody else is at, the thread's own one first.
    fn find<R>(&self, mut f: impl FnMut(&mut Option<Box<Scratch>>) -> Option<R>) -> Option<R> {
        let own = OWN_SLOT.get();
        (0..SLOTS).find_map(|i| match self.slots[(own + i) % SLOTS].try_lock() {
            Ok(mut slot) => f(&mut slot),
            Err(TryLockError::Poisoned(slot)) => f(&mut slot.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })
    }

    fn take(&self) -> Option<Box<Scratch>> {
        self.find(|slot| {
            let scratch = slot.take()?;
            self.bytes.fetch_sub(scratch.bytes(), Ordering::Relaxed);
            Some(scratch)
        })
    }

    fn put(&self, scratch: Box<Scratch>) {
        let more = scratch.bytes();
        let add = |bytes: usize| Some(bytes.saturating_add(more)).filter(|&all| all <= MOST_BYTES);
        if self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            return;
        }
        let mut scratch = Some(scratch);
        let placed = self.find(|slot| {
            if slot.is_none() {
                *slot = scratch.take();
            }
            scratch.is_none().then_some(())
        });
        if placed.is_none() {
            self.bytes.fetch_sub(more, Ordering::Relaxed);
        }
    }
}

/// Gives back what calls have left for later ones, and returns how many bytes that were.
pub fn release_memory() -> usize {
    let mut bytes = 0;
    while let Some(scratch) = KEPT.take() {
        bytes += scratch.bytes();
    }
    bytes
}

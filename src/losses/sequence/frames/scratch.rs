//! Memory that goes from call to call if there is little of it: to get it from the system anew takes a tenth of the
//! time of a call.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, TryLockError};

/// The buffers in which a thread computes its samples.
pub trait Reusable: Default {
    /// The bytes of their memory.
    fn bytes(&self) -> usize;
}

/// Buffers that no call uses now. A slot that is locked is passed over, so that nobody waits, a child least of all
/// whose parent held the lock when it forked.
pub struct ScratchCache<T> {
    slots: [Mutex<Option<Box<T>>>; SLOTS],
    /// The bytes of the buffers in the slots.
    bytes: AtomicUsize,
}

const SLOTS: usize = 64;

/// The most bytes that are kept in all slots.
const MOST_BYTES: usize = 64 << 20;

thread_local! {
    /// The slot that this thread turns to first: the buffers that it has left there are in the cache of its CPU.
    static OWN_SLOT: Cell<usize> = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) % SLOTS)
    };
}

impl<T: Reusable> ScratchCache<T> {
    pub const fn new() -> Self {
        ScratchCache { slots: [const { Mutex::new(None) }; SLOTS], bytes: AtomicUsize::new(0) }
    }

    /// Calls `work` with the buffers that an earlier call has left, or with new ones.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let mut scratch = self.take().unwrap_or_default();
        let result = work(&mut scratch);
        self.put(scratch);
        result
    }

    /// Gives all buffers back to the system. Returns how many bytes that were.
    pub fn release(&self) -> usize {
        let mut bytes = 0;
        while let Some(scratch) = self.take() {
            bytes += scratch.bytes();
        }
        bytes
    }

    /// The first result of `f` that is not None, of the slots that no other thread has locked, the thread's own slot
    /// first.
    fn find<R>(&self, mut f: impl FnMut(&mut Option<Box<T>>) -> Option<R>) -> Option<R> {
        let own = OWN_SLOT.get();
        (0..SLOTS).find_map(|i| match self.slots[(own + i) % SLOTS].try_lock() {
            Ok(mut slot) => f(&mut slot),
            Err(TryLockError::Poisoned(slot)) => f(&mut slot.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })
    }

    fn take(&self) -> Option<Box<T>> {
        self.find(|slot| {
            let scratch = slot.take()?;
            self.bytes.fetch_sub(scratch.bytes(), Ordering::Relaxed);
            Some(scratch)
        })
    }

    fn put(&self, scratch: Box<T>) {
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

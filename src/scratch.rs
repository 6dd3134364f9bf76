//! Memory that goes from call to call if there is little of it: to get it from the system anew can take half the time of a
//! call.

use std::any::Any;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, TryLockError};

/// The buffers in which a call, or a thread's part of it, is computed. What they hold when they are lent is of no use.
pub trait Reusable: Any + Default + Send {
    /// The bytes of their memory.
    fn bytes(&self) -> usize;
}

impl<T: Send + 'static> Reusable for Vec<T> {
    fn bytes(&self) -> usize {
        self.capacity() * size_of::<T>()
    }
}

/// Buffers that no call uses now, of any type.
struct Kept {
    buffers: Box<dyn Any + Send>,
    bytes: usize,
}

/// All of them. A slot that is locked is passed over, so that nobody waits, a child least of all whose parent held the lock
/// when it forked.
struct Cache {
    slots: [Mutex<Option<Kept>>; SLOTS],
    bytes: AtomicUsize,
}

/// Slots for 64 threads.
const SLOTS: usize = 64 * TYPES;

/// Types of buffers that a thread uses, or a few more.
const TYPES: usize = 4;

/// The most bytes that are kept.
const MOST_BYTES: usize = 64 << 20;

static CACHE: Cache = Cache::new();

thread_local! {
    /// The slot that this thread turns to first: the buffers that it has left there, and in the next ones, are in the cache
    /// of its CPU.
    static OWN_SLOT: Cell<usize> = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) % (SLOTS / TYPES) * TYPES)
    };
}

/// Calls `work` with the buffers that an earlier call has left, or with new ones.
pub fn with<T: Reusable, R>(work: impl FnOnce(&mut T) -> R) -> R {
    CACHE.with(work)
}

/// Gives back the memory that calls have left for later ones. Returns how many bytes that were.
pub fn release_memory() -> usize {
    CACHE.release()
}

impl Cache {
    const fn new() -> Self {
        Cache { slots: [const { Mutex::new(None) }; SLOTS], bytes: AtomicUsize::new(0) }
    }

    fn with<T: Reusable, R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let left = self.take(|kept| kept.buffers.is::<T>());
        let mut buffers = left.and_then(|kept| kept.buffers.downcast().ok()).unwrap_or_default();
        let result = work(&mut buffers);
        let bytes = buffers.bytes();
        self.put(Kept { buffers, bytes });
        result
    }

    fn release(&self) -> usize {
        std::iter::from_fn(|| self.take(|_| true)).map(|kept| kept.bytes).sum()
    }

    /// The first result of `f` that is not None, of the slots that no other thread has locked, the thread's own slot
    /// first.
    fn find<R>(&self, mut f: impl FnMut(&mut Option<Kept>) -> Option<R>) -> Option<R> {
        let own = OWN_SLOT.get();
        (0..SLOTS).find_map(|i| match self.slots[(own + i) % SLOTS].try_lock() {
            Ok(mut slot) => f(&mut slot),
            Err(TryLockError::Poisoned(slot)) => f(&mut slot.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })
    }

    /// Buffers that are wanted, if there are any.
    #[inline(never)]
    fn take(&self, is_wanted: fn(&Kept) -> bool) -> Option<Kept> {
        let kept = self.find(|slot| slot.take_if(|kept| is_wanted(kept)))?;
        self.bytes.fetch_sub(kept.bytes, Ordering::Relaxed);
        Some(kept)
    }

    /// Keeps buffers, instead of others if these were too many bytes together, or if no slot is free.
    #[inline(never)]
    fn put(&self, kept: Kept) {
        let more = kept.bytes;
        let add = |bytes: usize| Some(bytes.saturating_add(more)).filter(|&all| all <= MOST_BYTES);
        while self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_err() {
            if more > MOST_BYTES || self.take(|_| true).is_none() {
                return;
            }
        }
        let mut kept = Some(kept);
        self.find(|slot| {
            if slot.is_none() {
                *slot = kept.take();
            }
            kept.is_none().then_some(())
        });
        if kept.is_some() {
            let replaced = self.find(|slot| slot.replace(kept.take()?)).or(kept);
            self.bytes.fetch_sub(replaced.map_or(0, |kept| kept.bytes), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Bytes<const KIND: u8>(Vec<u8>);

    impl<const KIND: u8> Reusable for Bytes<KIND> {
        fn bytes(&self) -> usize {
            self.0.capacity()
        }
    }

    impl Cache {
        /// How long buffers of a kind are when they are lent; then they are made as long as that.
        fn lend<const KIND: u8>(&self, len: usize) -> usize {
            self.with(|Bytes(x): &mut Bytes<KIND>| {
                let before = x.len();
                x.resize(len, 0);
                before
            })
        }
    }

    #[test]
    fn buffers_are_kept_by_their_type() {
        let cache = Cache::new();
        assert_eq!([cache.lend::<1>(100), cache.lend::<2>(200)], [0, 0]);
        assert_eq!([cache.lend::<1>(100), cache.lend::<2>(200)], [100, 200]);
        cache.with(|Bytes(outer): &mut Bytes<1>| {
            assert_eq!([outer.len(), cache.lend::<1>(50)], [100, 0], "lent twice");
        });
        assert_eq!(cache.release(), 100 + 200 + 50);
        assert_eq!([cache.release(), cache.lend::<1>(0)], [0, 0]);
    }

    #[test]
    fn buffers_in_full_slots_are_replaced() {
        fn fill(cache: &Cache, slots: usize) {
            cache.with(|Bytes(x): &mut Bytes<1>| {
                x.resize(1, 0);
                if slots > 1 {
                    fill(cache, slots - 1);
                }
            });
        }
        let cache = Cache::new();
        fill(&cache, SLOTS);
        assert_eq!([cache.lend::<2>(100), cache.lend::<2>(0)], [0, 100]);
        assert!(cache.release() >= SLOTS - 1 + 100);
        assert_eq!(cache.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_limited_number_of_bytes_is_kept() {
        let cache = Cache::new();
        cache.lend::<1>(MOST_BYTES + 1);
        assert_eq!(cache.release(), 0);
        // The newer buffers stay.
        cache.lend::<1>(MOST_BYTES / 4 * 3);
        cache.lend::<2>(MOST_BYTES / 2);
        assert_eq!([cache.lend::<1>(0), cache.lend::<2>(0)], [0, MOST_BYTES / 2]);
        assert_eq!(cache.release(), MOST_BYTES / 2);
    }
}

//! Values that all threads share without a lock.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A value shared by all threads that is replaced, never changed or freed: readers need no lock, so that `fork` can
/// not catch one locked.
pub(super) struct Published<T: 'static>(AtomicPtr<T>);

impl<T: Send + Sync> Published<T> {
    pub const fn nothing() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: the pointer is null or comes from the `Box::leak` below, released by the exchange that stored it.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Publishes `new` in place of `old`, unless another thread was faster. Returns what is published now.
    pub fn replace(&self, old: Option<&'static T>, new: T) -> &'static T {
        let old = old.map_or(ptr::null_mut(), |old| ptr::from_ref(old).cast_mut());
        let new = Box::leak(Box::new(new));
        match self.0.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            Err(_) => self.get().expect("what was published once is never withdrawn"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishing_keeps_the_first_of_two_rivals() {
        let cell = Published::nothing();
        assert!(cell.get().is_none());
        let first = cell.replace(None, 1);
        assert_eq!(*cell.replace(None, 2), 1);
        assert_eq!(*cell.replace(Some(first), 3), 3);
        assert_eq!(cell.get(), Some(&3));
    }
}

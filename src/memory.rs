//! Memory whose size depends on the call: the system may refuse it, and then the call fails and nothing else.
//!
//! The standard library's own ways to grow end the process instead, and so are not used for anything that grows with
//! the input; `clippy.toml` lists what that forbids.

use crate::error::{Error, Result};
use crate::threads;
use smallvec::{Array, SmallVec};

/// Elements written between two looks at whether the call is to stop: the system takes its time to give new memory.
const FILLED_AT_ONCE: usize = 1 << 18;

/// `len` copies of `value`.
pub(crate) fn filled<T: Copy>(value: T, len: usize) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    grow(&mut vec, len, value)?;
    Ok(vec)
}

/// Makes a vector longer, up to `len` elements, with copies of `value`.
#[expect(clippy::disallowed_methods, reason = "room is reserved first")]
pub(crate) fn grow<T: Copy>(vec: &mut Vec<T>, len: usize, value: T) -> Result<()> {
    reserve(vec, len.saturating_sub(vec.len()))?;
    while vec.len() < len {
        vec.resize(len.min(vec.len() + FILLED_AT_ONCE), value);
        if vec.len() < len {
            threads::check()?;
        }
    }
    Ok(())
}

/// Room for `more` elements.
pub(crate) fn reserve<T>(vec: &mut Vec<T>, more: usize) -> Result<()> {
    let bytes = vec.len().saturating_add(more).saturating_mul(size_of::<T>());
    vec.try_reserve_exact(more).map_err(|_| Error::memory(bytes))
}

/// The elements of an iterator, of which a few take no memory of their own.
#[expect(clippy::disallowed_methods, reason = "room is reserved first")]
pub(crate) fn collect_small<A: Array>(
    elements: impl ExactSizeIterator<Item = A::Item>,
) -> Result<SmallVec<A>> {
    let mut vec = SmallVec::new();
    let bytes = elements.len().saturating_mul(size_of::<A::Item>());
    vec.try_reserve_exact(elements.len()).map_err(|_| Error::memory(bytes))?;
    vec.extend(elements);
    Ok(vec)
}

/// The elements of an iterator that knows how many there are.
#[expect(clippy::disallowed_methods, reason = "room is reserved first")]
pub(crate) fn collect<T>(elements: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    reserve(&mut vec, elements.len())?;
    vec.extend(elements);
    Ok(vec)
}

/// A copy.
pub(crate) fn copied<T: Copy>(elements: &[T]) -> Result<Vec<T>> {
    collect(elements.iter().copied())
}

/// Replaces what a vector holds by some items, and makes room for `len`.
#[expect(clippy::disallowed_methods, reason = "room is reserved first")]
pub(crate) fn refill<T>(
    vec: &mut Vec<T>,
    len: usize,
    items: impl IntoIterator<Item = T>,
) -> Result<()> {
    vec.clear();
    reserve(vec, len)?;
    vec.extend(items);
    Ok(())
}

//! Shapes and strides: their arithmetic, without the memory of an array.

use smallvec::SmallVec;

/// A shape.
pub type Shape = SmallVec<[usize; 3]>;
/// Byte strides.
pub type Strides = SmallVec<[isize; 3]>;

/// A shape or strides from a slice. For as few numbers as most have, a copy one by one is quicker than a call of
/// `memcpy`, of which a loss would make some forty.
pub fn short<T: Copy + Default>(x: &[T]) -> SmallVec<[T; 3]> {
    if x.len() > 3 {
        return SmallVec::from_slice(x);
    }
    let mut few = [T::default(); 3];
    for (to, from) in few.iter_mut().zip(x) {
        *to = *from;
    }
    SmallVec::from_buf_and_len(few, x.len())
}

/// Whether an array of one shape broadcasts to another by NumPy's rule.
pub fn broadcasts(from: &[usize], to: &[usize]) -> bool {
    from.len() <= to.len()
        && from.iter().rev().zip(to.iter().rev()).all(|(have, want)| have == want || *have == 1)
}

/// Whether an array of one shape takes another by the rule of [`super::View::reshape`].
pub fn reshapes(from: &[usize], to: &[usize]) -> bool {
    let long = |shape: &&usize| **shape != 1;
    (from.len() == 1 && from[0] == elements(to))
        || from.iter().filter(long).eq(to.iter().filter(long))
}

/// The number of elements of a shape; `usize::MAX` for more than can be counted.
pub fn elements(shape: &[usize]) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    shape.iter().fold(1, |n: usize, &d| n.saturating_mul(d))
}

/// Strides of a C-ordered array whose last axis steps by `unit`.
pub fn c_strides(shape: &[usize], unit: isize) -> Strides {
    let mut strides: Strides = smallvec::smallvec![0; shape.len()];
    let mut stride = unit;
    for (s, &d) in strides.iter_mut().zip(shape).rev() {
        *s = stride;
        // Only a shape without elements may go beyond what there is of memory.
        stride = stride.wrapping_mul(d.max(1) as isize);
    }
    strides
}

/// Whether elements of `size` bytes lie one behind another in C order.
pub fn is_dense(size: usize, shape: &[usize], strides: &[isize]) -> bool {
    let mut step = size as isize;
    shape.iter().zip(strides).rev().all(|(&d, &s)| {
        let behind = d == 1 || s == step;
        step = step.wrapping_mul(d as isize);
        behind
    })
}

/// The lowest and one past the highest byte that an array reaches, from its first element on.
pub fn reach(size: usize, shape: &[usize], strides: &[isize]) -> (isize, isize) {
    if shape.contains(&0) {
        return (0, 0);
    }
    let (mut low, mut high) = (0, size as isize);
    for (&d, &s) in shape.iter().zip(strides) {
        let reach = s * (d as isize - 1);
        low += reach.min(0);
        high += reach.max(0);
    }
    (low, high)
}

/// The strides in bytes of a view that stays within `len` elements of `size` bytes.
#[expect(clippy::disallowed_methods, reason = "as long as the rank")]
pub fn byte_strides(
    size: usize,
    len: usize,
    first: usize,
    shape: &[usize],
    strides: &[isize],
) -> Option<Strides> {
    if shape.len() != strides.len() {
        return None;
    }
    if shape.contains(&0) {
        return Some(c_strides(shape, size as isize));
    }
    let (mut low, mut high) = (first as i128, first as i128);
    for (&d, &s) in shape.iter().zip(strides) {
        let reach = s as i128 * (d as i128 - 1);
        (low, high) = (low + reach.min(0), high + reach.max(0));
        // Before the next axis, so that the sums stay within their type.
        if low < 0 || high >= len as i128 {
            return None;
        }
    }
    // Nobody steps along an axis of one element, whose stride may be anything.
    let bytes = |(&d, &s): (&usize, &isize)| if d == 1 { 0 } else { s * size as isize };
    (high < len as i128).then(|| shape.iter().zip(strides).map(bytes).collect())
}

/// Whether two elements of `size` bytes may share memory: true unless each axis steps over all that lies within it.
#[expect(clippy::disallowed_methods, reason = "as long as the rank")]
pub fn overlaps_itself(size: usize, shape: &[usize], strides: &[isize]) -> bool {
    if shape.contains(&0) {
        return false;
    }
    let axes = strides.iter().zip(shape).filter(|&(_, &d)| d > 1);
    let mut axes: SmallVec<[(usize, usize); 6]> =
        axes.map(|(s, &d)| (s.unsigned_abs(), d)).collect();
    axes.sort_unstable();
    let mut reach = size;
    axes.iter().any(|&(stride, d)| {
        let within = stride < reach;
        reach = reach.saturating_add(stride.saturating_mul(d - 1));
        within
    })
}

/// The index of the element at position `at` in C order.
#[expect(clippy::disallowed_macros, reason = "as long as the rank")]
pub fn unravel(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, &d) in index.iter_mut().zip(shape).rev() {
        *i = at % d;
        at /= d;
    }
    index
}

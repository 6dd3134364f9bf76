//! Frames of a batch: rows of classes, side by side in memory, anywhere in a strided array.

use crate::real::Real;
use crate::view;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::marker::PhantomData;
use std::slice;

/// A floating-point type that frames are stored in.
pub trait Element: view::Element + Send + Sync {
    /// The type that rows of many classes are computed in.
    type Real: Real;

    /// Whether that is the type itself: then no scratch is needed below.
    const DIRECT: bool;

    /// A row as numbers to compute with: itself, or converted into `scratch` of the same length.
    fn load<'a>(row: &'a [Self], scratch: &'a mut [Self::Real]) -> &'a [Self::Real];
    /// A row to write: itself, or `scratch`, to be handed to [`Element::store`].
    fn buffer<'a>(row: &'a mut [Self], scratch: &'a mut [Self::Real]) -> &'a mut [Self::Real];
    /// Completes a row that was written through [`Element::buffer`].
    fn store(row: &mut [Self], scratch: &[Self::Real]);
}

macro_rules! real_element {
    ($t:ident) => {
        impl Element for $t {
            type Real = $t;
            const DIRECT: bool = true;

            #[inline(always)]
            fn load<'a>(row: &'a [$t], _: &'a mut [$t]) -> &'a [$t] {
                row
            }
            #[inline(always)]
            fn buffer<'a>(row: &'a mut [$t], _: &'a mut [$t]) -> &'a mut [$t] {
                row
            }
            #[inline(always)]
            fn store(_: &mut [$t], _: &[$t]) {}
        }
    };
}

macro_rules! half_element {
    ($t:ident) => {
        impl Element for $t {
            type Real = f32;
            const DIRECT: bool = false;

            #[inline(always)]
            fn load<'a>(row: &'a [$t], scratch: &'a mut [f32]) -> &'a [f32] {
                row.convert_to_f32_slice(scratch);
                scratch
            }
            #[inline(always)]
            fn buffer<'a>(_: &'a mut [$t], scratch: &'a mut [f32]) -> &'a mut [f32] {
                scratch
            }
            #[inline(always)]
            fn store(row: &mut [$t], scratch: &[f32]) {
                row.convert_from_f32_slice(scratch);
            }
        }
    };
}

real_element!(f32);
real_element!(f64);
half_element!(f16);
half_element!(bf16);

/// Where row `(n, t)` of an array begins: `origin + n * strides[0] + t * strides[1]`, in elements.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The position of row (0, 0).
    pub origin: usize,
    /// From one sample to the next, and from one frame to the next.
    pub strides: [isize; 2],
    /// How many samples, and how many frames each.
    pub counts: [usize; 2],
    /// Elements of a row, which lie side by side.
    pub width: usize,
}

impl Layout {
    /// A C-ordered array of `samples` times `frames` rows.
    pub fn contiguous(samples: usize, frames: usize, width: usize) -> Self {
        let strides = [(frames * width) as isize, width as isize];
        Layout { origin: 0, strides, counts: [samples, frames], width }
    }

    #[inline(always)]
    fn position(&self, n: usize, t: usize) -> usize {
        debug_assert!(n < self.counts[0] && t < self.counts[1]);
        let offset = n as isize * self.strides[0] + t as isize * self.strides[1];
        self.origin.wrapping_add_signed(offset)
    }

    /// Whether every row lies inside `len` elements.
    fn fits(&self, len: usize) -> bool {
        if self.counts.contains(&0) {
            return true;
        }
        let (mut low, mut high) = (self.origin as i128, self.origin as i128 + self.width as i128);
        for (&stride, &count) in self.strides.iter().zip(&self.counts) {
            let reach = stride as i128 * (count as i128 - 1);
            low += reach.min(0);
            high += reach.max(0);
        }
        low >= 0 && high <= len as i128
    }

    /// Whether no two rows share an element: the rows of one axis fit between two steps of the other.
    fn is_disjoint(&self) -> bool {
        if self.counts.contains(&0) {
            return true;
        }
        let mut axes =
            [0, 1].map(|i| (self.strides[i].unsigned_abs() as u128, self.counts[i] as u128));
        axes.sort_unstable();
        let mut reach = self.width as u128;
        for (stride, count) in axes.into_iter().filter(|axis| axis.1 > 1) {
            if stride < reach {
                return false;
            }
            reach += stride * (count - 1);
        }
        true
    }
}

/// Rows to read.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, E> {
    data: &'a [E],
    layout: Layout,
}

impl<'a, E> Rows<'a, E> {
    /// The rows of `data`; `None` if the layout leaves it.
    pub fn new(data: &'a [E], layout: Layout) -> Option<Self> {
        layout.fits(data.len()).then_some(Rows { data, layout })
    }

    /// How many samples, and how many frames each.
    pub fn counts(&self) -> [usize; 2] {
        self.layout.counts
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.layout.width
    }

    /// Row `(n, t)`.
    #[inline(always)]
    pub fn row(&self, n: usize, t: usize) -> &'a [E] {
        let start = self.layout.position(n, t);
        &self.data[start..start + self.layout.width]
    }
}

/// Rows to write, from several threads at once.
#[derive(Debug)]
pub struct RowsMut<'a, E> {
    data: *mut E,
    layout: Layout,
    life: PhantomData<&'a mut [E]>,
}

// SAFETY: a row is reached through `row` only, whose callers promise to share none.
unsafe impl<E: Send> Sync for RowsMut<'_, E> {}
// SAFETY: it stands for the exclusive borrow of a slice.
unsafe impl<E: Send> Send for RowsMut<'_, E> {}

impl<'a, E> RowsMut<'a, E> {
    /// The rows of `data`; `None` if the layout leaves it or two rows overlap.
    pub fn new(data: &'a mut [E], layout: Layout) -> Option<Self> {
        let valid = layout.fits(data.len()) && layout.is_disjoint();
        valid.then_some(RowsMut { data: data.as_mut_ptr(), layout, life: PhantomData })
    }

    /// How many samples, and how many frames each.
    pub fn counts(&self) -> [usize; 2] {
        self.layout.counts
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.layout.width
    }

    /// Row `(n, t)`.
    ///
    /// # Safety
    /// Nobody else may hold the same row.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn row(&self, n: usize, t: usize) -> &mut [E] {
        assert!(n < self.layout.counts[0] && t < self.layout.counts[1], "no row ({n}, {t})");
        // SAFETY: `new` has checked that all rows lie inside the slice and are disjoint; the caller sees to the rest.
        unsafe {
            slice::from_raw_parts_mut(self.data.add(self.layout.position(n, t)), self.layout.width)
        }
    }
}

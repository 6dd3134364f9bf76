//! Strided views of arrays of any element type, and the tiles that kernels compute on.
//!
//! A [`View`] is what the array boundary hands in: pointer, element type, shape, byte strides. A driver lines its
//! operands up as rows and columns ([`Grid`]) and then takes tile after tile: a plain slice where the memory is
//! already that, else a gathered and converted copy of the tile's size.

use crate::real::Real;
use half::{bf16, f16};
use smallvec::SmallVec;
use std::marker::PhantomData;

/// A shape.
pub type Shape = SmallVec<[usize; 4]>;
/// Byte strides.
pub type Strides = SmallVec<[isize; 4]>;

macro_rules! dtypes {
    ($($name:ident $t:ty, $text:literal, $x:ident $to:expr, $y:ident $of:expr;)*) => {
        /// An element type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DType {
            $(#[doc = $text] $name,)*
        }

        impl DType {
            /// The name that NumPy gives it.
            pub fn name(self) -> &'static str {
                match self { $(DType::$name => $text,)* }
            }
            /// Bytes of an element.
            pub fn size(self) -> usize {
                match self { $(DType::$name => size_of::<$t>(),)* }
            }
        }

        $(impl Element for $t {
            const DTYPE: DType = DType::$name;
            #[inline(always)]
            fn to<T: Real>(self) -> T {
                let $x = self;
                $to
            }
            #[inline(always)]
            fn of<T: Real>($y: T) -> Self {
                $of
            }
        })*

        /// Calls `$body` with the type alias `E` bound to the Rust type of a [`DType`].
        macro_rules! with_element {
            ($dtype:expr, $E:ident => $body:expr) => {
                match $dtype { $($crate::view::DType::$name => { type $E = $t; $body })* }
            };
        }
    };
}

dtypes! {
    F16 f16, "float16", x T::from_f32(x.to_f32()), y f16::from_f32(y.to_f32());
    BF16 bf16, "bfloat16", x T::from_f32(x.to_f32()), y bf16::from_f32(y.to_f32());
    F32 f32, "float32", x T::from_f32(x), y y.to_f32();
    F64 f64, "float64", x T::from_f64(x), y y.to_f64();
    I8 i8, "int8", x T::from_i64(i64::from(x)), y y.to_f64() as i8;
    I16 i16, "int16", x T::from_i64(i64::from(x)), y y.to_f64() as i16;
    I32 i32, "int32", x T::from_i64(i64::from(x)), y y.to_f64() as i32;
    I64 i64, "int64", x T::from_i64(x), y y.to_f64() as i64;
    U8 u8, "uint8", x T::from_u64(u64::from(x)), y y.to_f64() as u8;
    U16 u16, "uint16", x T::from_u64(u64::from(x)), y y.to_f64() as u16;
    U32 u32, "uint32", x T::from_u64(u64::from(x)), y y.to_f64() as u32;
    U64 u64, "uint64", x T::from_u64(x), y y.to_f64() as u64;
    Bool Boolean, "bool", x T::from_u64(u64::from(x.0 != 0)), y Boolean(u8::from(y != T::ZERO));
}

impl DType {
    /// Whether losses are computed for predictions of this type.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
    }
}

/// A byte that is a truth value; any bit pattern is valid.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Boolean(u8);

/// A type that arrays hold.
pub trait Element: Copy + 'static {
    /// Its tag.
    const DTYPE: DType;
    /// To a type of computation, rounded once.
    fn to<T: Real>(self) -> T;
    /// From a type of computation, rounded once (half types are computed in `f32`).
    fn of<T: Real>(x: T) -> Self;
}

/// A read-only strided array. Every element is aligned for its type and in native byte order.
#[derive(Clone, Debug)]
pub struct View<'a> {
    ptr: *const u8,
    dtype: DType,
    shape: Shape,
    strides: Strides,
    life: PhantomData<&'a [u8]>,
}

// SAFETY: a view only reads memory that is borrowed for its lifetime.
unsafe impl Send for View<'_> {}
// SAFETY: as above.
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// A view of a slice in C order.
    ///
    /// # Panics
    /// If `shape` does not hold `data.len()` elements.
    pub fn from_slice<E: Element>(data: &'a [E], shape: &[usize]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "shape and data differ in size");
        View {
            ptr: data.as_ptr().cast(),
            dtype: E::DTYPE,
            shape: shape.into(),
            strides: c_strides(shape, size_of::<E>()),
            life: PhantomData,
        }
    }

    /// A view of foreign memory.
    ///
    /// # Safety
    /// For `'a`, every element that shape and strides reach must be readable, aligned for `dtype` and initialised.
    pub unsafe fn from_raw_parts(
        ptr: *const u8,
        dtype: DType,
        shape: Shape,
        strides: Strides,
    ) -> Self {
        View { ptr, dtype, shape, strides, life: PhantomData }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// The byte strides.
    pub fn strides(&self) -> &Strides {
        &self.strides
    }
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Broadcast to `shape` by NumPy's rule, if it can be.
    pub fn broadcast_to(&self, shape: &[usize]) -> Option<View<'a>> {
        let lead = shape.len().checked_sub(self.shape.len())?;
        let mut strides: Strides = smallvec::smallvec![0; shape.len()];
        for (i, (&have, &stride)) in self.shape.iter().zip(&self.strides).enumerate() {
            match (have, shape[lead + i]) {
                (have, want) if have == want => strides[lead + i] = stride,
                (1, _) => {}
                _ => return None,
            }
        }
        Some(View { shape: shape.into(), strides, ..self.clone() })
    }

    /// The same elements under another shape: unit axes come and go, and a one-dimensional array takes any shape of
    /// its size in C order. `None` for everything else.
    pub fn reshape(&self, shape: &[usize]) -> Option<View<'a>> {
        if *self.shape == *shape {
            return Some(self.clone());
        }
        let strides = if self.shape.len() == 1 && self.len() == shape.iter().product::<usize>() {
            let unit = self.strides[0];
            c_strides(shape, 1).iter().map(|s| s * unit).collect()
        } else {
            let mut real =
                self.shape.iter().zip(&self.strides).filter(|(d, _)| **d != 1).map(|(d, s)| (*d, *s));
            let mut strides = Strides::new();
            for &d in shape {
                let stride = if d == 1 { Some((1, 0)) } else { real.next() };
                strides.push(stride.filter(|(have, _)| *have == d)?.1);
            }
            if real.next().is_some() {
                return None;
            }
            strides
        };
        Some(View { shape: shape.into(), strides, ..self.clone() })
    }

    /// With `axis` moved to position `to`.
    pub fn move_axis(&self, axis: usize, to: usize) -> View<'a> {
        let mut view = self.clone();
        let (d, s) = (view.shape.remove(axis), view.strides.remove(axis));
        view.shape.insert(to, d);
        view.strides.insert(to, s);
        view
    }

    /// With a new axis of size 1 before `axis`.
    pub fn insert_axis(&self, axis: usize) -> View<'a> {
        let mut view = self.clone();
        view.shape.insert(axis, 1);
        view.strides.insert(axis, 0);
        view
    }

    /// With `axis`, of size 1, taken away.
    pub fn remove_axis(&self, axis: usize) -> View<'a> {
        let mut view = self.clone();
        view.shape.remove(axis);
        view.strides.remove(axis);
        view
    }

    /// All elements in C order, copied.
    pub fn to_vec<T: Real>(&self) -> Vec<T> {
        let n = self.len();
        let mut out = vec![T::ZERO; n];
        if n > 0 {
            let flat = self.insert_axis(0);
            Grid::single(&flat.shape, &flat.strides).gather(&flat, 0, 0, 1, 0, &mut out);
        }
        out
    }
}

/// A writable strided array. Elements that are disjoint may be written from several threads at once.
#[derive(Clone, Debug)]
pub struct ViewMut<'a> {
    view: View<'a>,
    life: PhantomData<&'a mut [u8]>,
}

impl<'a> ViewMut<'a> {
    /// A view of a slice in C order.
    ///
    /// # Panics
    /// If `shape` does not hold `data.len()` elements.
    pub fn from_slice<E: Element>(data: &'a mut [E], shape: &[usize]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "shape and data differ in size");
        // SAFETY: the slice is borrowed exclusively for 'a and the strides stay within it.
        unsafe {
            Self::from_raw_parts(
                data.as_mut_ptr().cast(),
                E::DTYPE,
                shape.into(),
                c_strides(shape, size_of::<E>()),
            )
        }
    }

    /// A view of foreign memory.
    ///
    /// # Safety
    /// As [`View::from_raw_parts`], and for `'a` nobody else reads or writes the elements, which are all distinct.
    pub unsafe fn from_raw_parts(
        ptr: *mut u8,
        dtype: DType,
        shape: Shape,
        strides: Strides,
    ) -> Self {
        // SAFETY: the caller's promise.
        let view = unsafe { View::from_raw_parts(ptr, dtype, shape, strides) };
        ViewMut { view, life: PhantomData }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.view.dtype
    }
    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.view.shape
    }
    /// The byte strides.
    pub fn strides(&self) -> &Strides {
        &self.view.strides
    }
    /// With `axis` moved to position `to`.
    pub fn move_axis(self, axis: usize, to: usize) -> Self {
        ViewMut { view: self.view.move_axis(axis, to), life: PhantomData }
    }
    /// Under another shape, by the rule of [`View::reshape`].
    pub fn reshape(self, shape: &[usize]) -> Option<Self> {
        Some(ViewMut { view: self.view.reshape(shape)?, life: PhantomData })
    }
    /// Bytes of all elements.
    pub fn bytes(&self) -> usize {
        self.view.len() * self.view.dtype.size()
    }

    /// Copies `data`, all elements in C order, into the view.
    pub fn copy_from<T: Real>(&self, data: &[T]) {
        if !data.is_empty() {
            let flat = self.view.insert_axis(0);
            Grid::single(&flat.shape, &flat.strides).scatter(self, 0, 0, 1, 0, data);
        }
    }
}

/// Strides of a C-ordered array.
pub fn c_strides(shape: &[usize], size: usize) -> Strides {
    let mut strides: Strides = smallvec::smallvec![0; shape.len()];
    let mut stride = size as isize;
    for (s, &d) in strides.iter_mut().zip(shape).rev() {
        *s = stride;
        stride *= d.max(1) as isize;
    }
    strides
}

/// The lowest and one past the highest address that an array reaches.
pub fn extent(ptr: usize, size: usize, shape: &[usize], strides: &[isize]) -> (usize, usize) {
    if shape.contains(&0) {
        return (ptr, ptr);
    }
    let (mut low, mut high) = (0, size as isize);
    for (&d, &s) in shape.iter().zip(strides) {
        let reach = s * (d as isize - 1);
        low += reach.min(0);
        high += reach.max(0);
    }
    (ptr.wrapping_add_signed(low), ptr.wrapping_add_signed(high))
}

/// Operands of one shape lined up as rows (the first axis) and columns (all others, flattened in C order), with
/// axes that lie behind one another in every operand merged.
pub struct Grid {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    inner: Shape,
    operands: SmallVec<[Operand; 6]>,
}

struct Operand {
    row: isize,
    inner: Strides,
}

impl Grid {
    /// A grid for operands of shape `shape` (at least one axis).
    pub fn new(shape: &[usize]) -> Self {
        Grid {
            rows: shape[0],
            cols: shape[1..].iter().product(),
            inner: shape[1..].into(),
            operands: SmallVec::new(),
        }
    }

    /// A grid for one operand.
    pub fn single(shape: &[usize], strides: &Strides) -> Self {
        let mut grid = Grid::new(shape);
        grid.add(strides);
        grid.merge();
        grid
    }

    /// Adds an operand and returns its number.
    pub fn add(&mut self, strides: &Strides) -> usize {
        self.operands.push(Operand { row: strides[0], inner: strides[1..].into() });
        self.operands.len() - 1
    }

    /// Merges axes, once all operands are there.
    pub fn merge(&mut self) {
        let mut kept = 0;
        for axis in 0..self.inner.len() {
            let d = self.inner[axis];
            if d == 1 {
                continue;
            }
            let merges = kept > 0
                && self.operands.iter().all(|o| o.inner[kept - 1] == o.inner[axis] * d as isize);
            if merges {
                self.inner[kept - 1] *= d;
            } else {
                self.inner[kept] = d;
                kept += 1;
            }
            for o in &mut self.operands {
                o.inner[kept - 1] = o.inner[axis];
            }
        }
        self.inner.truncate(kept);
        for o in &mut self.operands {
            o.inner.truncate(kept);
        }
    }

    /// Whether operand `k` is constant along its columns.
    pub fn constant_in_row(&self, k: usize) -> bool {
        self.operands[k].inner.iter().all(|&s| s == 0)
    }

    /// Whether rows of operand `k` lie closer together than columns, so that gathering wants several rows at once.
    pub fn prefers_rows(&self, k: usize) -> bool {
        let o = &self.operands[k];
        let step = o.inner.last().map_or(0, |s| s.unsigned_abs());
        o.row != 0 && o.row.unsigned_abs() < step
    }

    /// Byte offset of a tile and whether it is one dense run of elements of `size` bytes.
    fn dense(&self, k: usize, size: usize, row: usize, rows: usize, col: usize) -> Option<isize> {
        let o = &self.operands[k];
        let unit = size as isize;
        let packed = match o.inner[..] {
            [] => true,
            [s] => s == unit,
            _ => false,
        };
        let row_packed = rows == 1 || o.row == self.cols as isize * unit;
        (packed && row_packed).then(|| o.row * row as isize + unit * col as isize)
    }

    /// Whether [`Grid::direct`] gives a slice for tiles of `rows` rows.
    pub fn is_direct<T: Real>(&self, out: &ViewMut<'_>, k: usize, rows: usize) -> bool {
        out.view.dtype == T::DTYPE && self.dense(k, size_of::<T>(), 0, rows, 0).is_some()
    }

    /// A tile of operand `k`: rows `row..row+rows`, and per row the columns from `col` on, `buffer.len() / rows` of
    /// them. Borrowed where memory holds it as such, else gathered into `buffer`.
    pub fn load<'s, T: Real>(
        &self,
        view: &'s View<'_>,
        k: usize,
        row: usize,
        rows: usize,
        col: usize,
        buffer: &'s mut [T],
    ) -> &'s [T] {
        if view.dtype == T::DTYPE
            && let Some(offset) = self.dense(k, size_of::<T>(), row, rows, col)
        {
            // SAFETY: a dense tile of elements of type T that the view may read.
            return unsafe {
                std::slice::from_raw_parts(view.ptr.offset(offset).cast(), buffer.len())
            };
        }
        self.gather(view, k, row, rows, col, buffer);
        buffer
    }

    /// The memory of a tile of an output as a slice to write, if it is one.
    ///
    /// # Safety
    /// No two live slices may overlap: every tile is taken by one thread at a time.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn direct<'s, T: Real>(
        &self,
        out: &'s ViewMut<'_>,
        k: usize,
        row: usize,
        rows: usize,
        col: usize,
        len: usize,
    ) -> Option<&'s mut [T]> {
        if out.view.dtype != T::DTYPE {
            return None;
        }
        let offset = self.dense(k, size_of::<T>(), row, rows, col)?;
        // SAFETY: a dense tile of the view; exclusiveness is the caller's promise.
        Some(unsafe {
            std::slice::from_raw_parts_mut(out.view.ptr.offset(offset).cast::<T>().cast_mut(), len)
        })
    }

    /// Calls `f(byte offset, first column, length, byte step)` for each straight run of operand `k` in the columns
    /// `col..col+cols`.
    fn runs(&self, k: usize, col: usize, cols: usize, mut f: impl FnMut(isize, usize, usize, isize)) {
        let strides = &self.operands[k].inner;
        let Some((&last, outer)) = self.inner.split_last() else {
            return f(0, 0, cols, 0);
        };
        let step = strides[outer.len()];
        let mut done = 0;
        while done < cols {
            let (mut index, within) = ((col + done) / last, (col + done) % last);
            let mut offset = within as isize * step;
            for (&d, &s) in outer.iter().zip(strides).rev() {
                offset += (index % d) as isize * s;
                index /= d;
            }
            let len = (last - within).min(cols - done);
            f(offset, done, len, step);
            done += len;
        }
    }

    fn gather<T: Real>(
        &self,
        view: &View<'_>,
        k: usize,
        row: usize,
        rows: usize,
        col: usize,
        buffer: &mut [T],
    ) {
        let cols = buffer.len() / rows;
        let row_step = self.operands[k].row;
        with_element!(view.dtype, E => {
            // SAFETY: `runs` and the row index stay within the shape that the view may read.
            let get = |offset: isize| unsafe { *view.ptr.offset(offset).cast::<E>() }.to::<T>();
            self.runs(k, col, cols, |offset, c, len, step| {
                let offset = offset + row as isize * row_step;
                if self.prefers_rows(k) {
                    transpose(rows, len, |r, i| {
                        buffer[r * cols + c + i] = get(offset + r as isize * row_step + i as isize * step);
                    });
                    return;
                }
                for r in 0..rows {
                    let offset = offset + r as isize * row_step;
                    let run = &mut buffer[r * cols + c..][..len];
                    if step == 0 {
                        run.fill(get(offset));
                    } else if step == size_of::<E>() as isize {
                        // SAFETY: a dense run of elements that the view may read.
                        let source = unsafe {
                            std::slice::from_raw_parts(view.ptr.offset(offset).cast::<E>(), len)
                        };
                        for (x, y) in run.iter_mut().zip(source) {
                            *x = y.to();
                        }
                    } else {
                        for (i, x) in run.iter_mut().enumerate() {
                            *x = get(offset + i as isize * step);
                        }
                    }
                }
            });
        });
    }

    /// Writes `buffer`, a tile as [`Grid::load`] takes it, to operand `k`. Tiles of different threads must be disjoint.
    pub fn scatter<T: Real>(
        &self,
        out: &ViewMut<'_>,
        k: usize,
        row: usize,
        rows: usize,
        col: usize,
        buffer: &[T],
    ) {
        let cols = buffer.len() / rows;
        let row_step = self.operands[k].row;
        with_element!(out.view.dtype, E => {
            // SAFETY: as in `gather`; the view is writable and no other thread has this tile.
            let put = |offset: isize, x: T| unsafe {
                *out.view.ptr.offset(offset).cast::<E>().cast_mut() = E::of(x);
            };
            self.runs(k, col, cols, |offset, c, len, step| {
                let offset = offset + row as isize * row_step;
                if self.prefers_rows(k) {
                    transpose(rows, len, |r, i| {
                        put(offset + r as isize * row_step + i as isize * step, buffer[r * cols + c + i]);
                    });
                    return;
                }
                for r in 0..rows {
                    let offset = offset + r as isize * row_step;
                    for (i, &x) in buffer[r * cols + c..][..len].iter().enumerate() {
                        put(offset + i as isize * step, x);
                    }
                }
            });
        });
    }
}

/// Visits a rectangle in blocks of 8 x 8, so that neither side of a transposition touches more cache lines of one set
/// than the cache has ways.
#[inline(always)]
fn transpose(rows: usize, cols: usize, mut visit: impl FnMut(usize, usize)) {
    const BLOCK: usize = 8;
    for r0 in (0..rows).step_by(BLOCK) {
        for c0 in (0..cols).step_by(BLOCK) {
            for c in c0..(c0 + BLOCK).min(cols) {
                for r in r0..(r0 + BLOCK).min(rows) {
                    visit(r, c);
                }
            }
        }
    }
}

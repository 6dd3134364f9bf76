//! NumPy arrays in and out. The only place of the Python layer that touches array memory.

use super::error::exception;
use crate::error::{Error, Kind};
use crate::view::{DType, Shape, Strides, View, ViewMut};
use half::{bf16, f16};
use numpy::npyffi::{NPY_ARRAY_ALIGNED, NPY_ARRAY_WRITEABLE, PY_ARRAY_API, PyArray_CheckExact};
use numpy::{
    PyArrayDescr, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::ptr;

/// An aligned array in native byte order whose element type the library knows.
pub struct Array<'py> {
    /// The argument's name.
    pub name: &'static str,
    /// The array.
    pub object: Bound<'py, PyUntypedArray>,
    /// Its element type.
    pub dtype: DType,
}

/// Keeps an array from being written (or touched, for an output) by other extensions that track borrows.
pub trait Borrow {}
impl<T: numpy::Element> Borrow for numpy::PyReadonlyArrayDyn<'_, T> {}
impl<T: numpy::Element> Borrow for numpy::PyReadwriteArrayDyn<'_, T> {}

/// Calls `$body` with the type alias `$E` bound to the element type that NumPy's wrapper knows.
macro_rules! with_numpy_element {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            DType::F16 => {
                type $E = f16;
                $body
            }
            DType::BF16 => {
                type $E = bf16;
                $body
            }
            DType::F32 => {
                type $E = f32;
                $body
            }
            DType::F64 => {
                type $E = f64;
                $body
            }
            DType::I8 => {
                type $E = i8;
                $body
            }
            DType::I16 => {
                type $E = i16;
                $body
            }
            DType::I32 => {
                type $E = i32;
                $body
            }
            DType::I64 => {
                type $E = i64;
                $body
            }
            DType::U8 => {
                type $E = u8;
                $body
            }
            DType::U16 => {
                type $E = u16;
                $body
            }
            DType::U32 => {
                type $E = u32;
                $body
            }
            DType::U64 => {
                type $E = u64;
                $body
            }
            DType::Bool => {
                type $E = bool;
                $body
            }
        }
    };
}

impl<'py> Array<'py> {
    /// The argument as an array; what is not one already goes through `rustloss._interop`.
    pub fn extract(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Some(array) = Self::plain(name, object) {
            return Ok(array);
        }
        let converted =
            object.py().import("rustloss._interop")?.getattr("as_array")?.call1((name, object))?;
        Self::plain(name, &converted).ok_or_else(|| {
            let detail = "expected real numbers".to_owned();
            exception(object.py(), &Error::new(Kind::DType, name, detail))
        })
    }

    /// Label sequences: an array as it is, or a list of them as one array and the offsets in it.
    pub fn extract_tokens(
        name: &'static str,
        object: &Bound<'py, PyAny>,
    ) -> PyResult<(Self, Option<Self>)> {
        if let Some(array) = Self::plain(name, object) {
            return Ok((array, None));
        }
        let tokens = object.py().import("rustloss._interop")?.getattr("tokens")?;
        let (flat, offsets): (Bound<'py, PyAny>, Bound<'py, PyAny>) =
            tokens.call1((name, object))?.extract()?;
        let offsets =
            if offsets.is_none() { None } else { Some(Self::extract("label_offsets", &offsets)?) };
        Ok((Self::extract(name, &flat)?, offsets))
    }

    /// The object itself, if it needs no conversion.
    fn plain(name: &'static str, object: &Bound<'py, PyAny>) -> Option<Self> {
        // SAFETY: any live object may be asked for its type.
        if unsafe { PyArray_CheckExact(object.py(), object.as_ptr()) } == 0 {
            return None;
        }
        let array = object.cast::<PyUntypedArray>().ok()?;
        let dtype = dtype_of(&array.dtype())?;
        (flags(array) & NPY_ARRAY_ALIGNED != 0).then(|| Array {
            name,
            object: array.clone(),
            dtype,
        })
    }

    /// The memory, to read.
    pub fn view(&self) -> View<'_> {
        let (ptr, shape, strides) = parts(&self.object);
        // SAFETY: NumPy's own pointer, shape and strides of an aligned array of this type, which `self` keeps alive.
        unsafe { View::from_raw_parts(ptr, self.dtype, shape, strides) }
    }

    /// Marks the array as being read.
    pub fn borrow(&self) -> PyResult<Box<dyn Borrow + 'py>> {
        with_numpy_element!(self.dtype, E => {
            let typed = self.object.cast::<PyArrayDyn<E>>()?.try_readonly();
            typed.map(|guard| Box::new(guard) as _).map_err(|_| {
                let detail = "another call is writing to this array";
                exception(self.object.py(), &Error::new(Kind::Output, self.name, detail))
            })
        })
    }
}

/// An array that results are written to.
pub struct Out<'py> {
    /// The array.
    pub object: Bound<'py, PyUntypedArray>,
    dtype: DType,
    /// Whether it is the caller's.
    given: bool,
}

impl<'py> Out<'py> {
    /// A new array.
    pub fn new(descr: &Bound<'py, PyArrayDescr>, dtype: DType, shape: &[usize]) -> PyResult<Self> {
        let py = descr.py();
        // SAFETY: `PyArray_Empty` reads `shape.len()` lengths (an `npy_intp` is as large as a `usize`), steals a reference
        // to the descriptor and returns a new reference, or null with an exception set.
        let object = unsafe {
            let array = PY_ARRAY_API.PyArray_Empty(
                py,
                shape.len() as i32,
                shape.as_ptr().cast_mut().cast(),
                descr.clone().into_ptr().cast(),
                0,
            );
            Bound::from_owned_ptr_or_err(py, array)?
        };
        Ok(Out { object: object.cast_into()?, dtype, given: false })
    }

    /// The caller's own array, which must be exactly what the result needs.
    pub fn given(
        name: &str,
        object: &Bound<'py, PyAny>,
        descr: &Bound<'py, PyArrayDescr>,
        dtype: DType,
        shape: &[usize],
    ) -> PyResult<Self> {
        let py = object.py();
        let wrong = |detail: String| exception(py, &Error::new(Kind::Output, name, detail));
        let Ok(array) = object.cast::<PyUntypedArray>() else {
            return Err(wrong(format!(
                "expected a NumPy array, got {}",
                object.get_type().name()?
            )));
        };
        if !array.dtype().is_equiv_to(descr) {
            return Err(wrong(format!("expected dtype {descr}, got {}", array.dtype())));
        }
        if array.shape() != shape {
            return Err(wrong(format!("expected shape {shape:?}, got shape {:?}", array.shape())));
        }
        if flags(array) & NPY_ARRAY_WRITEABLE == 0 {
            return Err(wrong("expected a writeable array, got a read-only one".into()));
        }
        if flags(array) & NPY_ARRAY_ALIGNED == 0 || overlaps_itself(array) {
            let detail = "expected an aligned array whose elements lie apart in memory";
            return Err(wrong(detail.into()));
        }
        Ok(Out { object: array.clone(), dtype, given: true })
    }

    /// Marks the array as being written. One of our own is known to nobody else.
    pub fn borrow(&self, name: &str) -> PyResult<Option<Box<dyn Borrow + 'py>>> {
        if !self.given {
            return Ok(None);
        }
        with_numpy_element!(self.dtype, E => {
            let typed = self.object.cast::<PyArrayDyn<E>>()?.try_readwrite();
            typed.map(|guard| Some(Box::new(guard) as _)).map_err(|_| {
                let detail = "another call is using this array";
                exception(self.object.py(), &Error::new(Kind::Output, name, detail))
            })
        })
    }

    /// The memory, to write.
    pub fn view(&self) -> ViewMut<'_> {
        let (ptr, shape, strides) = parts(&self.object);
        // SAFETY: NumPy's own pointer, shape and strides of an aligned, writeable array whose elements are distinct; it is
        // new and known to nobody, or borrowed and checked to overlap nothing else of the call.
        unsafe { ViewMut::from_raw_parts(ptr, self.dtype, shape, strides) }
    }

    /// The result as NumPy returns it: arrays as they are, new numbers as scalars.
    pub fn into_result(self) -> PyResult<Bound<'py, PyAny>> {
        let py = self.object.py();
        if self.object.ndim() > 0 || self.given {
            return Ok(self.object.into_any());
        }
        // SAFETY: `PyArray_Return` takes the reference over and returns a new one, or null with an exception set.
        unsafe {
            let scalar = PY_ARRAY_API.PyArray_Return(py, self.object.into_ptr().cast());
            Bound::from_owned_ptr_or_err(py, scalar)
        }
    }
}

/// The library's name of an element type in native byte order.
fn dtype_of(descr: &Bound<'_, PyArrayDescr>) -> Option<DType> {
    let dtype = match (descr.kind(), descr.itemsize()) {
        (b'f', 4) => DType::F32,
        (b'f', 8) => DType::F64,
        (b'f', 2) => DType::F16,
        (b'i', 8) => DType::I64,
        (b'i', 4) => DType::I32,
        (b'i', 2) => DType::I16,
        (b'i', 1) => DType::I8,
        (b'u', 8) => DType::U64,
        (b'u', 4) => DType::U32,
        (b'u', 2) => DType::U16,
        (b'u', 1) => DType::U8,
        (b'b', 1) => DType::Bool,
        // A type that a package registered, and bfloat16 among them.
        (_, 2) if descr.num() >= 256 && is_bfloat16(&descr.typeobj()) => DType::BF16,
        _ => return None,
    };
    (descr.is_native_byteorder() != Some(false)).then_some(dtype)
}

fn is_bfloat16(scalar: &Bound<'_, PyType>) -> bool {
    scalar.name().is_ok_and(|name| name == "bfloat16")
}

fn flags(array: &Bound<'_, PyUntypedArray>) -> i32 {
    // SAFETY: a live array object.
    unsafe { (*array.as_array_ptr()).fields.flags }
}

fn parts(array: &Bound<'_, PyUntypedArray>) -> (*mut u8, Shape, Strides) {
    // SAFETY: a live array object.
    let data = unsafe { (*array.as_array_ptr()).fields.data };
    let data = if data.is_null() { ptr::dangling_mut::<f64>().cast() } else { data };
    (data.cast(), Shape::from_slice(array.shape()), Strides::from_slice(array.strides()))
}

/// Whether two elements of an array may share memory: true unless each axis steps over all that lies within it.
fn overlaps_itself(array: &Bound<'_, PyUntypedArray>) -> bool {
    let mut axes: Vec<(usize, usize)> = array
        .strides()
        .iter()
        .zip(array.shape())
        .filter(|&(_, &d)| d > 1)
        .map(|(s, &d)| (s.unsigned_abs(), d))
        .collect();
    axes.sort_unstable();
    let mut reach = array.dtype().itemsize();
    axes.iter().any(|&(stride, d)| {
        let within = stride < reach;
        reach += stride * (d - 1);
        within
    })
}

/// Fails if two arrays share memory.
pub fn check_disjoint(
    out: (&str, &Bound<'_, PyUntypedArray>),
    other: (&str, &Bound<'_, PyUntypedArray>),
) -> PyResult<()> {
    let extent = |array: &Bound<'_, PyUntypedArray>| {
        let (ptr, shape, strides) = parts(array);
        crate::view::extent(ptr as usize, array.dtype().itemsize(), &shape, &strides)
    };
    let ((low, high), (other_low, other_high)) = (extent(out.1), extent(other.1));
    if high <= other_low || other_high <= low {
        return Ok(());
    }
    // The exact answer is a search that NumPy has; where it gives up, the arrays count as overlapping.
    let py = out.1.py();
    let shares = py.import("numpy")?.getattr("shares_memory")?.call1((out.1, other.1, 10_000));
    if shares.is_ok_and(|shares| matches!(shares.is_truthy(), Ok(false))) {
        return Ok(());
    }
    let detail = format!("it overlaps {}; results need memory of their own", other.0);
    Err(exception(py, &Error::new(Kind::Output, out.0, detail)))
}

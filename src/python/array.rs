//! NumPy arrays in and out. The only place of the Python layer that touches array memory.
//!
//! Whatever Python code an argument brings along (conversions, subclasses, warning filters) may change the other
//! arguments. So it all runs first; then the arrays are looked at once more, and only then are pointers taken.
//!
//! Nobody keeps a list of arrays in use: memory that another thread writes during a call gives some number or other, as
//! in NumPy. What such numbers could lead out of bounds (labels, lengths) is copied before it is checked, and a resize of
//! memory in use is refused by NumPy, which counts references.

use super::error::exception;
use super::foreign::is_list_of_numbers;
use crate::array::{Shape, Strides, View, ViewMut, overlaps_itself, reach, short};
use crate::error::{Error, Kind, Tuple};
use crate::num::DType;
use numpy::npyffi::{
    NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, NPY_ORDER, PY_ARRAY_API,
};
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

/// The byte that fresh outputs are filled with, so that tests can tell what was not written; negative for none.
static POISON: AtomicI32 = AtomicI32::new(if cfg!(debug_assertions) { 0xA5 } else { -1 });

/// Fills fresh outputs with a byte from now on, or with nothing. For tests.
#[pyfunction]
#[pyo3(signature = (byte, /))]
pub fn poison(byte: Option<u8>) {
    POISON.store(byte.map_or(-1, i32::from), Ordering::Relaxed);
}

/// An element type by NumPy's description and by the library's name.
#[derive(Clone)]
pub struct Type<'py> {
    /// The description.
    pub descr: Bound<'py, PyArrayDescr>,
    /// The name.
    pub dtype: DType,
}

impl<'py> Type<'py> {
    /// Single precision.
    pub fn float32(py: Python<'py>) -> Self {
        Type { descr: numpy::dtype::<f32>(py), dtype: DType::F32 }
    }

    /// Double precision.
    pub fn float64(py: Python<'py>) -> Self {
        Type { descr: numpy::dtype::<f64>(py), dtype: DType::F64 }
    }

    /// Integers.
    pub fn int64(py: Python<'py>) -> Self {
        Type { descr: numpy::dtype::<i64>(py), dtype: DType::I64 }
    }
}

/// An aligned array in native byte order whose element type the library knows.
pub struct Array<'py> {
    /// The argument's name.
    pub name: &'static str,
    /// The array.
    pub object: Bound<'py, PyUntypedArray>,
    /// Its element type.
    pub dtype: DType,
}

impl<'py> Array<'py> {
    /// The argument as an array. What is neither one already nor a list of numbers goes through `rustloss._interop`.
    pub fn extract(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Some(array) = Self::plain(name, object) {
            return Ok(array);
        }
        // Whatever NumPy refuses has its error from `rustloss._interop`.
        if is_list_of_numbers(object)
            && let Ok(numbers) = object.py().import("numpy")?.getattr("asarray")?.call1((object,))
            && let Some(array) = Self::plain(name, &numbers)
        {
            return Ok(array);
        }
        let converted =
            object.py().import("rustloss._interop")?.getattr("as_array")?.call1((name, object))?;
        Self::plain(name, &converted).ok_or_else(|| {
            exception(object.py(), &Error::new(Kind::DType, name, "expected real numbers"))
        })
    }

    /// The array as it is now that all Python code of the call has run.
    pub fn again(&self) -> PyResult<Self> {
        Self::plain(self.name, &self.object).ok_or_else(|| {
            let detail = "expected an array that stays as it is, got one that changes its type during the call";
            exception(self.object.py(), &Error::new(Kind::DType, self.name, detail))
        })
    }

    /// The element type.
    pub fn element_type(&self) -> Type<'py> {
        Type { descr: self.object.dtype(), dtype: self.dtype }
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
        let array = object.cast_exact::<PyUntypedArray>().ok()?;
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
}

/// The caller's own array for results, before it is known what these need.
pub fn buffer<'py>(name: &str, object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    if let Ok(array) = object.cast_exact() {
        return Ok(array.clone());
    }
    let py = object.py();
    let wrong = |got: String| {
        let detail = format!("expected a NumPy array, got {got}");
        exception(py, &Error::new(Kind::Output, name, detail))
    };
    let Ok(array) = object.cast() else {
        let kind = object.get_type().name();
        return Err(wrong(kind.map_or_else(|_| "an object".into(), |name| name.to_string())));
    };
    // Results would be hidden where its mask is set.
    if object.is_instance(&py.import("numpy.ma")?.getattr("MaskedArray")?)? {
        return Err(wrong(format!("a masked array; pass {name}.data")));
    }
    Ok(array.clone())
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
    /// A new array in C order, whose shape follows from that of the argument `name`.
    pub fn new(name: &str, of: &Type<'py>, shape: &[usize]) -> PyResult<Self> {
        let py = of.descr.py();
        // SAFETY: `PyArray_Empty` reads `shape.len()` lengths (an `npy_intp` is as large as a `usize`), steals a reference
        // to the descriptor and returns a new reference, or null with an exception set.
        let object = unsafe {
            let array = PY_ARRAY_API.PyArray_Empty(
                py,
                shape.len() as i32,
                shape.as_ptr().cast_mut().cast(),
                of.descr.clone().into_ptr().cast(),
                0,
            );
            Bound::from_owned_ptr_or_err(py, array)
        };
        Self::fresh(name, of, shape, object)
    }

    /// A new array of the shape of an argument, with its axes in the same order in memory.
    pub fn like(of: &Type<'py>, argument: &Array<'py>) -> PyResult<Self> {
        let (py, array, shape) = (of.descr.py(), &argument.object, argument.object.shape());
        if flags(array) & NPY_ARRAY_C_CONTIGUOUS != 0 {
            return Self::new(argument.name, of, shape);
        }
        // SAFETY: `PyArray_NewLikeArray` takes an array, steals a reference to the descriptor and returns a new reference,
        // or null with an exception set.
        let object = unsafe {
            let like = PY_ARRAY_API.PyArray_NewLikeArray(
                py,
                array.as_array_ptr(),
                NPY_ORDER::NPY_KEEPORDER,
                of.descr.clone().into_ptr().cast(),
                0,
            );
            Bound::from_owned_ptr_or_err(py, like)
        };
        Self::fresh(argument.name, of, shape, object)
    }

    fn fresh(
        name: &str,
        of: &Type<'py>,
        shape: &[usize],
        object: PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Self> {
        let py = of.descr.py();
        let object = object.map_err(|error| {
            if !error.is_instance_of::<PyValueError>(py) {
                return error;
            }
            let (shape, dtype) = (Tuple(shape), of.dtype.name());
            let detail = format!("expected results that an array can hold, and they have shape {shape} and dtype {dtype}");
            exception(py, &Error::new(Kind::Shape, name, detail))
        })?;
        let out = Out { object: object.cast_into()?, dtype: of.dtype, given: false };
        if let Ok(byte) = u8::try_from(POISON.load(Ordering::Relaxed)) {
            out.fill(byte);
        }
        Ok(out)
    }

    /// Fills a new array with a byte.
    fn fill(&self, byte: u8) {
        let (ptr, shape, _) = parts(&self.object);
        let bytes = shape.iter().product::<usize>() * self.dtype.size();
        // SAFETY: a new array is one run of memory, in whatever order, and known to nobody, and any bytes are numbers of the types of results.
        unsafe { ptr.write_bytes(byte, bytes) };
    }

    /// The caller's own array, which must be exactly what the result needs; `types` are those it may have.
    pub fn given(
        name: &str,
        array: &Bound<'py, PyUntypedArray>,
        types: &[Type<'py>],
        shape: &[usize],
    ) -> PyResult<Self> {
        let wrong = |detail: String| exception(array.py(), &Error::new(Kind::Output, name, detail));
        let Some(found) = types.iter().find(|t| array.dtype().is_equiv_to(&t.descr)) else {
            let names: Vec<_> = types.iter().map(|t| t.dtype.name()).collect();
            let detail = format!("expected dtype {}, got {}", names.join(" or "), array.dtype());
            return Err(wrong(detail));
        };
        if array.shape() != shape {
            let (expected, got) = (Tuple(shape), Tuple(array.shape()));
            return Err(wrong(format!("expected shape {expected}, got shape {got}")));
        }
        if flags(array) & NPY_ARRAY_WRITEABLE == 0 {
            return Err(wrong("expected a writeable array, got a read-only one".into()));
        }
        if flags(array) & NPY_ARRAY_ALIGNED == 0 || has_common_elements(array) {
            let detail = "expected an aligned array whose elements lie apart in memory";
            return Err(wrong(detail.into()));
        }
        Ok(Out { object: array.clone(), dtype: found.dtype, given: true })
    }

    /// The memory, to write.
    pub fn view(&self) -> ViewMut<'_> {
        let (ptr, shape, strides) = parts(&self.object);
        // SAFETY: NumPy's own pointer, shape and strides of an aligned, writeable array whose elements are distinct; it is
        // new and known to nobody, or the caller's, who leaves it to this call, and checked to overlap nothing else of it
        // but, where the loss allows that, the first input.
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
    flags_and_data(array).0
}

/// The flags and the address of an array, as they stand now.
fn flags_and_data(array: &Bound<'_, PyUntypedArray>) -> (i32, *mut u8) {
    let object = array.as_array_ptr();
    // SAFETY: a live array object.
    unsafe { ((*object).fields.flags, (*object).fields.data.cast()) }
}

fn parts(array: &Bound<'_, PyUntypedArray>) -> (*mut u8, Shape, Strides) {
    let (_, data) = flags_and_data(array);
    let data = if data.is_null() { ptr::dangling_mut::<f64>().cast() } else { data };
    (data, short(array.shape()), short(array.strides()))
}

fn has_common_elements(array: &Bound<'_, PyUntypedArray>) -> bool {
    overlaps_itself(array.dtype().itemsize(), array.shape(), array.strides())
}

/// Whether two arrays have elements in common.
pub fn overlap(
    one: &Bound<'_, PyUntypedArray>,
    other: &Bound<'_, PyUntypedArray>,
) -> PyResult<bool> {
    let extent = |array: &Bound<'_, PyUntypedArray>| {
        let (ptr, shape, strides) = parts(array);
        let (low, high) = reach(array.dtype().itemsize(), &shape, &strides);
        let at = |byte: isize| (ptr as usize).wrapping_add_signed(byte);
        (at(low), at(high))
    };
    let ((low, high), (other_low, other_high)) = (extent(one), extent(other));
    if high <= other_low || other_high <= low {
        return Ok(false);
    }
    // The exact answer is a search that NumPy has; where it gives up, the arrays count as overlapping.
    let shares_memory = one.py().import("numpy")?.getattr("shares_memory")?;
    let shares = shares_memory.call1((base_view(one)?, base_view(other)?, 10_000));
    Ok(!shares.is_ok_and(|shares| matches!(shares.is_truthy(), Ok(false))))
}

/// A view without the methods that a subclass brings along.
fn base_view<'py>(array: &Bound<'py, PyUntypedArray>) -> PyResult<Bound<'py, PyAny>> {
    let py = array.py();
    let plain = py.get_type::<PyUntypedArray>().as_type_ptr();
    // SAFETY: `PyArray_View` takes an array, no description and NumPy's own type, and returns a new reference, or null with
    // an exception set.
    unsafe {
        let view = PY_ARRAY_API.PyArray_View(py, array.as_array_ptr(), ptr::null_mut(), plain);
        Bound::from_owned_ptr_or_err(py, view)
    }
}

/// Whether two arrays are the same elements in the same order.
pub fn same_memory(one: &Bound<'_, PyUntypedArray>, other: &Bound<'_, PyUntypedArray>) -> bool {
    let ((ptr, shape, strides), (other_ptr, other_shape, other_strides)) =
        (parts(one), parts(other));
    let mut steps = strides.iter().zip(&other_strides).zip(&shape);
    ptr == other_ptr
        && shape == other_shape
        && one.dtype().is_equiv_to(&other.dtype())
        && steps.all(|((s, other), &d)| s == other || d <= 1)
}

//! The vector math on NumPy arrays, so that tests can hold it to its error bounds.

use super::error::exception;
use crate::error::Result;
use crate::math::{Real, log_factorials};
use crate::memory;
use crate::simd::{self, Isa, Kernel, Level};
use numpy::{Element, PyArray1, PyArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// Elements that are computed at once.
const CHUNK: usize = 16;

/// A named function over a slice; nothing if no function has the name.
struct VectorMath<'a, T> {
    name: &'a str,
    x: &'a [T],
}

macro_rules! functions {
    ($isa:ident, $v:ident: $([$($name:literal => $value:expr),+],)*) => {
        impl<T: Real> Kernel for VectorMath<'_, T> {
            type Output = Result<Option<Vec<T>>>;

            #[inline(always)]
            fn run<$isa: Isa>(self) -> Result<Option<Vec<T>>> {
                // Whole vectors, so that each function is here once.
                let mut out = memory::filled(T::ONE, self.x.len().next_multiple_of(CHUNK))?;
                out[..self.x.len()].copy_from_slice(self.x);
                // A closure might be called, and then is not compiled for the instruction set.
                $(if let Some(at) = [$($name),+].iter().position(|name| *name == self.name) {
                    for chunk in out.as_chunks_mut::<CHUNK>().0 {
                        let mut of_all = [[T::ZERO; CHUNK]; [$($name),+].len()];
                        for l in 0..CHUNK {
                            let $v = chunk[l];
                            for (of_one, value) in of_all.iter_mut().zip([$($value),+]) {
                                of_one[l] = value;
                            }
                        }
                        *chunk = of_all[at];
                    }
                    out.truncate(self.x.len());
                    return Ok(Some(out));
                })*
                Ok(None)
            }
        }
    };
}

// Functions of one list share a loop, where what they have in common is computed, and compiled, once.
functions! { S, v:
    ["exp" => v.exp::<S>()],
    ["exp_nonpositive" => v.exp_nonpositive::<S>()],
    ["expm1" => v.expm1::<S>()],
    ["log" => v.log::<S>()],
    ["log1p" => v.log1p::<S>()],
    [
        "sigmoid" => v.sigmoid::<S>(),
        "sigmoid_neg" => v.logistic::<S>().sigmoid_neg,
        "softplus" => v.softplus::<S>(),
        "softplus_neg_abs" => v.logistic::<S>().softplus_neg_abs,
        "log_sigmoid" => v.log_sigmoid::<S>()
    ],
}

/// The logarithms of factorials, which have a kernel of their own.
fn log_factorials_of<T: Real>(level: Level, x: &[T]) -> Result<Vec<T>> {
    let (mut wide, mut out) = (memory::filled(0.0, x.len())?, memory::filled(T::ZERO, x.len())?);
    for (wide, x) in wide.iter_mut().zip(x) {
        *wide = x.to_f64();
    }
    log_factorials(level, &mut wide);
    for (out, wide) in out.iter_mut().zip(wide) {
        *out = T::from_f64(wide);
    }
    Ok(out)
}

fn map<'py, T: Real + Element>(
    name: &str,
    x: &Bound<'py, PyArray1<T>>,
) -> PyResult<Bound<'py, PyArray1<T>>> {
    let level = simd::level().map_err(PyValueError::new_err)?;
    let borrowed = x.try_readonly()?;
    let numbers = borrowed.as_slice()?;
    let found = match name {
        "log_factorial" => log_factorials_of(level, numbers).map(Some),
        _ => simd::dispatch(level, VectorMath { name, x: numbers }),
    };
    let out = found
        .map_err(|error| exception(x.py(), &error))?
        .ok_or_else(|| PyValueError::new_err(format!("name: no function is called {name:?}")))?;
    Ok(PyArray1::from_vec(x.py(), out))
}

/// Applies the math function `name` to a contiguous one-dimensional float32 or float64 array.
#[pyfunction]
fn vector_math<'py>(name: &str, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if let Ok(x) = x.cast::<PyArray1<f32>>() {
        Ok(map(name, x)?.into_any())
    } else if let Ok(x) = x.cast::<PyArray1<f64>>() {
        Ok(map(name, x)?.into_any())
    } else {
        Err(PyTypeError::new_err("x: expected a one-dimensional float32 or float64 array"))
    }
}

/// Adds this module's functions to `module`.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(vector_math, module)?)
}

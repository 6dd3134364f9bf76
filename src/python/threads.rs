//! Thread counts for Python.

use crate::parallel;
use pyo3::exceptions::PyRuntimeWarning;
use pyo3::prelude::*;
use std::ffi::CString;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};

/// Adds this file's functions to the extension module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(get_num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(set_num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(exchange_num_threads, m)?)
}

/// Issues the warnings about environment variables that are skipped, at the first call in the process only. Belongs
/// before the first work of every call that may use threads: where warnings are errors, nothing is written yet.
#[inline]
pub fn warn_once(py: Python<'_>) -> PyResult<()> {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if WARNED.load(Ordering::Relaxed) || WARNED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    warn(py)
}

#[cold]
fn warn(py: Python<'_>) -> PyResult<()> {
    for warning in parallel::environment_warnings() {
        // The caller of the function of the package that called this one.
        const STACK_LEVEL: i32 = 2;
        let text = CString::new(warning.as_str())?;
        PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &text, STACK_LEVEL)?;
    }
    Ok(())
}

#[pyfunction]
fn get_num_threads(py: Python<'_>) -> PyResult<usize> {
    warn_once(py)?;
    Ok(parallel::num_threads())
}

#[pyfunction]
fn set_num_threads(n: NonZero<usize>) {
    parallel::set_num_threads(n);
}

/// Replaces the count of the calling thread, 0 for none, and returns the one before.
#[pyfunction]
fn exchange_num_threads(n: usize) -> usize {
    parallel::exchange_local_threads(n)
}

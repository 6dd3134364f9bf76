//! Thread counts and signals for Python.

use crate::threads::{self, Place};
use pyo3::exceptions::{PyRuntimeWarning, PyValueError};
use pyo3::prelude::*;
use std::cell::Cell;
use std::ffi::CString;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};

/// Adds this file's functions to the extension module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(get_num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(max_num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(set_num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(exchange_num_threads, m)?)?;
    m.add_function(wrap_pyfunction!(fail_next, m)?)
}

/// Work that is worth watching for signals, in nanoseconds.
const INTERRUPTIBLE_NS: f64 = 1e6;

thread_local! {
    /// What the handler of a signal has raised during the call of this thread.
    static RAISED: Cell<Option<PyErr>> = const { Cell::new(None) };
}

/// Runs `f`, which takes about `ns` nanoseconds, while other Python threads go on. If a signal comes whose handler raises,
/// as Ctrl-C does, that ends the work of `f` soon, and is raised.
pub fn detach<R: Send>(py: Python<'_>, ns: f64, f: impl FnOnce() -> R + Send) -> PyResult<R> {
    if ns < INTERRUPTIBLE_NS {
        return Ok(py.detach(f));
    }
    RAISED.take();
    let result = py.detach(|| threads::interruptible(signal_raises, f));
    RAISED.take().map_or(Ok(result), Err)
}

/// Runs the handlers of the signals that have come; says whether one has raised. Only the main thread has any to run.
fn signal_raises() -> bool {
    // An interpreter that is coming to its end runs no more handlers.
    let raised = Python::try_attach(|py| py.check_signals().err()).flatten();
    let raises = raised.is_some();
    RAISED.set(raised);
    raises
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
    for warning in threads::environment_warnings() {
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
    Ok(threads::num_threads())
}

#[pyfunction]
fn max_num_threads() -> usize {
    threads::max_num_threads()
}

#[pyfunction]
fn set_num_threads(n: NonZero<usize>) {
    threads::set_num_threads(n);
}

/// Replaces the count of the calling thread, 0 for none, and returns the one before.
#[pyfunction]
fn exchange_num_threads(n: usize) -> usize {
    threads::exchange_local_threads(n)
}

/// Has the next job panic in the "caller" or in a "worker", for tests of what a panic becomes.
#[pyfunction]
fn fail_next(place: &str) -> PyResult<()> {
    let place = match place {
        "caller" => Place::Caller,
        "worker" => Place::Worker,
        _ => return Err(PyValueError::new_err(format!("there is no place {place:?}"))),
    };
    threads::fail_next(place);
    Ok(())
}

//! Memory that is kept between calls.

use crate::scratch;
use pyo3::prelude::*;

/// Adds this file's functions to the extension module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(release_memory, m)?)
}

#[pyfunction]
fn release_memory() -> usize {
    scratch::release_memory()
}

//! `rustloss._core`: arrays in, arrays out, errors in. No math and no policy.

mod array;
mod arrays;
mod bind;
mod error;
mod foreign;
mod loss;
mod math;
mod memory;
mod params;
mod questions;
mod threads;
mod xla;

use crate::simd::{self, Level};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// What the library runs on.
#[pyfunction]
fn config(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let config = PyDict::new(py);
    config.set_item("version", env!("CARGO_PKG_VERSION"))?;
    config.set_item("isa", simd::level().map_err(PyValueError::new_err)?.name())?;
    let available = Level::available().map(Level::name);
    config.set_item("isa_available", available.collect::<Vec<_>>())?;
    config.set_item("isa_untested", simd::untested().collect::<Vec<_>>())?;
    Ok(config)
}

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<loss::PyLoss>()?;
    m.add_function(wrap_pyfunction!(questions::posteriors, m)?)?;
    m.add_function(wrap_pyfunction!(questions::align, m)?)?;
    m.add_function(wrap_pyfunction!(questions::kinks, m)?)?;
    m.add_function(wrap_pyfunction!(questions::grad_hess_extremes, m)?)?;
    m.add_function(wrap_pyfunction!(params::registry, m)?)?;
    m.add_function(wrap_pyfunction!(config, m)?)?;
    m.add_function(wrap_pyfunction!(array::poison, m)?)?;
    math::register(m)?;
    memory::register(m)?;
    threads::register(m)?;
    xla::register(m)
}

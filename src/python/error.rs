//! From the library's errors, and from panics, to exceptions of `rustloss.errors`.

use crate::error::{Error, Kind, Number};
use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyTuple};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The name of the exception class for a kind of error.
pub fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Shape => "ShapeError",
        Kind::DType => "DTypeError",
        Kind::Label => "LabelError",
        Kind::Length => "LengthError",
        Kind::Weight => "WeightError",
        Kind::Parameter => "ParameterError",
        Kind::Output => "OutputError",
        Kind::Call => "CallError",
        Kind::Memory => "MemoryError",
        Kind::Interrupted => "KeyboardInterrupt",
    }
}

/// The exception for an error.
pub fn exception(py: Python<'_>, error: &Error) -> PyErr {
    match error.kind {
        Kind::Memory => return PyMemoryError::new_err(error.to_string()),
        Kind::Interrupted => return PyKeyboardInterrupt::new_err(()),
        _ => {}
    }
    let make = || -> PyResult<Bound<'_, PyAny>> {
        let argument = Some(&*error.argument).filter(|name| !name.is_empty());
        let kwargs = [("argument", argument)].into_py_dict(py)?;
        if let Some(index) = &error.index {
            kwargs.set_item("index", PyTuple::new(py, index)?)?;
        }
        match error.value {
            Some(Number::Int(value)) => kwargs.set_item("value", value)?,
            Some(Number::Float(value)) => kwargs.set_item("value", value)?,
            None => {}
        }
        if let Some(needs) = error.needs {
            kwargs.set_item("needs", needs)?;
        }
        py.import("rustloss.errors")?
            .getattr(class(error.kind))?
            .call((error.to_string(),), Some(&kwargs))
    };
    make().map_or_else(|failure| failure, PyErr::from_value)
}

/// The start of a text of any length.
pub fn brief(text: &str) -> String {
    const SHOWN: usize = 100;
    let end = text.char_indices().nth(SHOWN).map_or(text.len(), |(end, _)| end);
    format!("{}{}", &text[..end], if end < text.len() { "..." } else { "" })
}

/// An object as Python shows it, in a few words.
pub fn shown(object: &Bound<'_, PyAny>) -> String {
    let repr = || object.py().import("reprlib")?.getattr("repr")?.call1((object,))?.str();
    repr().map_or_else(|_| "an object".into(), |text| brief(&text.to_string_lossy()))
}

/// Runs `body`; a panic becomes `InternalError`, which `except Exception` catches.
pub fn guard<R>(py: Python<'_>, body: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(internal(py, &*payload)))
}

/// What is said of a panic.
pub fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    format!("rustloss {} has a bug, please report it: {text}", env!("CARGO_PKG_VERSION"))
}

fn internal(py: Python<'_>, payload: &(dyn Any + Send)) -> PyErr {
    let message = panic_text(payload);
    let make = || py.import("rustloss.errors")?.getattr("InternalError")?.call1((message,));
    make().map_or_else(|failure| failure, PyErr::from_value)
}

//! Arrays of other frameworks: calls with one of them go to the framework's adapter, in Python. What cannot hold one is known
//! here by its type: numbers, NumPy's arrays, and lists of these.

use numpy::PyUntypedArray;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyNotImplemented, PyString, PyTuple};

/// `rustloss._frameworks.call`, imported when the first array of a framework comes.
static CALL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// What an adapter makes of a call, if an argument is an array of a framework that has one.
pub fn adapted<'py>(
    loss: &Bound<'py, PyAny>,
    method: &str,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let by_name = || kwargs.into_iter().flatten().map(|(_, value)| value);
    if args.iter_borrowed().all(|value| is_native(&value)) && by_name().all(|v| is_native(&v)) {
        return Ok(None);
    }
    let py = args.py();
    let kwargs = kwargs.map_or_else(|| PyDict::new(py), Clone::clone);
    let call = CALL.import(py, "rustloss._frameworks", "call")?;
    let result = call.call1((loss, method, args, kwargs))?;
    Ok(if result.is_exact_instance_of::<PyNotImplemented>() { None } else { Some(result) })
}

/// How deep lists are looked into here; Python looks to the bottom.
const DEPTH: usize = 3;

/// Whether an object is of a type that says at once that it belongs to no framework, or a list of such.
fn is_native(object: &Bound<'_, PyAny>) -> bool {
    is_plain(object) || is_list_of(object, DEPTH, &is_plain)
}

fn is_list_of(
    object: &Bound<'_, PyAny>,
    depth: usize,
    is_leaf: &impl Fn(&Bound<'_, PyAny>) -> bool,
) -> bool {
    let fine =
        |x: Bound<'_, PyAny>| is_leaf(&x) || (depth > 1 && is_list_of(&x, depth - 1, is_leaf));
    match (object.cast_exact::<PyList>(), object.cast_exact::<PyTuple>()) {
        (Ok(list), _) => list.iter().all(fine),
        (_, Ok(tuple)) => tuple.iter().all(fine),
        _ => false,
    }
}

fn is_plain(object: &Bound<'_, PyAny>) -> bool {
    is_number(object)
        || object.is_exact_instance_of::<PyUntypedArray>()
        || object.is_none()
        || object.is_exact_instance_of::<PyString>()
}

/// Whether an object is a list, or a tuple, of `float` and `int`, or of such lists, not too deep.
pub fn is_list_of_numbers(object: &Bound<'_, PyAny>) -> bool {
    is_list_of(object, DEPTH, &is_number)
}

fn is_number(object: &Bound<'_, PyAny>) -> bool {
    object.is_exact_instance_of::<PyFloat>() || object.is_exact_instance_of::<PyInt>()
}

//! Parameters of constructors, from Python's values to the registry's and back.

use super::error::{brief, exception, shown};
use crate::drive::Reduction;
use crate::error::{Error, Kind, Quoted, Result, quoted};
use crate::losses::registry as losses;
use crate::memory;
use crate::registry::{
    Accepts, Bound as Limits, Input, Objective, Options, Param, Params, Spec, Value,
};
use pyo3::exceptions::{PyMemoryError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyList, PySequence, PyString, PyTuple};

/// The loss of a name with the parameters that its constructor is given, and all its parameters as they are shown.
pub fn objective(
    name: &str,
    mut given: Vec<(String, Value)>,
) -> Result<(Objective, Vec<(&'static str, Value)>)> {
    let spec = losses().find(|s| s.name == name).ok_or_else(|| {
        let detail = format!("expected the name of a loss, got {}", Quoted(name));
        Error::new(Kind::Parameter, "name", detail)
    })?;
    let (options, mut all) = options(&mut given)?;
    let params = Params::new(spec.name, spec.params, given)?;
    let objective = Objective::new(spec, &params, options)?;
    all.splice(0..0, params.iter().map(|(name, value)| (name, value.clone())));
    Ok((objective, all))
}

/// Takes the parameters that all losses have out of those given; also as they are shown.
fn options(given: &mut Vec<(String, Value)>) -> Result<(Options, Vec<(&'static str, Value)>)> {
    let mut all = Vec::new();
    let mut take = |name: &'static str, default: Value| {
        let at = given.iter().position(|(given, _)| given == name);
        let value = at.map_or(default, |at| given.swap_remove(at).1);
        all.push((name, value.clone()));
        value
    };
    let wrong = |name: &str, expected: &str, got: &str| {
        Error::new(Kind::Parameter, name, format!("expected {expected}, got {got}"))
    };
    let weight = match take("weight", Value::None) {
        Value::None => 1.0,
        Value::Int(i) => i as f64,
        Value::Float(x) if x.is_finite() => x,
        got => return Err(wrong("weight", "None or a finite number", &got.to_string())),
    };
    let batch_axis = match take("batch_axis", Value::Int(0)) {
        Value::Int(i) => i as isize,
        got => return Err(wrong("batch_axis", "an integer", &got.exact())),
    };
    let given = take("reduction", Value::Text("sample".into()));
    let found = Reduction::ALL.iter().find(|(name, _)| given == Value::Text((*name).into()));
    let Some(&(_, reduction)) = found else {
        let names = quoted(Reduction::ALL.iter().map(|(name, _)| *name));
        return Err(wrong("reduction", &format!("one of {names}"), &given.to_string()));
    };
    let empty = match take("empty", Value::Text("nan".into())) {
        Value::Text(t) if t == "nan" => f64::NAN,
        Value::Text(t) if t == "zero" => 0.0,
        got => return Err(wrong("empty", "one of ('nan', 'zero')", &got.to_string())),
    };
    let options = Options { weight, batch_axis, reduction, empty, ..Options::DEFAULT };
    Ok((options, all))
}

/// The parameters that a constructor is given, as values of the registry's kinds.
pub fn given(params: &Bound<'_, PyDict>) -> PyResult<Vec<(String, Value)>> {
    let given = params.iter().map(|(name, given)| {
        let name = brief(&name.str()?.to_string_lossy());
        let value = value(&name, &given)?;
        Ok((name, value))
    });
    given.collect()
}

/// A value of the registry as Python has it.
pub fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::None => py.None().into_bound(py),
        Value::Flag(b) => b.into_pyobject(py)?.to_owned().into_any(),
        Value::Int(i) => i.into_pyobject(py)?.into_any(),
        Value::Float(x) => x.into_pyobject(py)?.into_any(),
        Value::Text(t) => t.into_pyobject(py)?.into_any(),
        Value::Vector(v) => PyTuple::new(py, v)?.into_any(),
    })
}

/// A parameter as a value of the registry's kinds.
fn value(name: &str, given: &Bound<'_, PyAny>) -> PyResult<Value> {
    if given.is_none() {
        return Ok(Value::None);
    }
    if let Ok(text) = given.cast::<PyString>() {
        return Ok(Value::Text(text.to_string_lossy().into_owned()));
    }
    if given.is_instance_of::<PyBool>() {
        return Ok(Value::Flag(given.is_truthy()?));
    }
    let number = || -> PyResult<Value> {
        let is_array =
            given.hasattr("shape")? && given.hasattr("ndim")? && !given.getattr("ndim")?.eq(0)?;
        if is_array || given.is_instance_of::<PyList>() || given.is_instance_of::<PyTuple>() {
            return vector(given);
        }
        if let Ok(flag) = given.extract::<bool>() {
            return Ok(Value::Flag(flag));
        }
        if let Ok(i) = given.extract::<i64>() {
            return Ok(Value::Int(i));
        }
        given.extract::<f64>().map(Value::Float)
    };
    number().map_err(|error| {
        if error.is_instance_of::<PyMemoryError>(given.py()) {
            return error;
        }
        let expected = "None, True, False, a number, a word or a vector of numbers";
        let detail = format!("expected {expected}, got {}", shown(given));
        exception(given.py(), &Error::new(Kind::Parameter, name, detail))
    })
}

fn vector(given: &Bound<'_, PyAny>) -> PyResult<Value> {
    let list = given.call_method0("tolist").unwrap_or_else(|_| given.clone());
    let list = list.cast::<PySequence>()?;
    let mut vector = Vec::new();
    memory::reserve(&mut vector, list.len()?).map_err(|e| exception(given.py(), &e))?;
    for number in list.try_iter()?.take(vector.capacity()) {
        let number = number?;
        if number.is_instance_of::<PyBool>() {
            return Err(PyTypeError::new_err("a truth value"));
        }
        vector.push(number.extract()?);
    }
    Ok(Value::Vector(vector))
}

/// An input as Python data.
pub fn input_row<'py>(py: Python<'py>, input: &Input) -> PyResult<Bound<'py, PyDict>> {
    let row = PyDict::new(py);
    row.set_item("name", input.name)?;
    row.set_item("domain", format!("{:?}", input.domain))?;
    row.set_item("shape", format!("{:?}", input.shape))?;
    row.set_item("required", input.required)?;
    row.set_item("gradient", format!("{:?}", input.gradient))?;
    Ok(row)
}

/// What a parameter accepts as Python data: the name of its kind, and what belongs to the kind.
fn accepts<'py>(py: Python<'py>, param: &Param) -> PyResult<Bound<'py, PyDict>> {
    let row = PyDict::new(py);
    row.set_item("default", to_python(py, &param.default.value())?)?;
    let (name, words): (_, &[_]) = match param.kind {
        Accepts::Flag => ("flag", &[]),
        Accepts::Int(_) => ("int", &[]),
        Accepts::OneOf(_) => ("one_of", &[]),
        Accepts::Float(_) => ("float", &[]),
        Accepts::Choice(words) => ("choice", words),
        Accepts::FlagOr(words) => ("flag_or", words),
        Accepts::IndexOr(words) => ("index_or", words),
        Accepts::Weights => ("weights", &[]),
        Accepts::Probabilities => ("probabilities", &[]),
    };
    row.set_item("kind", name)?;
    let words = match param.kind {
        Accepts::OneOf(all) => PyTuple::new(py, all)?,
        _ => PyTuple::new(py, words)?,
    };
    row.set_item("words", words)?;
    if let Accepts::Int(least) = param.kind {
        row.set_item("least", (least != i64::MIN).then_some(least))?;
    }
    if let Accepts::Float(bound) = param.kind {
        let bound = match bound {
            Limits::Finite => "finite",
            Limits::Positive => "positive",
            Limits::NonNegative => "non_negative",
            Limits::AtLeastOne => "at_least_one",
            Limits::Unit => "unit",
        };
        row.set_item("bound", bound)?;
    }
    Ok(row)
}

/// What the registry says of a loss as Python data.
pub fn spec_row<'py>(py: Python<'py>, spec: &Spec) -> PyResult<Bound<'py, PyDict>> {
    let inputs = PyList::empty(py);
    for input in spec.inputs {
        inputs.append(input_row(py, input)?)?;
    }
    let params = PyDict::new(py);
    for param in spec.params {
        params.set_item(param.name, accepts(py, param)?)?;
    }
    let row = PyDict::new(py);
    row.set_item("name", spec.name)?;
    row.set_item("family", format!("{:?}", spec.family).to_lowercase())?;
    row.set_item("inputs", inputs)?;
    row.set_item("params", params)?;
    row.set_item("unreduced", format!("{:?}", spec.unreduced))?;
    row.set_item("hess", spec.hess)?;
    row.set_item("kinks", spec.kinks)?;
    Ok(row)
}

/// The registry as Python data: one dictionary for each loss.
#[pyfunction]
pub fn registry(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let rows = losses().map(|spec| spec_row(py, spec));
    PyList::new(py, rows.collect::<PyResult<Vec<_>>>()?)
}

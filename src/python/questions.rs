//! Questions about a call other than its value and its derivatives, for the Python modules that ask them.

use super::array::{Out, Type};
use super::arrays::{Arrays, OutputBuffers, no_result};
use super::bind::Bind;
use super::error::{exception, guard};
use super::loss::{PyLoss, compute};
use crate::array::Shape;
use crate::drive::extremes::Extremes;
use crate::registry::{Checked, PathResults};
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// Calls `f` with the checked arguments of a call about paths.
fn on_lattice<'py, R>(
    loss: &PyLoss,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
    f: impl FnOnce(&Arrays<'py>, &Checked<'_>, [Shape; 2]) -> PyResult<R>,
) -> PyResult<R> {
    guard(args.py(), || {
        let bound = Bind::new(&loss.objective, args, kwargs, &[])?;
        let arrays = Arrays::new(&loss.objective, &bound, &OutputBuffers::default())?;
        let plan = loss.plan(bound.py, &arrays, None)?;
        let shapes = plan.path_shapes().map_err(|_| no_result())?;
        f(&arrays, &plan, shapes)
    })
}

/// The probability of every label of a sequence at every frame, given the sequence. For `rustloss.sequence`.
#[pyfunction]
#[pyo3(signature = (loss, /, *args, **kwargs))]
pub fn posteriors<'py>(
    loss: &PyLoss,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = args.py();
    on_lattice(loss, args, kwargs, |arrays, plan, [shape, _]| {
        let out = Out::new("pred", &arrays.result, &shape)?;
        let results = PathResults { posteriors: Some(out.view()), ..PathResults::default() };
        compute(py, plan.cost(), || plan.run_paths(results))?;
        out.into_result()
    })
}

/// The most probable path, frame by frame: the place of the label in its sequence or -1, the logarithm of the probability
/// of its class, and its probability given the sequence. For `rustloss.sequence`.
#[pyfunction]
#[pyo3(signature = (loss, /, *args, **kwargs))]
pub fn align<'py>(
    loss: &PyLoss,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let py = args.py();
    on_lattice(loss, args, kwargs, |arrays, plan, [_, shape]| {
        let of = |of: &Type<'py>| Out::new("pred", of, &shape);
        let path = [of(&Type::int64(py))?, of(&arrays.result)?, of(&arrays.result)?];
        let alignment = Some(path.each_ref().map(Out::view));
        let results = PathResults { alignment, ..PathResults::default() };
        compute(py, plan.cost(), || plan.run_paths(results))?;
        let path = path.into_iter().map(Out::into_result);
        PyTuple::new(py, path.collect::<PyResult<Vec<_>>>()?)
    })
}

/// The gradient and the diagonal of the second derivative; whether the prediction and both of these are finite, and the
/// least second derivative. None for this pair if the run did not look: a loss of another family, few elements, results of
/// a half type. For `rustloss.boosting`.
#[pyfunction]
#[pyo3(signature = (loss, /, *args, **kwargs))]
pub fn grad_hess_extremes<'py>(
    loss: &PyLoss,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let py = args.py();
    guard(py, || {
        let bound = loss.bind("grad_hess", args, kwargs)?;
        let extremes = Extremes::new();
        let [grad, hess] = loss.grad_and_hess(&bound, Some(&extremes))?;
        (grad.into_result()?, hess.into_result()?, extremes.found()).into_pyobject(py)
    })
}

/// For each element or row of a call how far it is from each of its kinks, with a sign that changes there.
#[pyfunction]
#[pyo3(signature = (loss, /, *args, **kwargs))]
pub fn kinks<'py>(
    loss: &PyLoss,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let py = args.py();
    guard(py, || {
        let bound = Bind::new(&loss.objective, args, kwargs, &["grad_output", "denominator"])?;
        let arrays = Arrays::new(&loss.objective, &bound, &OutputBuffers::default())?;
        let kinks = loss.plan(py, &arrays, None)?.kinks();
        Ok(PyArray1::from_vec(py, kinks.map_err(|e| exception(py, &e))?))
    })
}

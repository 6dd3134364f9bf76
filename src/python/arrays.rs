//! The arrays of a call: its inputs, and the caller's own memory for results.

use super::array::{Array, Type, buffer, overlap, same_memory};
use super::bind::{Bind, grad_outs};
use super::error::exception;
use super::threads::warn_once;
use crate::error::{Error, Kind};
use crate::num::DType;
use crate::registry::{Domain, Gradient, Objective, Spec, USUAL_INPUTS};
use numpy::PyUntypedArray;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use smallvec::SmallVec;
use std::ptr;

/// The caller's own arrays for the results.
#[derive(Default)]
pub struct OutputBuffers<'py> {
    pub out: Option<Bound<'py, PyUntypedArray>>,
    /// With the positions of their inputs in the registry.
    pub grads: SmallVec<[(usize, Option<Bound<'py, PyUntypedArray>>); USUAL_INPUTS]>,
    pub hess: Option<Bound<'py, PyUntypedArray>>,
}

impl<'py> OutputBuffers<'py> {
    pub fn new(bound: &Bind<'py>, grads: &[usize]) -> PyResult<Self> {
        let given = |name: &str| bound.option(name).map(|o| buffer(name, o)).transpose();
        Ok(OutputBuffers {
            out: given("out")?,
            grads: grads.iter().copied().zip(grad_outs(bound, grads.len())?).collect(),
            hess: given("hess_out")?,
        })
    }

    /// All of them, with the input whose gradient goes there.
    fn iter(
        &self,
    ) -> impl Iterator<Item = (&'static str, Option<usize>, &Bound<'py, PyUntypedArray>)> {
        let named = |name: &'static str| move |array| (name, None, array);
        let grads = self
            .grads
            .iter()
            .filter_map(|(i, array)| Some(("grad_out", Some(*i), array.as_ref()?)));
        self.out
            .iter()
            .map(named("out"))
            .chain(grads)
            .chain(self.hess.iter().map(named("hess_out")))
    }

    /// Fails if one shares memory with an input or with another one, but for the gradient by the first input in that
    /// input's own memory where the loss allows it. Tells whether this is so.
    fn check(&self, objective: &Objective, arrays: &Arrays<'py>) -> PyResult<bool> {
        let mut in_place = false;
        let mut others: Vec<_> = arrays.iter().map(|a| (a.name, &a.object)).collect();
        let first = others[0];
        for (name, of, array) in self.iter() {
            let gradient = of == Some(0) && objective.loss.in_place();
            for &other in &others {
                if !overlap(array, other.1)? {
                    continue;
                }
                if gradient && ptr::eq(other.1, first.1) && same_memory(array, other.1) {
                    in_place = true;
                    continue;
                }
                let but = if objective.loss.in_place() && other.0 == first.0 {
                    format!(
                        "; grad_out alone may be {} itself, same memory, shape and strides",
                        first.0
                    )
                } else {
                    String::new()
                };
                let detail =
                    format!("it overlaps {}; results need memory of their own{but}", other.0);
                return Err(exception(array.py(), &Error::new(Kind::Output, name, detail)));
            }
            others.push((name, array));
        }
        Ok(in_place)
    }
}

/// The arrays of a call, and the element type of its results.
pub struct Arrays<'py> {
    /// By position in the registry's inputs.
    pub inputs: SmallVec<[Option<Array<'py>>; USUAL_INPUTS]>,
    /// Whether label sequences came as a list of them.
    pub listed: bool,
    pub grad_output: Option<Array<'py>>,
    pub result: Type<'py>,
    /// Whether the gradient by the first input goes to that input's own memory.
    pub in_place: bool,
}

impl<'py> Arrays<'py> {
    /// Runs all Python code that the arguments bring along; after it nothing of the call changes any more.
    pub fn new(
        objective: &Objective,
        bound: &Bind<'py>,
        buffers: &OutputBuffers<'py>,
    ) -> PyResult<Self> {
        warn_once(bound.py)?;
        let spec = objective.spec;
        let mut inputs = SmallVec::new();
        let (mut ragged, mut listed) = (None, false);
        for (input, given) in spec.inputs.iter().zip(&bound.inputs) {
            inputs.push(match given {
                Some(object) if input.domain == Domain::Tokens => {
                    let (tokens, offsets) = Array::extract_tokens(input.name, object)?;
                    listed = offsets.is_some();
                    ragged = offsets;
                    Some(tokens)
                }
                Some(object) => Some(Array::extract(input.name, object)?),
                None if input.domain == Domain::Offsets => ragged.take(),
                None => None,
            });
        }
        if let Some(offsets) = ragged {
            let detail = "expected none beside a list of label sequences, which says it all";
            let error = Error::new(Kind::Parameter, offsets.name, detail);
            return Err(exception(bound.py, &error));
        }
        let given = bound.option("grad_output");
        let grad_output = given.map(|o| Array::extract("grad_output", o)).transpose()?;
        let result = result_type(bound.py, spec, &inputs)?;
        let mut arrays = Arrays { inputs, listed, grad_output, result, in_place: false };
        let given = bound.inputs.iter().flatten().chain(given);
        let as_given = arrays.iter().map(|a| a.object.as_ptr()).eq(given.map(Bound::as_ptr));
        if buffers.iter().next().is_some() || !as_given {
            arrays.in_place = buffers.check(objective, &arrays)?;
            for array in arrays.inputs.iter_mut().chain([&mut arrays.grad_output]).flatten() {
                *array = array.again()?;
            }
            arrays.result = result_type(bound.py, spec, &arrays.inputs)?;
        }
        Ok(arrays)
    }

    fn iter(&self) -> impl Iterator<Item = &Array<'py>> {
        self.inputs.iter().flatten().chain(&self.grad_output)
    }
}

/// The element type of the results: that of the inputs with a gradient by default, promoted as NumPy does.
fn result_type<'py>(
    py: Python<'py>,
    spec: &Spec,
    arrays: &[Option<Array<'py>>],
) -> PyResult<Type<'py>> {
    let mut result: Option<Type<'py>> = None;
    for (input, array) in spec.inputs.iter().zip(arrays) {
        let (Gradient::Default, Some(array)) = (input.gradient, array) else { continue };
        let own = if array.dtype.is_float() { array.element_type() } else { Type::float64(py) };
        let promoted = DType::promote(result.as_ref().map(|r| r.dtype), own.dtype);
        result = Some(match result {
            Some(r) if r.dtype == promoted => r,
            _ if own.dtype == promoted => own,
            _ => Type::float32(py),
        });
    }
    result.ok_or_else(no_result)
}

/// The error of a loss without a result that is asked for.
pub fn no_result() -> PyErr {
    PyTypeError::new_err("this loss has no such result")
}

//! Losses as operations of XLA: one handler for all of them, for `rustloss.jax`.
//!
//! What to compute stands in the text that comes with a call, written by `rustloss.jax`: a line each for the loss, its
//! operands, its results, the number of axes of the first operand, what becomes of errors, and the denominator; then a
//! line for each parameter of the loss. It is text, so that a compiled program can be kept and run by another process.
//! Axes in front of those that the text tells of are those of `jax.vmap`. Calls whose samples have values of their own are
//! computed as one, whose batch they make up together; other ones one after another.

mod api;

use super::error::{class, panic_text};
use super::params::objective;
use crate::array::{Shape, elements, short, unravel};
use crate::error::{Error, Kind, Quoted, Result};
use crate::memory;
use crate::registry::{Arguments, Inputs, Objective, Results, Value};
use crate::simd;
use api::{Buffer, Failure, XlaFrame};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use std::collections::HashMap;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::str;
use std::sync::{Arc, PoisonError, RwLock};

/// Adds the handler to the extension module, as the capsule that XLA registers.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let handler = handle as extern "C" fn(&XlaFrame<'_>) -> *mut Failure;
    let pointer = NonNull::new(handler as *mut c_void).expect("a function has an address");
    // SAFETY: a function lives as long as the process.
    let capsule = unsafe { PyCapsule::new_with_pointer(m.py(), pointer, c"rustloss") };
    m.add("xla_handler", capsule?)
}

/// Answers a call of XLA, which passes a valid frame.
extern "C" fn handle(frame: &XlaFrame<'_>) -> *mut Failure {
    if frame.is_answered() {
        return ptr::null_mut();
    }
    match catch_unwind(AssertUnwindSafe(|| run(frame))) {
        Ok(Ok(())) => ptr::null_mut(),
        Ok(Err(error)) => frame.failure(&format!("{}: {error}", class(error.kind))),
        Err(payload) => frame.failure(&format!("InternalError: {}", panic_text(&*payload))),
    }
}

fn run(frame: &XlaFrame<'_>) -> Result<()> {
    let call = XlaCall::cached(frame.text())?;
    let (operands, results) = (frame.operands.get(), frame.results.get());
    if (operands.len(), results.len()) != (call.operands.len(), call.results.len()) {
        return Err(foreign("other numbers of arrays"));
    }
    let (Some(first), Some(result)) = (operands.first(), results.first()) else {
        return Err(foreign("no arrays"));
    };
    let mapped = first.shape().len().checked_sub(call.ndim);
    let mapped = mapped.ok_or_else(|| foreign("fewer axes"))?;
    let mapped = &result.shape()[..mapped];
    if let Some(all) = call.all(first, mapped)
        && call.compute(operands, results, &all).is_ok()
    {
        return Ok(());
    }
    // Each call has errors of its own.
    for at in 0..elements(mapped) {
        call.run(operands, results, &XlaPart::One(&unravel(at, mapped)))?;
    }
    Ok(())
}

/// What part of mapped calls is computed at once.
enum XlaPart<'a> {
    /// The call at an index of the mapped axes.
    One(&'a [usize]),
    /// All calls as one, whose samples are those of all of them.
    All {
        /// The sizes of the mapped axes.
        mapped: &'a [usize],
        /// The number of samples of a call, which are the first axis of its arrays; none if they have no such axis and
        /// are one sample.
        samples: Option<usize>,
    },
}

impl XlaPart<'_> {
    /// Where it lies in an array: the position of its first element, and its shape. None if it does not lie there as one
    /// array.
    fn place(&self, buffer: &Buffer<'_>) -> Option<(usize, Shape)> {
        let shape = buffer.shape();
        match *self {
            XlaPart::One(index) => {
                let (leading, own) = shape.split_at_checked(index.len())?;
                // Along an axis of size 1 one part stands for all.
                let at = leading.iter().zip(index).fold(0, |at, (&d, &i)| at * d + i.min(d - 1));
                Some((at * elements(own), short(own)))
            }
            XlaPart::All { mapped, samples } => {
                let (leading, own) = shape.split_at_checked(mapped.len())?;
                if own.is_empty() && elements(leading) == 1 {
                    return Some((0, Shape::new()));
                }
                let rest = match samples {
                    None => own,
                    Some(n) => own.split_first().filter(|&(&first, _)| first == n)?.1,
                };
                let mut merged = short(rest);
                merged.insert(0, elements(mapped) * samples.unwrap_or(1));
                (leading == mapped).then_some((0, merged))
            }
        }
    }
}

/// The most texts that are kept parsed: a program that makes a new loss at every step is not to fill the memory.
const KEPT_CALLS: usize = 1024;

/// The text of a call, parsed.
struct XlaCall {
    objective: Objective,
    /// Positions in the registry's inputs, none for the gradient by the result.
    operands: Vec<Option<usize>>,
    results: Vec<Output>,
    /// The number of axes of the first operand.
    ndim: usize,
    /// Whether results are NaN where there is an error.
    nan: bool,
    denominator: Option<f64>,
}

/// A result.
#[derive(Clone, Copy)]
enum Output {
    Value,
    /// The gradient by the input at a position in the registry.
    Grad(usize),
    Hess,
}

impl XlaCall {
    /// From a text that was perhaps seen before.
    fn cached(text: &[u8]) -> Result<Arc<Self>> {
        static CALLS: RwLock<Option<HashMap<Vec<u8>, Arc<XlaCall>>>> = RwLock::new(None);
        let read = CALLS.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = read.as_ref().and_then(|calls| calls.get(text)) {
            return Ok(Arc::clone(call));
        }
        drop(read);
        let call = Arc::new(Self::parse(str::from_utf8(text).unwrap_or_default())?);
        let mut calls = CALLS.write().unwrap_or_else(PoisonError::into_inner);
        let calls = calls.get_or_insert_default();
        if calls.len() == KEPT_CALLS {
            calls.clear();
        }
        calls.insert(text.to_owned(), Arc::clone(&call));
        Ok(call)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let mut line = || lines.next().ok_or_else(|| foreign("no such text"));
        let [name, operands, results, ndim, on_error, denominator] =
            [line()?, line()?, line()?, line()?, line()?, line()?];
        let params = lines.map(|line| {
            let (name, value) = line.split_once('=')?;
            Some((name.to_owned(), Value::parse(value)?))
        });
        let params = params.collect::<Option<Vec<_>>>();
        let (objective, _) = objective(name, params.ok_or_else(|| foreign("no parameters"))?)?;
        let position = |name: &str| objective.inputs.iter().position(|input| input.name == name);
        let unknown = |name: &str| foreign(&format!("{}", Quoted(name)));
        let operand = |name| match name {
            "grad_output" => Ok(None),
            _ => position(name).ok_or_else(|| unknown(name)).map(Some),
        };
        let result = |name| match name {
            "value" => Ok(Output::Value),
            "hess" => Ok(Output::Hess),
            _ => position(name).ok_or_else(|| unknown(name)).map(Output::Grad),
        };
        Ok(XlaCall {
            operands: operands.split(' ').map(operand).collect::<Result<_>>()?,
            results: results.split(' ').map(result).collect::<Result<_>>()?,
            ndim: ndim.parse().map_err(|_| unknown(ndim))?,
            nan: on_error == "nan",
            denominator: denominator.parse().ok(),
            objective,
        })
    }

    /// All of several mapped calls as one, if that gives the same numbers; none if not, or if there are no several.
    fn all<'a>(&self, first: &Buffer<'_>, mapped: &'a [usize]) -> Option<XlaPart<'a>> {
        if elements(mapped) < 2 {
            return None;
        }
        let axes = self.objective.axes_of_samples(&first.shape()[mapped.len()..])?;
        Some(XlaPart::All { mapped, samples: (!axes.added).then(|| axes.first[0]) })
    }

    /// Computes the results of a part.
    fn run(
        &self,
        operands: &[&Buffer<'_>],
        results: &[&Buffer<'_>],
        part: &XlaPart<'_>,
    ) -> Result<()> {
        let computed = self.compute(operands, results, part);
        if computed.is_ok() || !self.nan {
            return computed;
        }
        for result in results {
            let view = part.place(result).and_then(|(at, shape)| result.view_mut(at, &shape));
            let view = view.ok_or_else(|| foreign("other arrays"))?;
            let nan = memory::filled(f32::NAN, elements(view.shape()))?;
            view.copy_from(&nan);
        }
        Ok(())
    }

    fn compute(
        &self,
        operands: &[&Buffer<'_>],
        results: &[&Buffer<'_>],
        part: &XlaPart<'_>,
    ) -> Result<()> {
        let mut inputs = Inputs::new();
        inputs.resize(self.objective.inputs.len(), None);
        let mut grad_output = None;
        for (position, operand) in self.operands.iter().zip(operands) {
            let view = part.place(operand).and_then(|(at, shape)| operand.view(at, &shape));
            let view = view.ok_or_else(|| foreign("other arrays"))?;
            *position.map_or(&mut grad_output, |at| &mut inputs[at]) = Some(view);
        }
        let dtype = self.objective.result_dtype(|at| Some(inputs[at].as_ref()?.dtype()));
        let level = simd::level().map_err(|e| Error::new(Kind::Parameter, "RUSTLOSS_ISA", e))?;
        let denominator = self.denominator;
        let arguments = Arguments {
            level,
            dtype,
            inputs,
            listed: false,
            grad_output,
            denominator,
            in_place: false,
        };
        let plan = self.objective.plan(arguments)?;
        let mut into = Results::default();
        for (output, result) in self.results.iter().zip(results) {
            let (at, own) = part.place(result).ok_or_else(|| foreign("other arrays"))?;
            let (expected, shape) = match output {
                Output::Value => (self.objective.value_dtype(dtype), plan.value_shape()),
                Output::Grad(_) | Output::Hess => (dtype, own),
            };
            let view = result.view_mut(at, &shape).filter(|view| view.dtype() == expected);
            let view = view.ok_or_else(|| foreign("other arrays"))?;
            match *output {
                Output::Value => into.value = Some(view),
                Output::Grad(at) => into.grads.insert(at, view),
                Output::Hess => into.hess = Some(view),
            }
        }
        plan.run(into)
    }
}

/// A program that another version of the library made, or something else.
fn foreign(got: &str) -> Error {
    Error::new(Kind::Call, "", format!("expected a call by this version's rustloss.jax, got {got}"))
}

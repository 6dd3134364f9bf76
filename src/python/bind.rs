//! From the arguments of a Python call to the inputs and options of a loss.

use super::error::exception;
use crate::error::{Error, Kind};
use crate::losses::call::MAX_ARGUMENTS;
use crate::losses::spec::{Domain, Gradient, Spec};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use smallvec::SmallVec;

/// The arguments of a call by their names.
pub struct Bind<'py> {
    /// The interpreter.
    pub py: Python<'py>,
    /// The arrays by position in the registry's inputs; what is None is missing.
    pub inputs: [Option<Bound<'py, PyAny>>; MAX_ARGUMENTS + 1],
    options: SmallVec<[(&'static str, Bound<'py, PyAny>); 4]>,
}

impl<'py> Bind<'py> {
    /// Binds what a call was given; `options` are the names of the keywords beside the inputs.
    pub fn new(
        spec: &Spec,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
        options: &[&'static str],
    ) -> PyResult<Self> {
        let names = || spec.inputs.iter().map(|i| i.name).collect::<Vec<_>>().join(", ");
        let positional = spec.inputs.iter().filter(|i| i.domain != Domain::Offsets).count();
        if args.len() > positional {
            let (most, got) = (positional, args.len());
            let text = format!(
                "{}: expected at most {most} arguments ({}), got {got}",
                spec.name,
                names()
            );
            return Err(PyTypeError::new_err(text));
        }
        let mut bind = Bind {
            py: args.py(),
            inputs: [const { None }; MAX_ARGUMENTS + 1],
            options: SmallVec::new(),
        };
        for (slot, value) in bind.inputs.iter_mut().zip(args.iter()) {
            *slot = Some(value);
        }
        for (key, value) in kwargs.into_iter().flatten() {
            let key = key.cast::<PyString>()?.to_cow()?;
            if let Some(at) = spec.inputs.iter().position(|i| i.name == key) {
                if bind.inputs[at].replace(value).is_some() {
                    let text = format!("{}: got several values for argument {key:?}", spec.name);
                    return Err(PyTypeError::new_err(text));
                }
            } else if let Some(name) = options.iter().find(|o| **o == key) {
                if !value.is_none() {
                    bind.options.push((name, value));
                }
            } else {
                let expected = format!("{}, and by name {}", names(), options.join(", "));
                let text =
                    format!("{}: unexpected argument {key:?}; it takes {expected}", spec.name);
                return Err(PyTypeError::new_err(text));
            }
        }
        for (input, slot) in spec.inputs.iter().zip(&mut bind.inputs) {
            if slot.as_ref().is_some_and(PyAnyMethods::is_none) {
                *slot = None;
            }
            if slot.is_none() && input.required {
                let text = format!("{}: argument {:?} is missing or None", spec.name, input.name);
                return Err(PyTypeError::new_err(text));
            }
        }
        Ok(bind)
    }

    /// A keyword beside the inputs, if given.
    pub fn option(&self, name: &str) -> Option<&Bound<'py, PyAny>> {
        self.options.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

/// The inputs that gradients are wanted for, and whether the result is one array rather than a tuple.
pub fn wrt(spec: &Spec, bound: &Bind<'_>) -> PyResult<(SmallVec<[usize; MAX_ARGUMENTS]>, bool)> {
    let position = |name: &str| {
        let found =
            spec.inputs.iter().position(|i| i.name == name && i.gradient != Gradient::Never);
        let differentiable = spec.inputs.iter().filter(|i| i.gradient != Gradient::Never);
        let detail = match found {
            Some(at) if bound.inputs[at].is_some() => return Ok(at),
            Some(_) => format!("expected an argument of the call, and {name:?} was not given"),
            None => {
                let names: Vec<_> = differentiable.map(|i| i.name).collect();
                format!("expected names of {names:?}, got {name:?}")
            }
        };
        Err(exception(bound.py, &Error::new(Kind::Parameter, "wrt", detail)))
    };
    let Some(wrt) = bound.option("wrt") else {
        let mut grads = SmallVec::new();
        for (i, input) in spec.inputs.iter().enumerate() {
            if input.gradient == Gradient::Default {
                grads.push(i);
            }
        }
        let single = grads.len() == 1;
        return Ok((grads, single));
    };
    if let Ok(name) = wrt.cast::<PyString>() {
        return Ok((smallvec::smallvec![position(&name.to_cow()?)?], true));
    }
    let detail = "expected a name or a tuple of different names";
    let wrong = || exception(bound.py, &Error::new(Kind::Parameter, "wrt", detail));
    let names: Vec<String> = wrt.extract().map_err(|_| wrong())?;
    let mut grads = SmallVec::new();
    for name in names {
        let at = position(&name)?;
        if grads.contains(&at) {
            return Err(wrong());
        }
        grads.push(at);
    }
    Ok((grads, false))
}

/// `grad_out` as one entry for each gradient.
pub fn grad_outs<'py>(
    bound: &Bind<'py>,
    n: usize,
) -> PyResult<SmallVec<[Option<Bound<'py, PyAny>>; MAX_ARGUMENTS]>> {
    let Some(given) = bound.option("grad_out") else { return Ok(smallvec::smallvec![None; n]) };
    let Ok(several) = given.cast::<PyTuple>() else {
        if n == 1 {
            return Ok(smallvec::smallvec![Some(given.clone())]);
        }
        let detail = format!("expected a tuple of {n} arrays, one for each gradient");
        return Err(exception(bound.py, &Error::new(Kind::Output, "grad_out", detail)));
    };
    if several.len() != n {
        let detail = format!("expected {n} arrays, one for each gradient, got {}", several.len());
        return Err(exception(bound.py, &Error::new(Kind::Output, "grad_out", detail)));
    }
    Ok(several.iter().map(|o| (!o.is_none()).then_some(o)).collect())
}

//! From the arguments of a Python call to the inputs and options of a loss.

use super::array::buffer;
use super::error::{brief, exception, shown};
use crate::error::{Error, Kind, Quoted, quoted};
use crate::registry::{Domain, Gradient, MAX_INPUTS, Objective, USUAL_INPUTS};
use numpy::PyUntypedArray;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PySequence, PyString, PyTuple};
use smallvec::SmallVec;

/// The arguments of a call by their names.
pub struct Bind<'py> {
    /// The interpreter.
    pub py: Python<'py>,
    /// The arrays by position in the registry's inputs; what is None is missing.
    pub inputs: [Option<Bound<'py, PyAny>>; MAX_INPUTS],
    options: SmallVec<[(&'static str, Bound<'py, PyAny>); 4]>,
}

impl<'py> Bind<'py> {
    /// Binds what a call was given; `options` are the names of the keywords beside the inputs.
    pub fn new(
        objective: &Objective,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
        options: &[&'static str],
    ) -> PyResult<Self> {
        let (py, spec) = (args.py(), objective.spec);
        let wrong = |argument: &str, detail: String| {
            exception(py, &Error::new(Kind::Call, argument, detail))
        };
        let takes = || {
            let names = quoted(spec.inputs.iter().map(|i| i.name));
            let by_name = quoted(options.iter().copied());
            format!("{} takes {names} and by name {by_name}", spec.name)
        };
        let most = spec.inputs.iter().filter(|i| i.domain != Domain::Offsets).count();
        if args.len() > most {
            let got = args.len();
            let detail = format!("expected at most {most} arguments, got {got}; {}", takes());
            return Err(wrong("", detail));
        }
        let mut bind = Bind { py, inputs: [const { None }; MAX_INPUTS], options: SmallVec::new() };
        for (slot, value) in bind.inputs.iter_mut().zip(args.iter()) {
            *slot = Some(value);
        }
        for (key, value) in kwargs.into_iter().flatten() {
            let Ok(key) = key.cast::<PyString>() else {
                let detail = format!("expected names of arguments, got {}", shown(&key));
                return Err(wrong("", detail));
            };
            let key = key.to_string_lossy();
            if let Some(at) = spec.inputs.iter().position(|i| i.name == key) {
                if bind.inputs[at].replace(value).is_some() {
                    let detail = "expected one value, got one by position and one by name";
                    return Err(wrong(&key, detail.into()));
                }
            } else if let Some(name) = options.iter().find(|o| **o == key) {
                if !value.is_none() {
                    bind.options.push((name, value));
                }
            } else {
                let detail = format!("unexpected argument; {}", takes());
                return Err(wrong(&brief(&key), detail));
            }
        }
        for (input, slot) in spec.inputs.iter().zip(&mut bind.inputs) {
            if slot.as_ref().is_some_and(PyAnyMethods::is_none) {
                *slot = None;
            }
            if slot.is_none() && input.required {
                return Err(wrong(input.name, format!("missing or None; {}", takes())));
            }
        }
        Ok(bind)
    }

    /// All keywords beside the inputs that are given.
    pub fn options(&self) -> impl Iterator<Item = (&'static str, &Bound<'py, PyAny>)> {
        self.options.iter().map(|(name, value)| (*name, value))
    }

    /// Whether any keyword beside the inputs is given that says more than which gradients are wanted.
    pub fn has_options(&self) -> bool {
        self.options.iter().any(|(name, _)| *name != "wrt")
    }

    /// A keyword beside the inputs, if given.
    pub fn option(&self, name: &str) -> Option<&Bound<'py, PyAny>> {
        self.options.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
}

/// The inputs that gradients are wanted for, and whether the result is one array rather than a tuple.
pub fn wrt(
    objective: &Objective,
    bound: &Bind<'_>,
) -> PyResult<(SmallVec<[usize; USUAL_INPUTS]>, bool)> {
    let inputs = || objective.inputs.iter().enumerate();
    let Some(wrt) = bound.option("wrt") else {
        let default = inputs().filter(|(_, input)| input.gradient == Gradient::Default);
        let grads: SmallVec<[usize; USUAL_INPUTS]> = default.map(|(i, _)| i).collect();
        let single = grads.len() == 1;
        return Ok((grads, single));
    };
    let has_gradient = |i: usize| objective.inputs[i].gradient != Gradient::Never;
    let wrong = |got: String| {
        let names = quoted(inputs().filter(|(i, _)| has_gradient(*i)).map(|(_, input)| input.name));
        let detail = format!("expected one of {names} or a tuple of several, got {got}");
        exception(bound.py, &Error::new(Kind::Parameter, "wrt", detail))
    };
    let position = |name: &Bound<'_, PyString>| {
        let name = name.to_string_lossy();
        let got = Quoted(&name);
        match inputs().find(|(_, input)| input.name == name) {
            Some((i, input)) if !has_gradient(i) && input.domain == Domain::Classes => {
                Err(wrong(format!("{got}; class indices have no gradient")))
            }
            Some((i, _)) if has_gradient(i) && bound.inputs[i].is_some() => Ok(i),
            Some((i, _)) if has_gradient(i) => {
                Err(wrong(format!("{got}, which was not given to the call")))
            }
            _ => Err(wrong(got.to_string())),
        }
    };
    if let Ok(name) = wrt.cast::<PyString>() {
        return Ok((smallvec::smallvec![position(name)?], true));
    }
    // To ask whether something is a sequence of any kind takes Python code.
    let is_sequence = wrt.cast::<PyTuple>().is_ok() || wrt.cast::<PySequence>().is_ok();
    if !is_sequence || !wrt.len().is_ok_and(|n| n <= objective.inputs.len()) {
        return Err(wrong(shown(wrt)));
    }
    let mut grads = SmallVec::new();
    for name in wrt.try_iter()?.take(objective.inputs.len()) {
        let name = name?;
        let Ok(name) = name.cast::<PyString>() else { return Err(wrong(shown(&name))) };
        let at = position(name)?;
        if grads.contains(&at) {
            return Err(wrong(format!("{} twice", Quoted(&name.to_string_lossy()))));
        }
        grads.push(at);
    }
    Ok((grads, false))
}

/// `grad_out` as one entry for each gradient.
pub fn grad_outs<'py>(
    bound: &Bind<'py>,
    n: usize,
) -> PyResult<SmallVec<[Option<Bound<'py, PyUntypedArray>>; USUAL_INPUTS]>> {
    const NAME: &str = "grad_out";
    let Some(given) = bound.option(NAME) else { return Ok(smallvec::smallvec![None; n]) };
    let wrong = |got: String| {
        let detail = format!("expected a tuple of {n} arrays, one for each gradient, got {got}");
        exception(bound.py, &Error::new(Kind::Output, NAME, detail))
    };
    match given.cast::<PyTuple>() {
        Err(_) if n == 1 => Ok(smallvec::smallvec![Some(buffer(NAME, given)?)]),
        Err(_) => Err(wrong("something else".into())),
        Ok(several) if several.len() != n => Err(wrong(several.len().to_string())),
        Ok(several) => {
            several.iter().map(|o| (!o.is_none()).then(|| buffer(NAME, &o)).transpose()).collect()
        }
    }
}

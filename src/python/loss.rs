//! The class that every loss of the Python face derives from: arguments in, arrays out, errors in words.

use super::array::{Array, Out, Type};
use super::arrays::{Arrays, OutputBuffers, no_result};
use super::bind::{Bind, wrt};
use super::error::{exception, guard, shown};
use super::foreign::adapted;
use super::params::{given, input_row, objective, spec_row, to_python};
use super::threads::detach;
use crate::array::View;
use crate::drive::block_kernel::{FewPrecision, MAX_OPERANDS, Outputs};
use crate::drive::extremes::Extremes;
use crate::error::{Error, Kind, Quoted};
use crate::num::DType;
use crate::registry::{Arguments, Checked, Hessian, Inputs, Objective, Results, USUAL_INPUTS};
use crate::simd;
use numpy::{PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBool, PyDict, PyMappingProxy, PyString, PyTuple};
use smallvec::SmallVec;
use std::slice;
use std::sync::OnceLock;

/// Work that is worth letting other Python threads run meanwhile, in nanoseconds.
const DETACH_NS: f64 = 5_000.0;

/// A loss with its parameters. Immutable.
#[pyclass(name = "Loss", module = "rustloss._core", subclass, frozen)]
pub struct PyLoss {
    pub(super) objective: Objective,
    /// The constructor's arguments.
    #[pyo3(get, name = "_params")]
    params: Py<PyMappingProxy>,
    hash: OnceLock<isize>,
}

#[allow(clippy::doc_markdown, reason = "what Python's `help` shows")]
#[pymethods]
impl PyLoss {
    #[new]
    #[pyo3(signature = (name, **params))]
    fn new(
        py: Python<'_>,
        name: &Bound<'_, PyString>,
        params: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        guard(py, || {
            let given = params.map(given).transpose()?.unwrap_or_default();
            let (objective, all) =
                objective(&name.to_string_lossy(), given).map_err(|e| exception(py, &e))?;
            let all = all.iter().map(|(name, value)| Ok((*name, to_python(py, value)?)));
            let params = all.collect::<PyResult<Vec<_>>>()?.into_py_dict(py)?;
            let params = PyMappingProxy::new(py, params.as_mapping()).unbind();
            Ok(PyLoss { objective, params, hash: OnceLock::new() })
        })
    }

    /// The hash of class and parameters, which adapters look losses up by, computed once.
    fn __hash__(slf: &Bound<'_, Self>) -> PyResult<isize> {
        let PyLoss { params, hash, .. } = slf.get();
        if let Some(hash) = hash.get() {
            return Ok(*hash);
        }
        let params = params.bind(slf.py()).items()?.to_tuple();
        let found = (slf.get_type(), params).into_pyobject(slf.py())?.hash()?;
        Ok(*hash.get_or_init(|| found))
    }

    /// The inputs as the parameters make them: what each may hold, the rule of its shape, whether it has a gradient.
    #[getter]
    fn _inputs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let rows = self.objective.inputs.iter().map(|input| input_row(py, input));
        PyTuple::new(py, rows.collect::<PyResult<Vec<_>>>()?)
    }

    #[allow(clippy::needless_pass_by_value, reason = "Python's arguments are extracted by value")]
    /// What a call gives, from the shapes and element types of its inputs, None for those that are not given.
    fn _signature<'py>(
        &self,
        py: Python<'py>,
        inputs: Vec<Option<(Vec<usize>, String)>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        guard(py, || {
            let raise = |e: Error| exception(py, &e);
            let mut given: SmallVec<[_; USUAL_INPUTS]> = SmallVec::new();
            for (i, input) in self.objective.inputs.iter().enumerate() {
                given.push(match inputs.get(i).and_then(Option::as_ref) {
                    Some((shape, name)) => {
                        let dtype = DType::named(name).ok_or_else(|| {
                            let detail =
                                format!("expected an element type of NumPy, got {}", Quoted(name));
                            raise(Error::new(Kind::DType, input.name, detail))
                        })?;
                        Some((&shape[..], dtype))
                    }
                    None => None,
                });
            }
            let signature = self.objective.signature(&given).map_err(raise)?;
            let axes = &signature.axes;
            let row = PyDict::new(py);
            row.set_item("value", PyTuple::new(py, &signature.value_shape)?)?;
            row.set_item("value_dtype", signature.value_dtype.name())?;
            row.set_item("dtype", signature.dtype.name())?;
            row.set_item("unreduced", PyTuple::new(py, axes.unreduced())?)?;
            row.set_item("samples", axes.is_batch().then_some(axes.batch))?;
            row.set_item("unit", axes.unit_axis())?;
            row.set_item("first_samples", (!axes.added).then_some(axes.samples))?;
            row.set_item("vectors", axes.vectors())?;
            row.set_item("hessian", name_of(signature.hessian))?;
            Ok(row)
        })
    }

    /// What the registry says of the loss of all parameters.
    #[getter]
    fn _spec<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        spec_row(py, self.objective.spec)
    }

    /// What there is of the second derivative: "none", "zero" or "diagonal".
    #[getter]
    fn _hessian(&self) -> &'static str {
        name_of(self.objective.hessian())
    }

    /// A call of a method for an adapter, its arguments bound and not looked at: the inputs and the options by name, the
    /// names of the inputs whose gradients are wanted, and whether these are one array rather than a tuple.
    fn _bind<'py>(
        &self,
        method: &str,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let py = args.py();
        guard(py, || {
            let bound = self.bind(method, args, Some(kwargs))?;
            let (grads, single) = wrt(&self.objective, &bound)?;
            let name = |at: usize| self.objective.inputs[at].name;
            let inputs = self.objective.inputs.iter().zip(&bound.inputs);
            let inputs = inputs.filter_map(|(input, given)| Some((input.name, given.as_ref()?)));
            let inputs = inputs.collect::<Vec<_>>().into_py_dict(py)?;
            let options = bound.options().into_py_dict(py)?;
            if let Some(given) = bound.option("denominator") {
                options.set_item("denominator", denominator(given)?)?;
            }
            let grads = PyTuple::new(py, grads.into_iter().map(name).collect::<Vec<_>>())?;
            (inputs, options, grads, single).into_pyobject(py)
        })
    }

    /// The value of the loss.
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::answer(slf, "__call__", args, kwargs, |loss, bound| {
            let (value, _, _) = loss.run(bound, &Wanted { value: true, ..Wanted::default() })?;
            value.into_iter().next().ok_or_else(no_result)?.into_result()
        })
    }

    /// The value of the loss and its gradient.
    ///
    /// Parameters
    /// ----------
    /// *inputs, **named_inputs : array_like
    ///     The inputs of the call, in its order or by name; `inspect.signature(loss)` lists them.
    /// wrt : str or tuple of str, optional
    ///     The inputs whose gradients are wanted: one name gives one array, a tuple of names a tuple.
    /// grad_output : array_like, optional
    ///     What derivatives are multiplied by: a number, or an array of the value's shape.
    /// out : ndarray, optional
    ///     Where the value goes.
    /// grad_out : ndarray or sequence of ndarray, optional
    ///     Where the gradient goes.
    /// denominator : float, optional
    ///     What the reductions "mean" and "weighted_mean" divide by instead, > 0.
    ///
    /// Returns
    /// -------
    /// value : ndarray or scalar
    /// gradient : ndarray or tuple of ndarray
    #[pyo3(
        signature = (*args, **kwargs),
        text_signature = "($self, /, *inputs, wrt=None, grad_output=None, out=None, grad_out=None, denominator=None, **named_inputs)"
    )]
    fn value_and_grad<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::answer(slf, "value_and_grad", args, kwargs, |loss, bound| {
            let (value, grads) = loss.derive(bound, true)?;
            let value = value.ok_or_else(no_result)?.into_result()?;
            Ok(PyTuple::new(bound.py, [value, grads])?.into_any())
        })
    }

    /// The gradient alone.
    ///
    /// Parameters
    /// ----------
    /// *inputs, **named_inputs : array_like
    ///     The inputs of the call, in its order or by name; `inspect.signature(loss)` lists them.
    /// wrt : str or tuple of str, optional
    ///     The inputs whose gradients are wanted: one name gives one array, a tuple of names a tuple.
    /// grad_output : array_like, optional
    ///     What derivatives are multiplied by: a number, or an array of the value's shape.
    /// grad_out : ndarray or sequence of ndarray, optional
    ///     Where the gradient goes.
    /// denominator : float, optional
    ///     What the reductions "mean" and "weighted_mean" divide by instead, > 0.
    ///
    /// Returns
    /// -------
    /// ndarray or tuple of ndarray
    #[pyo3(
        signature = (*args, **kwargs),
        text_signature = "($self, /, *inputs, wrt=None, grad_output=None, grad_out=None, denominator=None, **named_inputs)"
    )]
    fn grad<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::answer(slf, "grad", args, kwargs, |loss, bound| Ok(loss.derive(bound, false)?.1))
    }

    /// The gradient and the diagonal of the second derivative with respect to the prediction.
    ///
    /// Parameters
    /// ----------
    /// *inputs, **named_inputs : array_like
    ///     The inputs of the call, in its order or by name; `inspect.signature(loss)` lists them.
    /// grad_output : array_like, optional
    ///     What derivatives are multiplied by: a number, or an array of the value's shape.
    /// grad_out : ndarray or sequence of ndarray, optional
    ///     Where the gradient goes.
    /// hess_out : ndarray, optional
    ///     Where the second derivative goes.
    /// denominator : float, optional
    ///     What the reductions "mean" and "weighted_mean" divide by instead, > 0.
    ///
    /// Returns
    /// -------
    /// gradient, second_derivative : ndarray
    #[pyo3(
        signature = (*args, **kwargs),
        text_signature = "($self, /, *inputs, grad_output=None, grad_out=None, hess_out=None, denominator=None, **named_inputs)"
    )]
    fn grad_hess<'py>(
        slf: &Bound<'py, Self>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::answer(slf, "grad_hess", args, kwargs, |loss, bound| {
            let [grad, hess] = loss.grad_and_hess(bound, None)?;
            Ok(PyTuple::new(bound.py, [grad.into_result()?, hess.into_result()?])?.into_any())
        })
    }
}

fn name_of(hessian: Hessian) -> &'static str {
    match hessian {
        Hessian::None => "none",
        Hessian::Zero => "zero",
        Hessian::Diagonal => "diagonal",
    }
}

/// Results that a caller asked for; gradients by position in the registry's inputs.
#[derive(Default)]
struct Wanted<'a> {
    value: bool,
    grads: SmallVec<[usize; USUAL_INPUTS]>,
    hess: bool,
    /// What is to be noticed on the way, if both derivatives by the first input are wanted.
    extremes: Option<&'a Extremes>,
}

type Computed<'py> = (Option<Out<'py>>, SmallVec<[Out<'py>; USUAL_INPUTS]>, Option<Out<'py>>);

impl PyLoss {
    /// Answers a call of a method: by the adapter of a framework, or from the bound arguments.
    fn answer<'py>(
        slf: &Bound<'py, Self>,
        method: &str,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
        compute: impl FnOnce(&Self, &Bind<'py>) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        guard(args.py(), || {
            if let Some(result) = adapted(slf.as_any(), method, args, kwargs)? {
                return Ok(result);
            }
            let loss = slf.get();
            compute(loss, &loss.bind(method, args, kwargs)?)
        })
    }

    /// Binds the arguments of a method.
    pub(super) fn bind<'py>(
        &self,
        method: &str,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bind<'py>> {
        let options: &[&str] = match method {
            "value_and_grad" => &["wrt", "grad_output", "out", "grad_out", "denominator"],
            "grad" => &["wrt", "grad_output", "grad_out", "denominator"],
            "grad_hess" => &["grad_output", "grad_out", "hess_out", "denominator"],
            _ => &["out", "denominator"],
        };
        let spec = self.objective.spec;
        if method == "grad_hess" && !spec.hess {
            let detail = format!("{} has no second derivative to give", spec.name);
            return Err(exception(args.py(), &Error::new(Kind::Call, "", detail)));
        }
        Bind::new(&self.objective, args, kwargs, options)
    }

    /// The value, if wanted, and the gradient: one array, or a tuple.
    fn derive<'py>(
        &self,
        bound: &Bind<'py>,
        value: bool,
    ) -> PyResult<(Option<Out<'py>>, Bound<'py, PyAny>)> {
        let (grads, single) = wrt(&self.objective, bound)?;
        let (value, grads, _) = self.run(bound, &Wanted { value, grads, ..Wanted::default() })?;
        let mut grads = grads.into_iter().map(Out::into_result);
        let grads = if single {
            grads.next().ok_or_else(no_result)??
        } else {
            PyTuple::new(bound.py, grads.collect::<PyResult<Vec<_>>>()?)?.into_any()
        };
        Ok((value, grads))
    }

    /// The gradient and the diagonal of the second derivative.
    pub(super) fn grad_and_hess<'py>(
        &self,
        bound: &Bind<'py>,
        extremes: Option<&Extremes>,
    ) -> PyResult<[Out<'py>; 2]> {
        let grads = smallvec::smallvec![0];
        let wanted = Wanted { value: false, grads, hess: true, extremes };
        let (_, mut grads, hess) = self.run(bound, &wanted)?;
        Ok([grads.pop().ok_or_else(no_result)?, hess.ok_or_else(no_result)?])
    }

    /// Checks the arguments.
    pub(super) fn plan<'a>(
        &'a self,
        py: Python<'_>,
        arrays: &'a Arrays<'_>,
        denominator: Option<f64>,
    ) -> PyResult<Checked<'a>> {
        let raise = |e: Error| exception(py, &e);
        let arguments = Arguments {
            level: simd::level()
                .map_err(|e| raise(Error::new(Kind::Parameter, "RUSTLOSS_ISA", e)))?,
            dtype: arrays.result.dtype,
            inputs: views(arrays),
            listed: arrays.listed,
            grad_output: view(arrays.grad_output.as_ref()),
            denominator,
            in_place: arrays.in_place,
        };
        self.objective.plan(arguments).map_err(raise)
    }

    fn run<'py>(&self, bound: &Bind<'py>, wanted: &Wanted<'_>) -> PyResult<Computed<'py>> {
        let denominator = bound.option("denominator").map(denominator).transpose()?;
        let buffers = OutputBuffers::new(bound, &wanted.grads)?;
        let arrays = Arrays::new(&self.objective, bound, &buffers)?;
        if !bound.has_options()
            && wanted.extremes.is_none()
            && let Some(computed) = self.few(&arrays, wanted)?
        {
            return Ok(computed);
        }
        let plan = &self.plan(bound.py, &arrays, denominator)?;

        let first = self.objective.spec.inputs[0].name;
        let value = wanted.value.then(|| {
            let (of, shape) = (self.value_type(&arrays.result), plan.value_shape());
            match &buffers.out {
                None => Out::new(first, &of, &shape),
                // A half type has room for single precision as well.
                Some(array) if of.dtype.size() == 2 => {
                    Out::given("out", array, &[of, Type::float32(bound.py)], &shape)
                }
                Some(array) => Out::given("out", array, &[of], &shape),
            }
        });
        let value = value.transpose()?;
        let like = |i: usize, name: &str, buffer: Option<&Bound<'py, PyUntypedArray>>| {
            let input = arrays.inputs[i].as_ref().ok_or_else(no_result)?;
            match buffer {
                None => Out::like(&arrays.result, input),
                Some(array) => {
                    let shape = input.object.shape();
                    Out::given(name, array, slice::from_ref(&arrays.result), shape)
                }
            }
        };
        let mut grads = SmallVec::<[Out<'py>; USUAL_INPUTS]>::new();
        for (i, buffer) in &buffers.grads {
            grads.push(like(*i, "grad_out", buffer.as_ref())?);
        }
        let hess = wanted.hess.then(|| like(0, "hess_out", buffers.hess.as_ref())).transpose()?;

        let mut results = Results {
            value: value.as_ref().map(Out::view),
            hess: hess.as_ref().map(Out::view),
            extremes: wanted.extremes,
            ..Results::default()
        };
        for (&i, grad) in wanted.grads.iter().zip(&grads) {
            results.grads.insert(i, grad.view());
        }
        compute(bound.py, plan.cost(), || plan.run(results))?;
        Ok((value, grads, hess))
    }

    /// The results of a call of few elements without options; none if it is another call, or one with an error.
    fn few<'py>(
        &self,
        arrays: &Arrays<'py>,
        wanted: &Wanted<'_>,
    ) -> PyResult<Option<Computed<'py>>> {
        match arrays.result.dtype {
            DType::F32 => self.few_of::<f32>(arrays, wanted),
            DType::F64 => self.few_of::<f64>(arrays, wanted),
            _ => Ok(None),
        }
    }

    fn few_of<'py, T: FewPrecision>(
        &self,
        arrays: &Arrays<'py>,
        wanted: &Wanted<'_>,
    ) -> PyResult<Option<Computed<'py>>> {
        let views = views(arrays);
        let Some((few, value_shape)) = self.objective.few::<T>(&views) else { return Ok(None) };
        let shape = views[0].as_ref().map_or(&[][..], View::shape);
        let new =
            |shape: &[usize]| Out::new(self.objective.spec.inputs[0].name, &arrays.result, shape);
        let value = wanted.value.then(|| new(&value_shape)).transpose()?;
        let hess = wanted.hess.then(|| new(shape)).transpose()?;
        let mut grads = SmallVec::<[Out<'py>; USUAL_INPUTS]>::new();
        let mut outputs = Outputs {
            value: value.as_ref().map(Out::view),
            grads: [const { None }; MAX_OPERANDS],
            hess: hess.as_ref().map(Out::view),
            ..Outputs::default()
        };
        for _ in &wanted.grads {
            grads.push(new(shape)?);
        }
        for (&at, grad) in wanted.grads.iter().zip(&grads) {
            outputs.grads[views[..at].iter().flatten().count()] = Some(grad.view());
        }
        let Some(computed) = few.run(&outputs) else { return Ok(None) };
        computed.map_err(|e| exception(arrays.result.descr.py(), &e))?;
        drop(outputs);
        Ok(Some((value, grads, hess)))
    }

    /// The element type of the value.
    fn value_type<'py>(&self, result: &Type<'py>) -> Type<'py> {
        if self.objective.value_dtype(result.dtype) == result.dtype {
            result.clone()
        } else {
            Type::float32(result.descr.py())
        }
    }
}

/// Runs what reads the arrays of a call, other Python threads going on meanwhile and signals ending it if the cost is high.
pub(super) fn compute(
    py: Python<'_>,
    cost: f64,
    run: impl FnOnce() -> Result<(), Error> + Send,
) -> PyResult<()> {
    let computed = if cost < DETACH_NS { run() } else { detach(py, cost, run)? };
    computed.map_err(|e| exception(py, &e))
}

fn views<'a>(arrays: &'a Arrays<'_>) -> Inputs<'a> {
    arrays.inputs.iter().map(|array| view(array.as_ref())).collect()
}

fn view<'a>(array: Option<&'a Array<'_>>) -> Option<View<'a>> {
    array.map(Array::view)
}

fn denominator(given: &Bound<'_, PyAny>) -> PyResult<f64> {
    match given.extract::<f64>() {
        Ok(d) if d.is_finite() && d > 0.0 && !given.is_instance_of::<PyBool>() => Ok(d),
        _ => {
            let detail = format!("expected a finite number > 0, got {}", shown(given));
            Err(exception(given.py(), &Error::new(Kind::Parameter, "denominator", detail)))
        }
    }
}

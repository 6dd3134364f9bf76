//! The class that every loss of the Python face derives from: arguments in, arrays out, errors in words.

use super::array::{Array, Borrow, Out, check_disjoint};
use super::bind::{Bind, grad_outs, wrt};
use super::error::{exception, guard};
use super::params::{options, to_python, value};
use super::threads::warn_once;
use crate::error::{Error, Kind};
use crate::losses::call::{
    Call, Lattice, Loss, MAX_ARGUMENTS, Options, PathResults, Plan, Results,
};
use crate::losses::registry as losses;
use crate::losses::spec::{Domain, Family, Gradient, Params, Spec};
use crate::reduce::Reduction;
use crate::simd;
use crate::view::{DType, View};
use numpy::{PyArrayDescr, PyUntypedArrayMethods, dtype};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyMappingProxy, PyTuple};
use smallvec::SmallVec;

/// Work that is worth letting other Python threads run meanwhile, in nanoseconds.
const DETACH_NS: f64 = 5_000.0;

/// A loss with its parameters. Immutable.
#[pyclass(name = "Loss", module = "rustloss._core", subclass, frozen)]
pub struct PyLoss {
    spec: &'static Spec,
    loss: Box<dyn Loss>,
    options: Options,
    /// Where the registry's inputs stand that a [`Call`] takes by position, and `sample_weight`.
    arguments: [Option<usize>; MAX_ARGUMENTS],
    sample_weight: Option<usize>,
    /// The constructor's arguments.
    #[pyo3(get, name = "_params")]
    params: Py<PyMappingProxy>,
}

#[pymethods]
impl PyLoss {
    #[new]
    #[pyo3(signature = (name, **params))]
    fn new(py: Python<'_>, name: &str, params: Option<Bound<'_, PyDict>>) -> PyResult<Self> {
        guard(py, || {
            let params = params.unwrap_or_else(|| PyDict::new(py));
            let spec = losses().find(|s| s.name == name);
            let spec =
                spec.ok_or_else(|| PyTypeError::new_err(format!("there is no loss {name:?}")))?;
            let (options, mut shown) = options(&params)?;
            if options.reduction == Reduction::TargetMean && spec.family != Family::Sequence {
                let detail = "\"target_mean\" is for losses of target sequences";
                return Err(exception(py, &Error::new(Kind::Parameter, "reduction", detail)));
            }
            let own = params.iter().map(|(k, v)| Ok((k.extract::<String>()?, value(&k, &v)?)));
            let own = own.collect::<PyResult<Vec<_>>>()?;
            let params = Params::new(spec, own).map_err(|e| exception(py, &e))?;
            let loss = (spec.build)(&params).map_err(|e| exception(py, &e))?;
            shown.splice(0..0, params.iter().map(|(name, value)| (name, value.clone())));
            let shown = shown.iter().map(|(name, value)| Ok((*name, to_python(py, value)?)));
            let params = shown.collect::<PyResult<Vec<_>>>()?.into_py_dict(py)?;
            let params = PyMappingProxy::new(py, params.as_mapping()).unbind();
            let (arguments, sample_weight) = (spec.arguments(), spec.sample_weight());
            Ok(PyLoss { spec, loss, options, arguments, sample_weight, params })
        })
    }

    /// The value of the loss.
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        guard(args.py(), || {
            let bound = Bind::new(self.spec, args, kwargs, &["out", "denominator"])?;
            let (value, _, _) = self.run(&bound, &Wanted { value: true, ..Wanted::default() })?;
            value.into_iter().next().ok_or_else(no_result)?.into_result()
        })
    }

    /// The value of the loss and its gradient.
    #[pyo3(signature = (*args, **kwargs))]
    fn value_and_grad<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        const OPTIONS: &[&str] = &["wrt", "grad_output", "out", "grad_out", "denominator"];
        let py = args.py();
        guard(py, || {
            let bound = Bind::new(self.spec, args, kwargs, OPTIONS)?;
            let (grads, single) = wrt(self.spec, &bound)?;
            let wanted = Wanted { value: true, grads, hess: false };
            let (value, grads, _) = self.run(&bound, &wanted)?;
            let value = value.ok_or_else(no_result)?.into_result()?;
            let mut grads = grads.into_iter().map(Out::into_result);
            let grads = if single {
                grads.next().ok_or_else(no_result)??
            } else {
                PyTuple::new(py, grads.collect::<PyResult<Vec<_>>>()?)?.into_any()
            };
            PyTuple::new(py, [value, grads])
        })
    }

    /// The gradient and the diagonal of the second derivative with respect to the prediction.
    #[pyo3(signature = (*args, **kwargs))]
    fn grad_hess<'py>(
        &self,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        const OPTIONS: &[&str] = &["grad_output", "grad_out", "hess_out", "denominator"];
        let py = args.py();
        guard(py, || {
            if !self.spec.hess {
                let text = format!("{} has no second derivative to give", self.spec.name);
                return Err(PyTypeError::new_err(text));
            }
            let bound = Bind::new(self.spec, args, kwargs, OPTIONS)?;
            let wanted = Wanted { value: false, grads: smallvec::smallvec![0], hess: true };
            let (_, grads, hess) = self.run(&bound, &wanted)?;
            let results = grads.into_iter().chain(hess).map(Out::into_result);
            PyTuple::new(py, results.collect::<PyResult<Vec<_>>>()?)
        })
    }
}

/// Results that a caller asked for; gradients by position in the registry's inputs.
#[derive(Default)]
struct Wanted {
    value: bool,
    grads: SmallVec<[usize; MAX_ARGUMENTS]>,
    hess: bool,
}

type Computed<'py> = (Option<Out<'py>>, SmallVec<[Out<'py>; MAX_ARGUMENTS]>, Option<Out<'py>>);

impl PyLoss {
    /// Checks the arguments.
    fn plan<'a>(
        &'a self,
        bound: &Bind<'_>,
        arrays: &'a Arrays<'_>,
    ) -> PyResult<Box<dyn Plan + 'a>> {
        let raise = |e: Error| exception(bound.py, &e);
        let given = |i: usize| view(arrays.inputs[i].as_ref());
        let mut call = Call {
            options: &self.options,
            level: simd::level()
                .map_err(|e| raise(Error::new(Kind::Parameter, "RUSTLOSS_ISA", e)))?,
            dtype: arrays.dtype,
            names: [""; MAX_ARGUMENTS],
            inputs: [const { None }; MAX_ARGUMENTS],
            listed: arrays.listed,
            sample_weight: self.sample_weight.and_then(given),
            grad_output: view(arrays.grad_output.as_ref()),
            denominator: bound.option("denominator").map(denominator).transpose()?,
        };
        for (to, i) in self.arguments.iter().enumerate() {
            let Some(i) = *i else { break };
            call.names[to] = self.spec.inputs[i].name;
            call.inputs[to] = given(i);
        }
        self.loss.plan(&call).map_err(raise)
    }

    fn run<'py>(&self, bound: &Bind<'py>, wanted: &Wanted) -> PyResult<Computed<'py>> {
        let arrays = Arrays::new(self.spec, bound)?;
        let plan = &*self.plan(bound, &arrays)?;
        let Arrays { inputs, descr, dtype, .. } = &arrays;
        let (descr, dtype) = (descr.clone(), *dtype);

        let total = self.options.reduction.is_total();
        let value_dtype = if total && dtype != DType::F64 { DType::F32 } else { dtype };
        let value_descr =
            if value_dtype == dtype { descr.clone() } else { numpy::dtype::<f32>(bound.py) };
        let output =
            |name: &str, given: Option<&Bound<'py, PyAny>>, descr, dtype, shape: &[usize]| {
                match given {
                    None => Out::new(descr, dtype, shape),
                    Some(object) => Out::given(name, object, descr, dtype, shape),
                }
            };
        let value = wanted
            .value
            .then(|| {
                output("out", bound.option("out"), &value_descr, value_dtype, &plan.value_shape())
            })
            .transpose()?;
        let given = grad_outs(bound, wanted.grads.len())?;
        let mut grads = SmallVec::<[Out<'py>; MAX_ARGUMENTS]>::new();
        for (&i, given) in wanted.grads.iter().zip(&given) {
            let shape = inputs[i].as_ref().map_or(&[][..], |a| a.object.shape());
            grads.push(output("grad_out", given.as_ref(), &descr, dtype, shape)?);
        }
        let pred_shape = inputs[0].as_ref().map_or(&[][..], |a| a.object.shape());
        let hess = wanted
            .hess
            .then(|| output("hess_out", bound.option("hess_out"), &descr, dtype, pred_shape))
            .transpose()?;
        if ["out", "grad_out", "hess_out"].iter().any(|name| bound.option(name).is_some()) {
            check_outputs(value.as_ref(), &grads, hess.as_ref(), arrays.iter())?;
        }

        let mut written = Vec::new();
        let named = value.iter().map(|o| ("out", o)).chain(hess.iter().map(|o| ("hess_out", o)));
        for (name, out) in named.chain(grads.iter().map(|o| ("grad_out", o))) {
            written.extend(out.borrow(name)?);
        }
        let mut results = Results {
            value: value.as_ref().map(Out::view),
            hess: hess.as_ref().map(Out::view),
            ..Results::default()
        };
        for (i, grad) in wanted.grads.iter().zip(&grads) {
            if let Some(to) = self.arguments.iter().position(|a| *a == Some(*i)) {
                results.grads[to] = Some(grad.view());
            }
        }
        arrays.compute(bound.py, plan.cost(), || plan.run(results))?;
        Ok((value, grads, hess))
    }
}

/// The arrays of a call, and the element type of its results.
struct Arrays<'py> {
    /// By position in the registry's inputs.
    inputs: SmallVec<[Option<Array<'py>>; MAX_ARGUMENTS + 1]>,
    /// Whether label sequences came as a list of them.
    listed: bool,
    grad_output: Option<Array<'py>>,
    descr: Bound<'py, PyArrayDescr>,
    dtype: DType,
}

impl<'py> Arrays<'py> {
    fn new(spec: &Spec, bound: &Bind<'py>) -> PyResult<Self> {
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
        let grad_output = bound.option("grad_output");
        let grad_output = grad_output.map(|o| Array::extract("grad_output", o)).transpose()?;
        let (descr, dtype) = result_dtype(bound.py, spec, &inputs)?;
        Ok(Arrays { inputs, listed, grad_output, descr, dtype })
    }

    fn iter(&self) -> impl Iterator<Item = &Array<'py>> {
        self.inputs.iter().flatten().chain(&self.grad_output)
    }

    /// Runs what reads these arrays, other Python threads going on meanwhile if the cost is high.
    fn compute(
        &self,
        py: Python<'py>,
        cost: f64,
        run: impl FnOnce() -> Result<(), Error> + Send,
    ) -> PyResult<()> {
        warn_once(py)?;
        let computed = if cost < DETACH_NS {
            run()
        } else {
            let _borrows: Vec<Box<dyn Borrow + 'py>> =
                self.iter().map(Array::borrow).collect::<PyResult<_>>()?;
            py.detach(run)
        };
        computed.map_err(|e| exception(py, &e))
    }
}

/// Calls `f` with the checked arguments of a call about paths.
fn on_lattice<'py, R>(
    loss: &PyLoss,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
    f: impl FnOnce(&Arrays<'py>, &dyn Plan, &dyn Lattice) -> PyResult<R>,
) -> PyResult<R> {
    guard(args.py(), || {
        let bound = Bind::new(loss.spec, args, kwargs, &[])?;
        let arrays = Arrays::new(loss.spec, &bound)?;
        let plan = loss.plan(&bound, &arrays)?;
        f(&arrays, &*plan, plan.lattice().ok_or_else(no_result)?)
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
    on_lattice(loss, args, kwargs, |arrays, plan, lattice| {
        let out = Out::new(&arrays.descr, arrays.dtype, &lattice.shapes()[0])?;
        let results = PathResults { posteriors: Some(out.view()), ..PathResults::default() };
        arrays.compute(py, plan.cost(), || lattice.run(results))?;
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
    on_lattice(loss, args, kwargs, |arrays, plan, lattice| {
        let [_, shape] = lattice.shapes();
        let number = || Out::new(&arrays.descr, arrays.dtype, &shape);
        let index = Out::new(&numpy::dtype::<i64>(py), DType::I64, &shape)?;
        let path = [index, number()?, number()?];
        let alignment = Some(path.each_ref().map(Out::view));
        let results = PathResults { alignment, ..PathResults::default() };
        arrays.compute(py, plan.cost(), || lattice.run(results))?;
        let path = path.into_iter().map(Out::into_result);
        PyTuple::new(py, path.collect::<PyResult<Vec<_>>>()?)
    })
}

fn view<'a>(array: Option<&'a Array<'_>>) -> Option<View<'a>> {
    array.map(Array::view)
}

/// Outputs must share memory neither with inputs nor with each other.
fn check_outputs<'a, 'py: 'a>(
    value: Option<&Out<'py>>,
    grads: &[Out<'py>],
    hess: Option<&Out<'py>>,
    inputs: impl Iterator<Item = &'a Array<'py>>,
) -> PyResult<()> {
    let mut others: Vec<_> = inputs.map(|a| (a.name, &a.object)).collect();
    let named = value.into_iter().map(|o| ("out", o));
    let named = named
        .chain(grads.iter().map(|o| ("grad_out", o)))
        .chain(hess.into_iter().map(|o| ("hess_out", o)));
    for (name, out) in named {
        for &other in &others {
            check_disjoint((name, &out.object), other)?;
        }
        others.push((name, &out.object));
    }
    Ok(())
}

/// The element type of the results: that of the inputs with a gradient by default, promoted as NumPy does.
fn result_dtype<'py>(
    py: Python<'py>,
    spec: &Spec,
    arrays: &[Option<Array<'py>>],
) -> PyResult<(Bound<'py, PyArrayDescr>, DType)> {
    let mut result: Option<(Bound<'py, PyArrayDescr>, DType)> = None;
    for (input, array) in spec.inputs.iter().zip(arrays) {
        let (Gradient::Default, Some(array)) = (input.gradient, array) else { continue };
        let (descr, dtype) = if array.dtype.is_float() {
            (array.object.dtype(), array.dtype)
        } else {
            (dtype::<f64>(py), DType::F64)
        };
        result = Some(match result {
            None => (descr, dtype),
            Some(r) if r.1 == dtype || dtype.size() < r.1.size() => r,
            Some(r) if dtype.size() > r.1.size() => (descr, dtype),
            Some(_) => (numpy::dtype::<f32>(py), DType::F32),
        });
    }
    result.ok_or_else(no_result)
}

fn no_result() -> PyErr {
    PyTypeError::new_err("this loss has no such result")
}

fn denominator(given: &Bound<'_, PyAny>) -> PyResult<f64> {
    match given.extract::<f64>() {
        Ok(d) if d.is_finite() && d > 0.0 => Ok(d),
        _ => {
            let detail = format!("expected a finite number > 0, got {}", given.repr()?);
            Err(exception(given.py(), &Error::new(Kind::Parameter, "denominator", detail)))
        }
    }
}

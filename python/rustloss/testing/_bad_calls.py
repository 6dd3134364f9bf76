"""Calls that must fail: every loss, argument and defect."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rustloss._loss import Loss
from rustloss.errors import (
    ArgumentError,
    CallError,
    DTypeError,
    LabelError,
    LengthError,
    OutputError,
    ParameterError,
    ShapeError,
    WeightError,
)
from rustloss.testing._inputs import example, overlapping, relayout
from rustloss.testing._registry import LossLike, Spec, differentiable, input_of, spec_of

INF, NAN = np.inf, np.nan

#: What is not an array of real numbers, for an array `a` of the right shape.
_NOT_NUMBERS: Mapping[str, Callable[[Any], Any]] = {
    "objects": lambda a: a.astype(object),
    "complex numbers": lambda a: a.astype(complex),
    "strings": lambda a: a.astype(str),
    "bytes": lambda a: a.astype("S8"),
    "dates": lambda a: a.astype(np.int64).astype("M8[D]"),
    "durations": lambda a: a.astype(np.int64).astype("m8[s]"),
    "records": lambda a: np.zeros(a.shape, [("x", "f4"), ("y", "f4")]),
    "raw bytes": lambda a: np.zeros(a.shape, "V4"),
    "a masked array": np.ma.array,
    "a word": lambda _: "spam",
    "a byte string": lambda _: b"spam",
    "a dictionary": lambda _: {"a": 1.0},
    "a set": lambda _: {1.0, 2.0},
    "a generator": lambda _: (x for x in (1.0, 2.0)),
    "a function": lambda _: len,
    "a class": lambda _: float,
    "a ragged list": lambda _: [[1.0], [1.0, 2.0]],
    "a list of words": lambda _: ["a", "b"],
    "a list with None": lambda _: [1.0, None],
    "a complex scalar": lambda _: 1j,
}

#: What is not a number, a truth value or a word that a parameter could mean.
_NOT_PARAMETERS: Mapping[str, Any] = {
    "an object": object(),
    "bytes": b"spam",
    "a complex number": 1j,
    "a dictionary": {},
    "a word of no meaning": "spam",
    "a nested list": [[1.0, 2.0]],
    "a list of words": ["a", "b"],
}

_OUT_OF_BOUNDS = {
    "finite": (),
    "positive": (0.0, -0.0, -1.0),
    "non_negative": (-1e-300, -1.0),
    "at_least_one": (0.999, 0.0, -1.0),
    "unit": (-1e-3, 1.001),
}


@dataclass(frozen=True)
class BadCall:
    """A call that must raise an `error` that names `argument`.

    Calling the object makes the loss and calls it.

    Attributes
    ----------
    loss : str
        The class.
    argument : str
        Where the defect is.
    defect : str
        The defect in words.
    error : type of ArgumentError
        What it must raise.
    params : dict
        The constructor's arguments.
    inputs : dict
        The arguments of the call.
    method : str
        The method, or ``""`` if the constructor must fail.
    element : bool
        Whether one element is to blame: the error then has its index and value.
    """

    loss: str
    argument: str
    defect: str
    error: type[ArgumentError]
    params: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    method: str = "__call__"
    element: bool = False

    def __call__(self) -> Any:
        loss = spec_of(self.loss).cls(**self.params)
        return getattr(loss, self.method)(**self.inputs) if self.method else loss

    def __str__(self) -> str:
        params = ", ".join(f"{k}={v!r}" for k, v in self.params.items())
        made = f"{self.loss}({params})"
        return f"{made}.{self.method or '__new__'}, {self.argument}: {self.defect}"


def bad_calls(loss: LossLike) -> Iterator[BadCall]:
    """Yield a call for every way in which a call of a loss can be wrong.

    Each has fresh arrays.

    Parameters
    ----------
    loss : Loss, type of Loss, or str
        The loss.

    Yields
    ------
    BadCall
        To be called, and to fail with its `error`.

    Examples
    --------
    >>> from rustloss.testing import bad_calls
    >>> calls = {str(call): call for call in bad_calls("HuberLoss")}
    >>> call = calls["HuberLoss(rho=0.0).__new__, rho: 0.0"]
    >>> call.error.__name__
    'ParameterError'
    >>> call()
    Traceback (most recent call last):
        ...
    rustloss.errors.ParameterError: rho: expected a finite number > 0, got 0
    """
    spec = spec_of(loss)
    yield from _parameters(spec)
    for method in _methods(spec):
        yield from _arrays(spec, method)
        yield from _shapes(spec, method)
        yield from _outputs(spec, method)
    yield from _elements(spec)
    yield from _options(spec)


def _methods(spec: Spec) -> tuple[str, ...]:
    return ("__call__", "value_and_grad", "grad", *(("grad_hess",) if spec.hess else ()))


def _parameters(spec: Spec) -> Iterator[BadCall]:
    def bad(name: str, defect: str, value: Any) -> BadCall:
        return BadCall(spec.name, name, defect, ParameterError, {name: value}, method="")

    shared = {
        name: values
        for name, values in {
            "weight": (NAN, INF, -INF, True, (1.0, 2.0)),
            "batch_axis": (0.5, None, NAN, True, 10**30, "0", (0,)),
            "reduction": (1, True, "SAMPLE", "", "average", *_foreign_reductions(spec)),
            "empty": (None, 0.0, "inf", True),
        }.items()
        if name != "batch_axis" or name in inspect.signature(spec.cls).parameters
    }
    for name, values in shared.items():
        for value in values:
            yield bad(name, f"{value!r}", value)
    for name, param in spec.params.items():
        wrong: tuple[Any, ...] = {
            "flag": (2, 0.5, (True, False)),
            "int": (0.5, NAN, True, 10**30),
            "one_of": (0, 0.5, NAN, True, 10**30),
            "float": (NAN, INF, -INF, True, 10**400, (1.0,)),
            "choice": (1, 0.5, True),
            "flag_or": (2, 0.5),
            "index_or": (-1, 0.5, NAN, True),
            "weights": (1.0, True, (), (-1.0, 1.0), (NAN, 1.0), (1.0, INF)),
            "probabilities": (1.0, True, (), (-0.5, 1.0), (NAN, 1.0), (1.5,)),
        }[param.kind]
        if param.kind == "float":
            wrong += _OUT_OF_BOUNDS[param.bound]
        if param.default is not None:
            wrong += (None,)
        for value in wrong:
            yield bad(name, f"{value!r}", value)
    for name in (*shared, *spec.params):
        for defect, value in _NOT_PARAMETERS.items():
            yield bad(name, defect, value)
    for name in ("spam", "pred", "Weight", "out"):
        yield bad(name, "no such parameter", 1.0)


def _foreign_reductions(spec: Spec) -> tuple[str, ...]:
    return () if "target_mean" in spec.reductions else ("target_mean",)


def _base(spec: Spec, params: Mapping[str, Any] | None = None) -> tuple[Loss, dict[str, Any]]:
    """Return a loss and a valid call with every optional input."""
    loss = spec.cls(**(params or {}))
    optional = [i.name for i in spec.inputs if i.domain != "Offsets"]
    return loss, example(loss, optional=optional, dtype=np.float64)


def _arrays(spec: Spec, method: str) -> Iterator[BadCall]:
    loss, valid = _base(spec)
    takes_grad_output = method != "__call__"
    # A list with a row for each sample says itself how long they are.
    with_lengths = {i.name for i in spec.inputs if i.domain == "Tokens"}
    for name in (*valid, *(("grad_output",) if takes_grad_output else ())):
        given = valid.get(name, np.ones(np.shape(loss(**valid))))
        for defect, make in _NOT_NUMBERS.items():
            is_list = defect == "a ragged list" and name in with_lengths
            error = ParameterError if is_list else DTypeError
            inputs = {**_base(spec)[1], name: make(given)}
            yield BadCall(spec.name, name, defect, error, inputs=inputs, method=method)
    for entry in spec.inputs:
        if entry.required:
            inputs = {k: v for k, v in valid.items() if k != entry.name}
            for defect, given in {"missing": inputs, "None": {**inputs, entry.name: None}}.items():
                yield BadCall(spec.name, entry.name, defect, CallError, inputs=given, method=method)


def _shapes(spec: Spec, method: str) -> Iterator[BadCall]:
    loss, valid = _base(spec)
    first = spec.inputs[0].name
    value = np.asarray(loss(**valid))
    others = {k: v for k, v in valid.items() if k != first}
    if method != "__call__":
        others["grad_output"] = np.ones(value.shape)
    for name, given in others.items():
        domain = next((i.domain for i in spec.inputs if i.name == name), "")
        if domain == "Scalar":
            wrong = {"two numbers": np.ones(2), "a matrix": np.ones((2, 2))}
        else:
            flat = given.reshape(-1)
            wrong = {
                "one element more": np.append(flat, flat[:1]),
                "one element less": flat[:-1],
                "no elements": flat[:0],
                "another axis": np.stack([given, given]),
                "too many axes": np.stack([given, given])[None, None, None],
            }
            if given.ndim == 2 and domain not in {"Weight", "Tokens"}:
                wrong["transposed"] = given.T.copy()
                wrong["one row more"] = np.concatenate([given, given[:1]])
        error = ParameterError if domain == "Scalar" else ShapeError
        for defect, array in wrong.items():
            inputs = {**_base(spec)[1], **({} if name in valid else others), name: array}
            yield BadCall(spec.name, name, defect, error, inputs=inputs, method=method)
    axes: Mapping[str, tuple[int, ...]] = {"batch_axis": (2, -3, 10**9), "axis": (2, -3)}
    for name in axes.keys() & inspect.signature(spec.cls).parameters.keys():
        for axis in axes[name]:
            params, inputs = {name: axis}, _base(spec)[1]
            yield BadCall(spec.name, name, "no such axis", ParameterError, params, inputs, method)


#: What an element that must not be is called; a label, where it is not here.
_BLAMED = {"Weight": WeightError, "Lengths": LengthError}


def _elements(spec: Spec) -> Iterator[BadCall]:
    """Yield calls with one element that must not be."""
    for reduction in spec.reductions:
        params = {"reduction": reduction}
        loss, valid = _base(spec, params)
        for entry in spec.inputs:
            if entry.name not in valid:
                continue
            given = valid[entry.name]
            error: type[ArgumentError] = _BLAMED.get(entry.domain, LabelError)
            if entry.domain == "Weight":
                bad: tuple[float, ...] = (-1.0, -1e-300, NAN, INF, -INF)
            elif input_of(loss, entry.name).domain == "Classes":
                bad = (-1, 5, 10**6, 2**62, -(2**63), 2.5, -0.5, NAN, INF, -INF, 1e300)
            elif entry.domain == "ClassSets":
                bad = (-2, 5, 10**6, 2**62, -(2**63), 2.5, -0.5, NAN, INF, -INF, 1e300)
            elif entry.domain == "Variance":
                bad = (-1.0, -1e-300, -INF)
            elif entry.shape == "PerVector" and entry.domain == "Sign":
                bad = (0, 2, -2, 0.5, NAN, INF)
            elif entry.domain == "Tokens":
                bad = (4, 5, 10**6, 2**62, -(2**63), 2.5, INF)
            elif entry.domain == "Lengths":
                bad = (-1, 10**6, -(2**63), 2**62, 2.5, NAN, INF)
            else:
                continue
            for value in bad:
                changed = given.astype(np.result_type(given, np.asarray(value)))
                inputs = _base(spec, params)[1]
                if entry.domain in {"Tokens", "ClassSets"}:
                    # No padding, so that the last element counts.
                    changed[...] = 0
                if entry.domain == "Tokens":
                    inputs["label_lengths"] = np.full(len(given), given.shape[1])
                changed[(-1,) * changed.ndim] = value
                inputs[entry.name] = changed
                yield BadCall(
                    spec.name,
                    entry.name,
                    f"{value!r} as last element",
                    error,
                    params,
                    inputs,
                    "value_and_grad",
                    element=True,
                )


def _outputs(spec: Spec, method: str) -> Iterator[BadCall]:
    loss, valid = _base(spec)
    value = np.asarray(loss(**valid))
    pred = valid[spec.inputs[0].name]
    several = sum(i.gradient == "Default" for i in spec.inputs) > 1
    shapes = {"__call__": {"out": value.shape}}
    shapes["value_and_grad"] = {"out": value.shape, "grad_out": pred.shape}
    shapes["grad"] = {"grad_out": pred.shape}
    shapes["grad_hess"] = {"grad_out": pred.shape, "hess_out": pred.shape}

    def bad(name: str, defect: str, array: Any, inputs: dict[str, Any]) -> BadCall:
        out = (array, *valid_grads[1:]) if several and name == "grad_out" else array
        return BadCall(
            spec.name, name, defect, OutputError, inputs={**inputs, name: out}, method=method
        )

    valid_grads = tuple(
        np.empty(valid[i.name].shape) for i in spec.inputs if i.gradient == "Default"
    )
    for name, shape in shapes[method].items():
        wrong = {
            "float32": np.empty(shape, np.float32),
            "integers": np.empty(shape, np.int64),
            "objects": np.empty(shape, object),
            "the other byte order": np.empty(shape, ">f8"),
            "one axis more": np.empty((*shape, 1)),
            "longer": np.empty(tuple(n + 1 for n in shape)),
            "of another length": np.empty(int(np.prod(shape)) + 1),
            "read-only": relayout(np.empty(shape), "read-only"),
            "misaligned": relayout(np.empty(shape), "misaligned"),
            "overlapping itself": overlapping(np.float64, shape),
            "a list": np.zeros(shape).tolist(),
            "a number": 1.0,
            "a word": "spam",
        }
        for defect, array in wrong.items():
            yield bad(name, defect, array, _base(spec)[1])
        # The first input lies in the middle of a larger array, of which the output takes a part.
        memory = np.zeros(3 * pred.size)
        inputs = _base(spec)[1]
        start = pred.size
        inputs[spec.inputs[0].name] = memory[start : 2 * start].reshape(pred.shape)
        inputs[spec.inputs[0].name][...] = pred
        size = int(np.prod(shape))
        places = {"inside": start + 1, "end": 2 * start - 1, "rim": start - size + 1}
        for defect, at in places.items():
            yield bad(
                name,
                f"overlapping the {defect} of {spec.inputs[0].name}",
                memory[at : at + size].reshape(shape),
                inputs,
            )
    if several and method in ("value_and_grad", "grad"):
        shared = (valid_grads[0],) * len(valid_grads)
        wrong = {
            "not a tuple": valid_grads[0],
            "too few": valid_grads[:1],
            "one array twice": shared,
        }
        for defect, array in wrong.items():
            inputs = {**_base(spec)[1], "grad_out": array}
            yield BadCall(spec.name, "grad_out", defect, OutputError, inputs=inputs, method=method)
    if method == "grad_hess":
        both = np.empty(pred.shape)
        inputs = {**_base(spec)[1], "grad_out": both}
        yield bad("hess_out", "overlapping grad_out", both, inputs)


def _options(spec: Spec) -> Iterator[BadCall]:
    for value in (0.0, -1.0, NAN, INF, "2", [1.0], (1.0, 2.0), 1j, object()):
        inputs = {**_base(spec)[1], "denominator": value}
        params = {"reduction": "mean"}
        yield BadCall(spec.name, "denominator", f"{value!r}", ParameterError, params, inputs)
    for reduction in spec.reductions:
        if reduction not in {"mean", "weighted_mean"}:
            inputs = {**_base(spec)[1], "denominator": 2.0}
            params = {"reduction": reduction}
            defect = "without a mean"
            yield BadCall(spec.name, "denominator", defect, ParameterError, params, inputs)
    first = spec.inputs[0].name
    wrong: tuple[Any, ...] = ("spam", "", "sample_weight", ("spam",), (first, "spam"), 1, {}, [1])
    loss, valid = _base(spec)
    wrong += tuple(name for name in valid if name not in differentiable(loss, valid))
    for wrt in (*wrong, (first, first)):
        for method in ("value_and_grad", "grad"):
            inputs = {**_base(spec)[1], "wrt": wrt}
            yield BadCall(
                spec.name, "wrt", f"{wrt!r}", ParameterError, inputs=inputs, method=method
            )
    for method in _methods(spec):
        for name in ("spam", "predd", "weight", "reduction"):
            inputs = {**_base(spec)[1], name: 1.0}
            yield BadCall(
                spec.name, name, "no such argument", CallError, inputs=inputs, method=method
            )

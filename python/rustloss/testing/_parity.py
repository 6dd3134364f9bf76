"""Functions of others beside the losses here."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rustloss import _core
from rustloss._loss import Loss
from rustloss.errors import ParameterError
from rustloss.testing import _checks
from rustloss.testing._bounds import BOUNDS, Absolute, Bound
from rustloss.testing._gradient import anywhere
from rustloss.testing._inputs import with_classes
from rustloss.testing._oracle import oracle
from rustloss.testing._registry import ndims, spec_of
from rustloss.testing._strategies import Arguments, arguments, hypothesis_for
from rustloss.testing._ulp import told_apart

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Array = NDArray[Any]

#: Sums and means of many terms add this to the error of one.
_SUMS = 2.0
#: How far from a kink, in ulp, derivatives are compared: nearer, rounding decides on the side.
_KINK = 2.0**10
#: Ways to move all inputs by an ulp, up or down.
_MOVES = 4


class _DifferenceError(Exception):
    """What differs in the simplest call, and that call."""


def assert_parity(
    mine: Callable[..., Any],
    loss: Loss,
    *,
    optional: Collection[str] = (),
    given: Mapping[str, bool] | None = None,
    shape: int | tuple[int, ...] | SearchStrategy[Any] | None = None,
    max_side: int = 5,
    dtype: DTypeLike = "float64",
    large: bool = True,
    max_examples: int = 100,
    ulp: float | None = None,
) -> None:
    """Compare a function with a loss on many drawn calls, and show the simplest where they differ.

    What is right is said by `oracle`, in float64. The error may be the documented bound of the
    loss, and 2 more for its reduction, in units of an ulp of the largest number of the call, or of
    the change that an ulp in its inputs makes where that is more. The calls are the same in every
    run.

    Parameters
    ----------
    mine : callable
        Takes the required inputs of the loss by position, as arrays, and the optional ones by name.
        Returns the value; or a tuple of value and gradient; or of value, gradient and the diagonal
        of the second derivative. A gradient is an array, by the first input, or a tuple of arrays,
        by the first inputs. Derivatives are not compared at kinks. It may be a loss, too.
    loss : Loss
        The loss, whose parameters and reduction `mine` has too.
    optional : collection of str, optional
        Names of optional inputs that some of the calls have.
    given : mapping of str to bool, optional
        Whether all calls or none have an optional input, by its name: ``{"sample_weight": True}``.
    shape : int, tuple of int, or hypothesis strategy of such, optional
        The shape of the first input. By default it is drawn: with 0 to 4 axes for an elementwise
        loss; as a matrix, such as (N, C), for a loss of rows, with as many classes as it has
        weights; in the loss's layout for CTC.
    max_side : int, default 5
        The longest axis that is drawn.
    dtype : dtype_like, default "float64"
        Of the predictions.
    large : bool, default True
        Whether real numbers reach 8192, 128 in float16, as long as the loss of them is finite, or
        32 alone. Exponentials overflow there, and differences of large terms lose their digits.
    max_examples : int, default 100
        How many calls are tried.
    ulp : float, optional
        Another bound than the documented one.

    Raises
    ------
    AssertionError
        If a result differs, by more than its bound or in its shape. The text has the simplest such
        call that was found as code for either side.
    ImportError
        If hypothesis is not installed; the extra ``testing`` brings it.
    rustloss.errors.ParameterError
        If `optional` or `given` names what is no optional input of the loss, or another option is
        not what it must be.
    rustloss.errors.DTypeError
        If `dtype` is no floating-point type of predictions.
    TypeError
        If `mine` cannot be called, or `loss` is a class, a name or no loss.

    Examples
    --------
    >>> import numpy as np
    >>> import rustloss as rl
    >>> from rustloss.testing import assert_parity
    >>> def huber(pred, label):
    ...     size = np.abs(pred - label)
    ...     return np.where(size < 1, size**2 / 2, size - 1)
    >>> assert_parity(huber, rl.HuberLoss(reduction="none"))
    Traceback (most recent call last):
        ...
    AssertionError: value at [] is 0, expected 0.5: the error is 5e-01, the bound 1e-15 (5 ulp)
    huber(np.array(0.0, 'float64'), np.array(1.0, 'float64'))
    rl.HuberLoss(reduction='none')(np.array(0.0, 'float64'), np.array(1.0, 'float64'))
    """
    _checks.a_callable(mine, "mine")
    spec = spec_of(_checks.instance(loss))
    hypothesis, _ = hypothesis_for("assert_parity")
    some = _checks.names(optional, spec.optional, "optional", "names of optional inputs")
    wanted = {name: False for name in spec.optional if name not in some}
    wanted |= _checks.switches(given, spec)
    _checks.whole(max_side, 1, "max_side")
    _checks.whole(max_examples, 1, "max_examples")
    ulp = None if ulp is None else _checks.not_negative(ulp, "ulp")
    if shape is None and spec.family == "rowwise":
        shape = _matrices(loss, max_side)
    calls = arguments(
        loss,
        shape=shape,
        max_side=max_side,
        dtype=_checks.float_type(dtype),
        large=large,
        given=wanted,
    )

    def compare(call: Arguments) -> None:
        code = _code(mine, call)
        required = [call.inputs[i.name] for i in spec.inputs if i.required]
        named = {name: a for name, a in call.inputs.items() if name in spec.optional}
        try:
            found = mine(*required, **named)
        except Exception as error:
            error.add_note(f"raised by\n{code}")
            raise
        fault = _Comparison(loss, call.inputs, ulp).fault(found)
        if fault:
            raise _DifferenceError(f"{fault}\n{code}")

    settings = hypothesis.settings(
        max_examples=max_examples,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    try:
        settings(hypothesis.given(calls)(compare))()
    except _DifferenceError as difference:
        # The way through hypothesis says nothing.
        raise AssertionError(str(difference)) from None


def _matrices(loss: Loss, max_side: int) -> SearchStrategy[tuple[int, ...]]:
    """Return a strategy for shapes of rows: as few axes as the loss takes, but two at least."""
    _, strategies = hypothesis_for("assert_parity")
    sides = strategies.integers(1, max_side)
    ndim = min((n for n in ndims(loss) if n >= 2), default=0)
    if not ndim:
        raise ParameterError(
            f"shape: expected one that fits the axes of {loss!r}, got None", "shape"
        )
    shapes: SearchStrategy[tuple[int, ...]] = strategies.tuples(*[sides] * ndim)
    return shapes.map(functools.partial(with_classes, loss))


def _code(mine: Callable[..., Any], call: Arguments) -> str:
    """Return lines of Python that make a call of either side."""
    spec, lines = spec_of(call.loss), []
    arrays = []
    for entry in spec.inputs:
        if entry.name in call.inputs:
            text = _code_of(call.inputs[entry.name])
            arrays.append(text if entry.required else f"{entry.name}={text}")
    if any(array.dtype.name == "bfloat16" for array in call.inputs.values()):
        lines.append("import ml_dtypes")
    name = _name_of(mine)
    if name is None:
        name = "mine"
        lines.append(f"# mine is the function that was compared: {_described(mine)}")
    given = ", ".join(arrays)
    return "\n".join([*lines, f"{name}({given})", f"rl.{call.loss!r}({given})"])


def _code_of(array: Array) -> str:
    if not array.size:
        return f"np.zeros({array.shape}, {array.dtype.name!r})"
    numbers = re.sub(r"\b(?=(inf|nan)\b)", "np.", repr(array.tolist()))
    return f"np.array({numbers}, {array.dtype.name!r})"


def _name_of(function: Callable[..., Any]) -> str | None:
    """Return what a function is called in the code that made it, None if it has no name there."""
    if isinstance(function, Loss):
        return f"rl.{function!r}"
    name = getattr(function, "__name__", "")
    return name if name.isidentifier() and not inspect.ismethod(function) else None


def _described(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    if code is None:
        return " ".join(repr(function).split())
    return f"the lambda in line {code.co_firstlineno} of {code.co_filename}"


def _largest(*arrays: Any) -> float:
    """Return the largest finite size among arrays, at least 1."""
    sizes = (np.abs(np.asarray(array, np.float64)) for array in arrays)
    return max(1.0, *(float(size.max(initial=0.0, where=np.isfinite(size))) for size in sizes))


class _Comparison:
    """What a call of a loss should give, and how far from it a result may be."""

    def __init__(self, loss: Loss, inputs: Mapping[str, Array], ulp: float | None) -> None:
        self.loss, self.inputs, self.ulp = loss, inputs, ulp
        self.first = np.asarray(inputs[spec_of(loss).inputs[0].name], np.float64)
        self.dtype = inputs[spec_of(loss).inputs[0].name].dtype
        self.eps = float(np.spacing(self.dtype.type(1)))
        self.right = self._results(inputs)
        rng = np.random.default_rng(0)
        self.moved = [self._results(self._moved(rng)) for _ in range(_MOVES)]

    def _results(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        result = oracle(anywhere(self.loss)).results(**inputs)
        found = {"value": result.value, **result.grads}
        return found if result.hess is None else {**found, "hess": result.hess}

    def _moved(self, rng: np.random.Generator) -> dict[str, Array]:
        """Return the inputs that have a gradient an ulp away."""
        moved = dict(self.inputs)
        for name in self.right.keys() & self.inputs.keys():
            exact = np.asarray(self.inputs[name], np.float64)
            moved[name] = exact * (1 + self.eps * rng.choice([-1.0, 1.0], exact.shape))
        return moved

    def fault(self, found: Any) -> str | None:
        """Return what is wrong with results, None if nothing is."""
        value, *derivatives = found if isinstance(found, tuple) else (found,)
        if len(derivatives) > 2:
            return f"expected value, gradient and second derivative, got {len(found)} results"
        bounds, names = BOUNDS[spec_of(self.loss).name], list(self.inputs)
        checks: list[tuple[str, str, Any, Bound | Absolute | None]]
        checks = [("value", "value", value, bounds.value)]
        if derivatives and not self._is_near_a_kink():
            grad, *more = derivatives
            grads = grad if isinstance(grad, tuple) else (grad,)
            if len(grads) > len(names):
                return f"expected gradients by at most {len(names)} inputs, got {len(grads)}"
            checks += [(f"d/d{k}", k, g, bounds.grad) for k, g in zip(names, grads, strict=False)]
            checks += [(f"d2/d{names[0]}2", "hess", hess, bounds.hess) for hess in more]
        faults = (self._fault_of(*check) for check in checks)
        return next((fault for fault in faults if fault), None)

    def _is_near_a_kink(self) -> bool:
        distance = np.abs(_core.kinks(self.loss, **self.inputs))
        return bool((distance <= _KINK * self.eps * _largest(*self.inputs.values())).any())

    def _fault_of(
        self, title: str, key: str, found: Any, bound: Bound | Absolute | None
    ) -> str | None:
        if bound is None or key not in self.right:
            return f"{title}: expected none, {self.loss!r} has no such derivative"
        given, right = np.asarray(found), self.right[key]
        got = given.astype(np.float64)
        if got.shape != right.shape:
            return f"{title}: expected shape {right.shape}, got {got.shape}"
        unit = self.eps * _largest(right, *self.inputs.values())
        with np.errstate(all="ignore"):
            for moved in self.moved:
                change = np.abs(moved[key] - right)
                unit = max(unit, change.max(initial=0.0, where=np.isfinite(change)))
            # What is too large for the type of the result is infinite.
            same = (given == right.astype(given.dtype)) | (np.isnan(got) & np.isnan(right))
            error = np.where(same, 0.0, np.abs(got - right))
        if self.ulp is not None:
            limit, words = self.ulp * unit, f"{self.ulp:g} ulp"
        elif isinstance(bound, Bound):
            allowed = bound.base + bound.spread * float(np.ptp(self.first)) + _SUMS
            limit, words = allowed * unit, f"{allowed:g} ulp"
        else:
            least = bound.float64 if self.dtype == np.float64 else bound.float32
            limit = least * _largest(right) + _SUMS * unit
            words = f"{least:g} of the largest result, or of 1, and {_SUMS:g} ulp"
        # A NaN is worse than any number.
        error = np.where(np.isnan(error), np.inf, error)
        if not error.size or error.max() <= limit:
            return None
        at = np.unravel_index(int(error.argmax()), error.shape)
        is_, should = told_apart(got[at], right[at])
        size, most = told_apart(error[at], limit, ".0e")
        place = f"{title} at {list(map(int, at))} is {is_}, expected {should}"
        return f"{place}: the error is {size}, the bound {most} ({words})"

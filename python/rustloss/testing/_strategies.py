"""Hypothesis strategies for valid calls of every loss."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from rustloss._loss import Loss
from rustloss.errors import ParameterError
from rustloss.testing import _checks
from rustloss.testing._inputs import (
    LAYOUTS,
    SCALES,
    Array,
    Size,
    Values,
    inputs_of,
    layout_for,
    relayout,
    weight_shapes,
    with_classes,
)
from rustloss.testing._registry import (
    LossLike,
    Param,
    Spec,
    class_count,
    geometry,
    input_of,
    ndims,
    spec_of,
)

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Draw = Callable[["SearchStrategy[Any]"], Any]

#: Numbers within the bounds of a parameter.
_NUMBERS = {
    "finite": (-0.5, 0.0, 0.25, 1.0),
    "positive": (0.25, 1.0, 2.5),
    "non_negative": (0.0, 0.125, 1.0),
    "at_least_one": (1.0, 1.5, 2.0, 3.0),
    "unit": (0.0, 0.125, 0.5, 1.0),
}
#: Numbers that are drawn for one array; in a larger one they come again.
_MOST_NUMBERS = 251
#: Real numbers are multiplied by these as well, where formulas overflow that others write for small
#: ones. The type's largest number is above the squares of what the first one makes.
_LARGE_SCALES = (32.0, 2048.0)
#: What large numbers are divided by where the loss of them is infinite, as an exponential is.
_TOO_LARGE = 512.0
#: Values with which a gradient is by design not the derivative by its argument.
_NOT_A_DERIVATIVE = {"log_probs_torch"}


class Arguments(NamedTuple):
    """A loss and arguments for its calls."""

    loss: Loss
    inputs: dict[str, Any]


def hypothesis_for(name: str) -> tuple[Any, Any]:
    """Return hypothesis and its strategies, for a function of that name."""
    try:
        import hypothesis
        from hypothesis import strategies
    except ImportError as error:
        text = f"rustloss.testing.{name} needs hypothesis: pip install 'rustloss[testing]'"
        raise ImportError(text) from error
    return hypothesis, strategies


def arguments(
    loss: LossLike,
    *,
    shape: int | tuple[int, ...] | SearchStrategy[Any] | None = None,
    dtype: DTypeLike | None = None,
    max_side: int = 5,
    smooth: bool = False,
    large: bool = False,
    given: Mapping[str, bool] | None = None,
    layouts: bool = False,
    **options: Any,
) -> SearchStrategy[Arguments]:
    """Return a hypothesis strategy for valid calls of a loss.

    Counterexamples shrink to few samples, small and round numbers, defaults and no optional
    argument. Half of the calls keep to a grid of eighths, where kinks are hit.

    Parameters
    ----------
    loss : Loss, type of Loss, or str
        An instance, whose parameters are kept, or a class or its name, of which instances are made.
    shape : int, tuple of int, or strategy of such, optional
        The shape of the first input; drawn if not given, with as many classes as parameters of the
        loss have weights.
    dtype : dtype_like, optional
        Of the predictions, ``"bfloat16"`` included; float32 or float64 if not given.
    max_side : int, default 5
        The longest axis that is drawn.
    smooth : bool, default False
        Whether to stay away from kinks and from the edges of domains, so that derivatives can be
        checked by differences, in float64. Numbers are not round then, and come from a seed.
    large : bool, default False
        Whether real numbers reach beyond 32: in some calls 128, or 8192 but in float16, as long as
        the loss of them is finite. Results may be subnormal then.
    given : mapping of str to bool, optional
        Whether optional inputs are there, by their names: ``{"sample_weight": True}``; drawn for
        those that are not named.
    layouts : bool, default False
        Whether arrays are strided, reversed, read-only, misaligned and so on.
    **options
        Constructor parameters that are not to be drawn.

    Returns
    -------
    hypothesis.strategies.SearchStrategy
        Of pairs ``(loss, inputs)`` for ``loss(**inputs)``.

    Raises
    ------
    ImportError
        If hypothesis is not installed; the extra ``testing`` brings it.
    rustloss.errors.ParameterError
        If `given` names what is no optional input of the loss, or another argument is not what it
        must be.
    rustloss.errors.DTypeError
        If `dtype` is no floating-point type of predictions.

    Examples
    --------
    >>> import rustloss as rl
    >>> from hypothesis import given, settings
    >>> from rustloss.testing import arguments
    >>> @settings(max_examples=10, database=None)
    ... @given(arguments(rl.HuberLoss, reduction="sample"))
    ... def test_never_negative(call):
    ...     loss, inputs = call
    ...     assert (loss(**inputs) >= 0).all()
    >>> test_never_negative()
    """
    spec, (_, strategies) = spec_of(loss), hypothesis_for("arguments")
    wanted = _checks.switches(given, spec)
    max_side = _checks.whole(max_side, _LEAST_SIDES.get(spec.family, 1), "max_side")
    dtype = None if dtype is None else _checks.float_type(dtype)
    shapes: Any = shape
    if shape is not None and not isinstance(shape, strategies.SearchStrategy):
        shapes = strategies.just(_checks.fixed_shape(shape))
    for name in options if isinstance(loss, Loss) else ():
        text = f"expected with a class alone, got it with {loss!r}, whose parameters are kept"
        raise ParameterError(f"{name}: {text}", name)

    @strategies.composite  # type: ignore[untyped-decorator, unused-ignore]
    def calls(draw: Draw) -> Arguments:
        drawn = _Drawn(draw, strategies, max_side=max_side, smooth=smooth, large=large)
        fixed = None if shapes is None else _checks.fixed_shape(draw(shapes))
        made, sides = drawn.loss(loss, fixed, options)
        flags = {name: drawn.flag() for name in spec.optional} | wanted
        names = [name for name in spec.optional if flags[name]]
        inputs = drawn.inputs(made, sides, dtype, names)
        if layouts:
            for name, array in inputs.items():
                layout = draw(strategies.sampled_from(LAYOUTS))
                inputs[name] = relayout(array, layout_for(made, name, layout))
        return Arguments(made, inputs)

    strategy: SearchStrategy[Arguments] = calls()
    return strategy


def _simplest_first(numbers: Iterable[float]) -> Array:
    """Sort numbers: whole ones first, then halves, quarters and so on, each from 0 upwards."""
    return np.array(sorted(numbers, key=lambda x: (x.as_integer_ratio()[1], abs(x), x < 0)))


class _Numbers:
    """A source of numbers that hypothesis draws, and can therefore shrink.

    A number is a byte that chooses a round one, and a byte for all further digits. The bytes of an
    array are drawn at once, which is as quick as a seed, and shrink one by one.
    """

    _REALS = _simplest_first(k / 32 for k in range(-128, 128))
    _UNIT = _simplest_first([0.5, *(k / 256 for k in range(1, 256))])
    #: All its digits are needed, and 255 times it is less than a step of the round numbers.
    _DIGITS = math.pi / 1024 / 256

    def __init__(self, draw: Draw, strategies: Any) -> None:
        self.draw = draw
        self.st = strategies

    def _bytes(self, size: Size, dtype: str) -> Array:
        """Return numbers of an unsigned type; a large array repeats the first ones."""
        count = math.prod(size) if isinstance(size, tuple) else size
        width = np.dtype(dtype).itemsize * min(count, _MOST_NUMBERS)
        drawn = self.draw(self.st.binary(min_size=width, max_size=width))
        return np.resize(np.frombuffer(drawn, dtype), size)

    def _numbers(self, size: Size, round_ones: Array) -> Array:
        chosen, digits = divmod(self._bytes(size, ">u2"), 256)
        return np.asarray(round_ones[chosen] + digits * self._DIGITS)

    def normal(self, *, size: Size) -> Array:
        return self._numbers(size, self._REALS)

    def uniform(self, low: float, high: float, size: Size) -> Array:
        return low + (high - low) * self._numbers(size, self._UNIT)

    def random(self, size: Size) -> Array:
        return (self._bytes(size, "u1") + 0.5) / 256

    def integers(self, low: int, high: int, size: Size) -> Array:
        return low + self._bytes(size, ">u4").astype(np.int64) % (high - low)

    def choice(self, choices: list[float]) -> float:
        number: float = self.draw(self.st.sampled_from(choices))
        return number


#: Pairs need two rows, and an alignment two classes beside the blank.
_LEAST_SIDES = {"pairwise": 2, "sequence": 3}


class _Drawn:
    """The choices of one call."""

    def __init__(
        self, draw: Draw, strategies: Any, *, max_side: int, smooth: bool, large: bool
    ) -> None:
        self.draw = draw
        self.st = strategies
        self.max_side = max_side
        self.smooth = smooth
        self.large = large

    def pick(self, *choices: Any) -> Any:
        return self.draw(self.st.sampled_from(choices))

    def whole(self, low: int, high: int) -> int:
        number: int = self.draw(self.st.integers(low, high))
        return number

    def flag(self) -> bool:
        truth: bool = self.draw(self.st.booleans())
        return truth

    def sides(self, spec: Spec, ndim: int) -> tuple[int, ...]:
        least = 2 if spec.row_coupled else 1
        return tuple(self.whole(least, self.max_side) for _ in range(ndim))

    def loss(
        self, loss: LossLike, shape: tuple[int, ...] | None, options: Mapping[str, Any]
    ) -> tuple[Loss, tuple[int, ...]]:
        """Return a loss, made if it is not there yet, and a shape for its first input."""
        spec = spec_of(loss)
        if isinstance(loss, Loss):
            ndim = self.pick(*ndims(loss)) if shape is None else len(shape)
        else:
            ndim = self.pick(*ndims(spec.cls())) if shape is None else len(shape)
        params = dict(options)
        if spec.family == "sequence" and not isinstance(loss, Loss):
            params.setdefault("layout", self.pick("NTC", "TNC", "TC") if shape is None else "NTC")
            ndim = len(params["layout"])
        sides = self.sides(spec, ndim) if shape is None else shape
        if spec.family == "sequence" and shape is None:
            layout = (loss._params if isinstance(loss, Loss) else params)["layout"]
            room = {"N": self.max_side, "T": 2 * self.max_side, "C": self.max_side}
            sides = tuple(self.whole(1 + 2 * (axis == "C"), room[axis]) for axis in layout)
        if isinstance(loss, Loss):
            return loss, with_classes(loss, sides) if shape is None else sides
        self._params(spec, sides, params, is_fixed=shape is not None)
        made = self._construct(spec, params, options)
        return made, with_classes(made, sides) if shape is None else sides

    def _params(
        self, spec: Spec, sides: tuple[int, ...], params: dict[str, Any], *, is_fixed: bool
    ) -> None:
        """Add to `params` what is not in it yet; the axis of classes fits a shape that is fixed."""
        ndim = len(sides)
        signature = inspect.signature(spec.cls).parameters
        if "axis" in spec.params:
            axes: Iterable[int] = range(-max(ndim, 1), max(ndim, 1))
            if is_fixed and (count := class_count(spec, params)):
                axes = [axis for axis in axes if sides[axis] == count] or axes
            params.setdefault("axis", self.pick(*sorted(axes, key=lambda axis: axis != -1)))
            taken = params["axis"] % max(ndim, 1)
        else:
            taken = None
        if "batch_axis" in signature and "batch_axis" not in params:
            free = [axis for axis in (*range(ndim), *range(-ndim, 0)) if axis % ndim != taken]
            # One vector is one row, of which there is no other axis.
            params["batch_axis"] = self.pick(*free) if free else 0
        params.setdefault("reduction", self.pick(*spec.reductions))
        params.setdefault("empty", self.pick("nan", "zero"))
        params.setdefault("weight", self.pick(None, 0.5, 2.0, 3))
        for name, param in spec.params.items():
            if name not in params:
                value = self._value(name, param, sides[taken] if sides and taken is not None else 1)
                params[name] = value

    def _value(self, name: str, param: Param, classes: int) -> Any:
        if not self.flag() and param.default is not None:
            return param.default
        if param.kind == "flag":
            return self.flag()
        if param.kind == "float":
            number = self.pick(*_NUMBERS[param.bound])
            # No cosine of vectors of one element, which is 1 or -1, equals such a margin.
            return number * 1.0625 if self.smooth and param.bound == "finite" else number
        if param.kind == "weights":
            weights = tuple(self.pick(0.0, 0.5, 1.0, 3.0) for _ in range(classes))
            return weights if self.flag() else None
        if param.kind == "probabilities":
            chosen = sorted(self.pick(0.125, 0.25, 0.5, 0.875) for _ in range(classes))
            return tuple(chosen) if classes and self.flag() else None
        if name == "ignore_index":
            return self.pick(None, -1, 0, 1, 255)
        if param.words:
            words = [word for word in param.words if word not in _NOT_A_DERIVATIVE]
            more = {"choice": (), "flag_or": (True, False), "index_or": (0, 1), "one_of": ()}[
                param.kind
            ]
            return self.pick(*(words if self.smooth else param.words), *more)
        return param.default

    def _construct(self, spec: Spec, params: dict[str, Any], options: Mapping[str, Any]) -> Loss:
        """Make the loss; a parameter that has no meaning without another goes.

        One that is among the `options` stays, and the other one follows it.
        """
        try:
            made: Loss = spec.cls(**params)
        except ParameterError as error:
            if error.argument is None or error.needs is None:
                raise
            other, value = error.needs
            if error.argument not in options:
                del params[error.argument]
            elif other not in options:
                params[other] = value
            else:
                raise
            return self._construct(spec, params, options)
        return made

    def values(self, dtype: np.dtype[Any]) -> Values:
        """Return where numbers come from."""
        if self.smooth:
            return Values(np.random.default_rng(self.whole(0, 2**32 - 1)), smooth=True)
        larger = _LARGE_SCALES[: 1 if dtype == np.float16 else None] if self.large else ()
        scales = (*SCALES, *larger)
        return Values(_Numbers(self.draw, self.st), grid=not self.flag(), scales=scales)

    def inputs(
        self,
        loss: Loss,
        sides: tuple[int, ...],
        dtype: DTypeLike | None,
        optional: list[str],
    ) -> dict[str, Any]:
        """Return the arrays of a call."""
        spec, place = spec_of(loss), geometry(loss, sides)
        if dtype is None:
            dtype = np.float64 if self.smooth else self.pick(np.float64, np.float32)
        dtype = np.dtype(dtype)
        values = self.values(dtype)
        others = [name for name in optional if name != "sample_weight"]
        inputs: dict[str, Any] = inputs_of(loss, sides, values, optional=others, dtype=dtype)
        if self.large:
            _bring_into_range(loss, inputs)
        for entry in spec.inputs:
            if entry.domain == "Weight" and entry.name in inputs:
                kept = tuple(self.pick(n, 1) for n in sides)
                inputs[entry.name] = values.of("Weight", kept[self.whole(0, len(kept)) :])
            elif entry.gradient == "OnRequest" and entry.name in inputs and dtype != np.float64:
                # A label need not have the prediction's type.
                labels = self.pick(dtype, np.float64)
                if not input_of(loss, entry.name).is_discrete:
                    inputs[entry.name] = inputs[entry.name].astype(labels)
        if "sample_weight" in optional:
            weight = values.of("Weight", self.pick(*weight_shapes(loss, place)))
            if not self.smooth:
                weight = weight * (values.rng.random(weight.shape) < 0.8)
            inputs["sample_weight"] = np.asarray(weight)
        return inputs


def _bring_into_range(loss: Loss, inputs: dict[str, Any]) -> None:
    """Divide large real numbers for which the loss or a gradient of it is not finite."""
    real = [name for name in inputs if input_of(loss, name).domain == "Real"]
    most = 4 * max(SCALES)
    if all((np.abs(inputs[name]) <= most).all() for name in real):
        return
    value, grads = loss.value_and_grad(**inputs)
    found = (value, *(grads if isinstance(grads, tuple) else (grads,)))
    if not all(np.isfinite(array).all() for array in found):
        for name in real:
            array = inputs[name]
            inputs[name] = np.asarray(array / _TOO_LARGE, array.dtype)

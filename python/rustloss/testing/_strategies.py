"""Hypothesis strategies for valid calls of every loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from rustloss._loss import Loss
from rustloss.errors import ParameterError
from rustloss.testing._inputs import LAYOUTS, Values, inputs_of, layout_for, relayout, weight_shapes
from rustloss.testing._registry import (
    LossLike,
    Param,
    Spec,
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
#: Values with which a gradient is by design not the derivative by its argument.
_NOT_A_DERIVATIVE = {"log_probs_torch"}


class Arguments(NamedTuple):
    """A loss and arguments for its calls."""

    loss: Loss
    inputs: dict[str, Any]


def _hypothesis() -> Any:
    try:
        from hypothesis import strategies
    except ImportError as error:
        text = "rustloss.testing.arguments needs hypothesis: pip install 'rustloss[testing]'"
        raise ImportError(text) from error
    return strategies


def arguments(
    loss: LossLike,
    *,
    shape: tuple[int, ...] | None = None,
    dtype: DTypeLike | None = None,
    max_side: int = 5,
    smooth: bool = False,
    weighted: bool | None = None,
    layouts: bool = False,
    **options: Any,
) -> SearchStrategy[Arguments]:
    """Return a hypothesis strategy for valid calls of a loss.

    Structure (shapes, parameters, options, optional arguments) is drawn by hypothesis; numbers come
    from a generator whose seed it draws. Half of the calls keep to a grid, where kinks are hit.

    Parameters
    ----------
    loss : Loss, type of Loss, or str
        An instance, whose parameters are kept, or a class or its name, of which instances are made.
    shape : tuple of int, optional
        The shape of the first input; drawn if not given.
    dtype : dtype_like, optional
        Of the predictions; float32 or float64 if not given.
    max_side : int, default 5
        The longest axis.
    smooth : bool, default False
        Whether to stay away from kinks and from the edges of domains, so that derivatives can be
        checked by differences, in float64.
    weighted : bool, optional
        Whether there is a `sample_weight`; drawn if not given.
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
    spec_of(loss)
    strategies = _hypothesis()

    @strategies.composite  # type: ignore[untyped-decorator, unused-ignore]
    def calls(draw: Draw) -> Arguments:
        drawn = _Drawn(draw, strategies, max_side=max_side, smooth=smooth)
        made, sides = drawn.loss(loss, shape, options)
        inputs = drawn.inputs(made, sides, dtype, weighted=weighted)
        if layouts:
            for name, array in inputs.items():
                layout = draw(strategies.sampled_from(LAYOUTS))
                inputs[name] = relayout(array, layout_for(made, name, layout))
        return Arguments(made, inputs)

    strategy: SearchStrategy[Arguments] = calls()
    return strategy


class _Drawn:
    """The choices of one call."""

    def __init__(self, draw: Draw, strategies: Any, *, max_side: int, smooth: bool) -> None:
        self.draw = draw
        self.st = strategies
        self.max_side = max_side
        self.smooth = smooth

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
            return loss, sides
        self._params(spec, sides, params)
        return self._construct(spec, params), sides

    def _params(self, spec: Spec, sides: tuple[int, ...], params: dict[str, Any]) -> None:
        """Add to `params` what is not in it yet."""
        ndim = len(sides)
        signature = inspect.signature(spec.cls.__new__).parameters
        if "axis" in spec.params:
            params.setdefault("axis", self.whole(-max(ndim, 1), max(ndim, 1) - 1))
            taken = params["axis"] % max(ndim, 1)
        else:
            taken = None
        if "batch_axis" in signature and "batch_axis" not in params:
            free = [axis for axis in range(-ndim, ndim) if axis % ndim != taken]
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
        if self.flag() and param.default is not None:
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

    def _construct(self, spec: Spec, params: dict[str, Any]) -> Loss:
        """Make the loss; a parameter that has no meaning without another goes."""
        try:
            made: Loss = spec.cls(**params)
        except ParameterError as error:
            name = error.argument
            if name is None or name not in spec.params or " needs " not in str(error):
                raise
            del params[name]
            return self._construct(spec, params)
        return made

    def inputs(
        self, loss: Loss, sides: tuple[int, ...], dtype: DTypeLike | None, *, weighted: bool | None
    ) -> dict[str, Any]:
        """Return the arrays of a call."""
        spec, place = spec_of(loss), geometry(loss, sides)
        values = Values(
            self.whole(0, 2**32 - 1), smooth=self.smooth, grid=not self.smooth and self.flag()
        )
        if dtype is None:
            dtype = np.float64 if self.smooth else self.pick(np.float32, np.float64)
        known = [i.name for i in spec.inputs if not i.required and i.domain != "Offsets"]
        optional = [name for name in known if name != "sample_weight" and self.flag()]
        inputs: dict[str, Any] = inputs_of(loss, sides, values, optional=optional, dtype=dtype)
        for entry in spec.inputs:
            if entry.domain == "Weight" and entry.name in inputs:
                kept = tuple(self.pick(n, 1) for n in sides)
                inputs[entry.name] = values.of("Weight", kept[self.whole(0, len(kept)) :])
            elif entry.gradient == "OnRequest" and entry.name in inputs and dtype != np.float64:
                # A label need not have the prediction's type.
                labels = self.pick(dtype, np.float64)
                if not input_of(loss, entry.name).is_discrete:
                    inputs[entry.name] = inputs[entry.name].astype(labels)
        if weighted is None:
            weighted = self.flag()
        if weighted and "sample_weight" in known:
            weight = values.of("Weight", self.pick(*weight_shapes(loss, place)))
            if not self.smooth:
                weight = weight * (values.rng.random(weight.shape) > 0.2)
            inputs["sample_weight"] = np.asarray(weight)
        return inputs

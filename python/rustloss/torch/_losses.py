"""Losses by name, with parameters and errors as torch has them: what `functional` is made of."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction as _Reduction

import rustloss
from rustloss.errors import ArgumentError, DTypeError
from rustloss.torch._arrays import moves, to_numpy
from rustloss.torch._calls import value
from rustloss.torch._errors import TorchParameterError, as_torch
from rustloss.torch._op import Traits, traits

#: By the numbers that torch gives them.
_REDUCTIONS = ("none", "mean", "sum")

#: What torch calls the arguments and the parameters of the losses; errors name them so.
WORDS = {
    "pred": "input",
    "label": "target",
    "sample_weight": "weight",
    "class_weight": "weight",
    "epsilon": "eps",
}
SMOOTH_L1_WORDS = {**WORDS, "rho": "beta"}
HUBER_WORDS = {**WORDS, "rho": "delta", "weight": "delta"}
TRIPLET_WORDS = {**WORDS, "pred": "anchor"}
CTC_WORDS = {
    "pred": "log_probs",
    "label": "targets",
    "pred_lengths": "input_lengths",
    "label_lengths": "target_lengths",
}


@functools.lru_cache(maxsize=1024)
def _made(name: str, **params: Any) -> Traits:
    return traits(getattr(rustloss, name)(**params))


@torch.compiler.assume_constant_result
def _loss(name: str, **params: Any) -> Traits:
    """Return a loss by its name; the compiler takes it for a constant, as its arguments are."""
    return _made(name, **params)


def call(
    name: str,
    tensors: Sequence[Tensor],
    options: dict[str, Any],
    words: Mapping[str, str] = WORDS,
    **params: Any,
) -> Tensor:
    """Call a loss, with errors as torch has them; `options` are arguments of the call by name."""
    try:
        return value(_loss(name, **params), tuple(tensors), options)
    except ArgumentError as error:
        raise as_torch(error, words) from error


def call_rows(
    name: str,
    tensors: Sequence[Tensor],
    axes: int = 1,
    words: Mapping[str, str] = WORDS,
    **params: Any,
) -> Tensor:
    """Call a loss of rows, each with that many axes; the loss of one row has no dimensions."""
    if tensors[0].dim() > axes:
        return call(name, tensors, {}, words, **params)
    rows = call(name, [tensor[None] for tensor in tensors], {}, words, **params)
    return rows[0] if params["reduction"] == "none" else rows


def number(name: str, given: Any) -> Any:
    """Return a parameter as a number, which the compiler takes for a constant.

    A tensor is read each time, as losses are found again by their parameters.
    """
    if isinstance(given, Tensor):
        if moves(given):
            text = f"{name}: expected a number, got a tensor that needs a gradient"
            raise DTypeError(f"{text}, and there is none by it; pass {name}.item()", name)
        return given.item()
    if torch.compiler.is_compiling():
        # The numbers of a changed call are symbols there, until they are asked for a ratio.
        if isinstance(given, float) and -math.inf < given < math.inf:
            numerator, denominator = given.as_integer_ratio()
            return numerator / denominator
        if isinstance(given, int):
            return operator.index(given)
    return given


@torch.compiler.assume_constant_result
def _of_booleans(size_average: bool | None, reduce: bool | None) -> str:
    reduction: str = _Reduction.legacy_get_string(size_average, reduce)
    return reduction


def reduction_of(
    reduction: str, size_average: bool | None = None, reduce: bool | None = None
) -> str:
    """Return a reduction by torch's rules, the deprecated arguments among them."""
    if size_average is not None or reduce is not None:
        reduction = _of_booleans(size_average, reduce)
    return reduction if reduction in _REDUCTIONS else _REDUCTIONS[_Reduction.get_enum(reduction)]


def class_weights(weight: Tensor | None) -> tuple[float, ...] | None:
    """Return weights of classes as a parameter of a loss.

    Raises
    ------
    ValueError
        If there is not one for each class.
    rustloss.errors.ParameterError
        If they need a gradient.
    """
    if weight is None:
        return None
    if weight.dim() != 1:
        text = f"expected one weight for each class, got shape {tuple(weight.size())}"
        raise ValueError(f"weight: {text}")
    if moves(weight):
        text = "weight: expected a tensor that needs no gradient, as there is none by it"
        raise TorchParameterError(f"{text}; pass weight.detach()", "weight")
    numbers = weight if torch.compiler.is_compiling() else to_numpy("weight", weight)
    return tuple(numbers.tolist())

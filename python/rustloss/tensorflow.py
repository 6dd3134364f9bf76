"""Losses on tensors of TensorFlow, eagerly and in ``tf.function``.

A loss called with tensors gives a tensor that ``tf.GradientTape`` and ``tf.gradients``
differentiate: twice if the second derivative of an element depends on that element alone, else the
second time raises `NotImplementedError`. A gradient that is not known is NaN and not missing: by a
weight, and the second derivative by prediction and label. Tensors are read without a copy; results
are copied, since TensorFlow wants its memory aligned in a way of its own.

In a graph a loss is a ``tf.numpy_function``. Sizes of axes may be unknown, their number may not.
Errors in the values of labels come as ``tf.errors.InvalidArgumentError`` with the same text. XLA
cannot compile such a function (``jit_compile=True``), and a SavedModel cannot hold it.

Examples
--------
>>> import rustloss as rl
>>> import tensorflow as tf
>>> pred, label = tf.Variable([[1.0, 3.0], [2.0, 0.0]]), tf.constant([1, 0])
>>> with tf.GradientTape() as tape:
...     loss = rl.SoftmaxCELoss(reduction="mean")(pred, label)
>>> print(loss.numpy(), tape.gradient(loss, pred).numpy())
0.126928 [[ 0.05960146 -0.05960146]
 [-0.05960146  0.05960146]]
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from rustloss._adapter import DISCRETE, foreign, is_elementwise, refuse_outputs, second_order
from rustloss._interop import refuse_lists_of_tensors
from rustloss.errors import DTypeError, ShapeError

if TYPE_CHECKING:
    from rustloss import Loss

__all__ = ["call"]

_PROBES = (1009, 1013)
"""Sizes for axes of unknown size; where results differ, theirs is unknown too."""

_LOST = (
    "tf.vectorized_map leaves out the gradient of a loss: take the gradient inside of the mapped "
    "function, or use tf.map_fn"
)


def call(loss: Loss, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a method of a loss with tensors.

    Parameters
    ----------
    loss : rustloss.Loss
        The loss.
    method : str
        ``"__call__"``, which can be differentiated, ``"value_and_grad"``, ``"grad"`` or
        ``"grad_hess"``, which cannot.
    args, kwargs
        What the method takes; NumPy's arrays and numbers are taken too.

    Returns
    -------
    tf.Tensor, or a tuple of them

    Raises
    ------
    rustloss.errors.DTypeError
        For a ragged or a sparse tensor, or a list of tensors.
    rustloss.errors.ShapeError
        In a graph, if the number of axes of the prediction is unknown.
    """
    inputs, options, *_ = loss._bind(method, args, kwargs)
    refuse_outputs(options)
    given = {**inputs, **options}
    tensors = {name: _tensor(name, value) for name, value in foreign(given).items()}
    rest = {name: value for name, value in given.items() if name not in tensors}
    discrete = {row["name"] for row in loss._inputs if row["domain"] in DISCRETE}
    for name, value in rest.items():
        if name not in discrete:
            refuse_lists_of_tensors(name, value)
    if method == "__call__":
        return _value(loss, tensors, rest)
    text = f"{method} is not differentiated any further; call the loss, and differentiate that"
    return _last(lambda now: _run(loss, method, now, rest), tensors, text)


def _tensor(name: str, value: Any) -> Any:
    try:
        return tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        kind = type(value).__name__
        remedy = {
            "RaggedTensor": f"pass {name}.to_tensor()",
            "SparseTensor": f"pass tf.sparse.to_dense({name})",
        }.get(kind, "make it with its dense_shape")
        raise DTypeError(f"{name}: expected a dense tensor, got {kind}; {remedy}", name) from error


def _differentiated(function: Callable[..., tuple[Any, Any]]) -> Callable[..., Any]:
    """Return ``tf.custom_gradient`` of a function, whose gradient is not lost without a word.

    ``tf.vectorized_map`` copies the operations of a graph without the gradients that a program gave
    them. Then that of the results themselves counts, which raises.
    """

    def guarded(*inputs: Any) -> tuple[Any, Any]:
        results, backward = function(*inputs)
        if not tf.executing_eagerly():
            results = tf.nest.map_structure(
                lambda result: tf.raw_ops.PreventGradient(input=result, message=_LOST), results
            )
        return results, backward

    return tf.custom_gradient(guarded)  # type: ignore[no-any-return]  # TensorFlow has no types


def _value(loss: Loss, tensors: dict[str, Any], rest: dict[str, Any]) -> Any:
    """Return the value, whose gradient TensorFlow can take."""
    rows = {
        row["name"]: row["gradient"]
        for row in loss._inputs
        if row["name"] in tensors
        and row["domain"] not in DISCRETE
        and tensors[row["name"]].dtype.is_floating
    }
    if not rows:
        return _run(loss, "__call__", tensors, rest)
    default, labels = (
        tuple(name for name, gradient in rows.items() if gradient == when)
        for when in ("Default", "OnRequest")
    )
    # A graph in which nobody asks for the gradient by labels leaves it out if it is apart, and so
    # is the one that has a derivative.
    apart = int(is_elementwise(loss))
    groups = [wrt for wrt in (default[:apart], default[apart:], labels) if wrt]

    @_differentiated
    def value(*inputs: Any) -> tuple[Any, Callable[[Any], list[Any]]]:
        now = dict(zip(rows, inputs, strict=True))

        def backward(grad_output: Any) -> list[Any]:
            slopes = {name: _unknown(tensor) for name, tensor in now.items()}
            for wrt in groups:
                slopes |= _grad(loss, wrt, now, tensors, rest, grad_output)
            return list(slopes.values())

        return _run(loss, "__call__", tensors | now, rest), backward

    return value(*(tensors[name] for name in rows))


def _unknown(tensor: Any) -> Any:
    """Return the gradient by an input that has none: no number, lest it be taken for 0."""
    return tf.fill(tf.shape(tensor), tf.constant(np.nan, tensor.dtype))


def _grad(
    loss: Loss,
    wrt: tuple[str, ...],
    inputs: dict[str, Any],
    tensors: dict[str, Any],
    rest: dict[str, Any],
    grad_output: Any,
) -> dict[str, Any]:
    """Return the gradient by some inputs, which depends on all of them and on `grad_output`."""
    first = loss._inputs[0]["name"]

    @_differentiated
    def slopes(grad_output: Any, *same: Any) -> tuple[list[Any], Callable[..., list[Any]]]:
        now = dict(zip(inputs, same, strict=True))
        given = tensors | now | {"grad_output": grad_output}
        specs = [(tensor.shape, tensor.dtype) for tensor in (now[first], grad_output)]

        def backward(*arriving: Any) -> list[Any]:
            if wrt != (first,):
                text = f"the gradient by {' and '.join(wrt)} has no derivative of its own"
                remedy = "forward mode, which asks for one too, takes labels as NumPy arrays"
                raise NotImplementedError(f"{type(loss).__name__}: {text}; {remedy}")
            by_pred, by_grad_output = _last(
                lambda now: _computed(functools.partial(second_order, loss), now, rest, specs),
                {**given, "direction": arriving[0]},
                "expected at most two derivatives of a loss, both by GradientTape, got one more; "
                "forward mode asks for one of its own",
            )
            mixed = {name: _unknown(tensor) for name, tensor in now.items()}
            return [by_grad_output, *(mixed | {first: by_pred}).values()]

        return list(_run(loss, "grad", given, {**rest, "wrt": wrt})), backward

    found = slopes(grad_output, *inputs.values())
    return {
        name: tf.cast(slope, inputs[name].dtype) for name, slope in zip(wrt, found, strict=True)
    }


def _last(function: Callable[[dict[str, Any]], Any], tensors: dict[str, Any], text: str) -> Any:
    """Return what a function makes of tensors, which raises where its derivative is asked for."""

    @_differentiated
    def results(*same: Any) -> tuple[Any, Callable[..., Any]]:
        def backward(*_: Any) -> Any:
            raise NotImplementedError(text)

        return function(dict(zip(tensors, same, strict=True))), backward

    return results(*tensors.values())


def _run(loss: Loss, method: str, tensors: dict[str, Any], rest: dict[str, Any]) -> Any:
    """Return what a method gives, as tensors."""
    default = tuple(row["name"] for row in loss._inputs if row["gradient"] == "Default")
    wrt = rest.get("wrt") or (default if len(default) > 1 else default[0])
    names = {
        "__call__": "",
        "value_and_grad": ("", wrt),
        "grad": wrt,
        "grad_hess": (default[0], default[0]),
    }[method]
    specs = (
        [] if tf.executing_eagerly() else _specs(loss, tf.nest.flatten(names), {**tensors, **rest})
    )
    found = _computed(getattr(loss, method), tensors, rest, specs)
    return tf.nest.pack_sequence_as(names, found)


def _specs(loss: Loss, names: list[str], given: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Return shapes and types of gradients by inputs of these names, of the value for no name."""
    argument = loss._inputs[0]["name"]
    first = given[argument] if tf.is_tensor(given[argument]) else np.asarray(given[argument])
    shape = tf.TensorShape(first.shape)
    if shape.rank is None:
        remedy = "pass tf.ensure_shape(x, [None, ...])"
        text = f"{argument}: expected a known number of axes, got a tensor of any; {remedy}"
        raise ShapeError(text, argument)
    rows = [
        loss._signature(
            [
                (tuple(probe if n is None else n for n in shape), first.dtype.name),
                *[None] * (len(loss._inputs) - 1),
            ]
        )
        for probe in _PROBES
    ]
    sizes = (m if m == n else None for m, n in zip(*(row["value"] for row in rows), strict=True))
    value = (tf.TensorShape(list(sizes)), tf.as_dtype(rows[0]["value_dtype"]))
    return [(given[name].shape, tf.as_dtype(rows[0]["dtype"])) if name else value for name in names]


def _computed(
    function: Callable[..., Any],
    tensors: dict[str, Any],
    rest: dict[str, Any],
    specs: list[tuple[Any, Any]],
) -> list[Any]:
    """Return the arrays that a function gives for the numbers of tensors, as tensors."""

    def compute(*arrays: Any) -> list[Any]:
        given = dict(zip(tensors, arrays, strict=True))
        return tf.nest.flatten(function(**given, **rest))  # type: ignore[no-any-return]

    if tf.executing_eagerly():
        return [tf.convert_to_tensor(x) for x in compute(*map(np.asarray, tensors.values()))]
    types = [dtype for _, dtype in specs]
    found = tf.numpy_function(compute, list(tensors.values()), types, stateful=False)
    for tensor, (shape, _) in zip(found, specs, strict=True):
        tensor.set_shape(shape)
    return list(found)

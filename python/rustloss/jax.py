"""Losses on JAX arrays, under all of JAX's transformations.

Losses take JAX arrays as they take NumPy's, traced ones too, so that nothing of this module need be
called: it is imported when the first of them comes.

>>> import jax, jax.numpy as jnp
>>> import rustloss as rl
>>> loss = rl.SoftmaxCELoss(reduction="mean")
>>> step = jax.jit(jax.value_and_grad(loss))
>>> value, grad = step(jnp.zeros((2, 4)), jnp.array([1, 3]))
>>> round(float(value), 4), grad.shape
(1.3863, (2, 4))

A call becomes one operation of XLA on the CPU, which computes the value together with those
gradients that are asked for. Every loss has first derivatives; those of one number per sample or in
all forward-mode ones too. Second derivatives by the prediction are there where their matrix is
diagonal; elsewhere `NotImplementedError` is raised, never 0 returned. Inputs without a derivative,
such as `sample_weight`, must not depend on what is differentiated: pass them through
`jax.lax.stop_gradient`.

Shapes and element types are checked when a call is traced, with exceptions of `rustloss.errors`.
What arrays hold (labels, weights, lengths) is seen when the program runs: XLA then raises its own
class, with the name of ours and its text in the message. `function` has another way.

JAX from 0.4.38 on will do. `shard_map` of versions that have it in `jax.experimental` needs
`check_rep=False`.

Without JAX's 64-bit mode integers and numbers of NumPy become 32-bit, as everywhere in JAX; indices
and lengths that would become others are refused.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from numpy.typing import NDArray

try:
    from jax import ffi
except ImportError:  # before JAX 0.5
    from jax.extend import ffi

from rustloss import _core
from rustloss._adapter import DISCRETE, is_elementwise
from rustloss._frameworks import framework
from rustloss._interop import as_array
from rustloss._loss import ArraySpec, Loss
from rustloss.errors import (
    DTypeError,
    LabelError,
    LengthError,
    OutputError,
    ParameterError,
    ShapeError,
)

__all__ = ["call", "function"]

OnError = Literal["raise", "nan"]

#: The name of the operation in compiled programs. One that was exported can be run, in any process,
#: once this module is imported.
_TARGET = "rustloss"
ffi.register_ffi_target(_TARGET, _core.xla_handler, platform="cpu")


def function(loss: Loss, *, on_error: OnError = "raise") -> Callable[..., jax.Array]:
    """Return the value of a loss as a function, with a choice of what becomes of errors.

    Parameters
    ----------
    loss : Loss
        The loss.
    on_error : {"raise", "nan"}, default "raise"
        What happens if labels, weights or lengths are wrong when the program runs. ``"raise"``
        fails, as calls of `loss` do. ``"nan"`` makes all results of the operation NaN instead, of
        each mapped call by itself under `jax.vmap`. Programs in which several devices wait for each
        other need that: a device that fails leaves the others waiting.

    Returns
    -------
    callable
        It takes what the loss takes.

    Raises
    ------
    rustloss.errors.ParameterError
        If `on_error` is neither.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import rustloss as rl
    >>> from rustloss.jax import function
    >>> loss = function(rl.SoftmaxCELoss(), on_error="nan")
    >>> loss(jnp.zeros((1, 4)), jnp.array([7])).tolist()
    [nan]
    """
    if on_error not in ("raise", "nan"):
        text = f"on_error: expected 'raise' or 'nan', got {on_error!r}"
        raise ParameterError(text, "on_error")

    def value(*args: Any, **kwargs: Any) -> jax.Array:
        return _call(loss, "__call__", args, kwargs, on_error)

    return value


def call(loss: Loss, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a method of a loss gives for JAX arrays, as JAX arrays.

    Parameters
    ----------
    loss : Loss
        The loss.
    method : {"__call__", "value_and_grad", "grad", "grad_hess"}
        The name of the method.
    args, kwargs
        Its arguments: JAX arrays, and NumPy arrays, numbers and lists beside them.

    Raises
    ------
    rustloss.errors.ArgumentError
        If an argument is not what the method takes; `OutputError` if it is memory for results,
        which JAX has none of.
    """
    return _call(loss, method, args, kwargs, "raise")


def _call(
    loss: Loss, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], on_error: OnError
) -> Any:
    inputs, options, wrt, single = loss._bind(method, args, kwargs)
    for name in ("out", "grad_out", "hess_out"):
        if name in options:
            text = f"{name}: JAX arrays cannot be written to; leave it out and use the result"
            raise OutputError(text, name)
    first, *_ = inputs
    results = {
        "__call__": ("value",),
        "value_and_grad": ("value", *wrt),
        "grad": wrt,
        "grad_hess": (first, "hess"),
    }[method]
    if "grad_output" in options:
        inputs["grad_output"] = options["grad_output"]
    arrays = [_array(loss, name, value) for name, value in inputs.items()]
    operation = _Operation(loss, tuple(inputs), results, options.get("denominator"), on_error)
    found: tuple[jax.Array, ...] = _run(operation, *arrays) if results else ()
    if method == "__call__":
        return found[0]
    if method == "grad_hess":
        return found
    grads = found[len(found) - len(wrt) :]
    derived = grads[0] if single else grads
    return (found[0], derived) if method == "value_and_grad" else derived


def _array(loss: Loss, name: str, value: Any) -> jax.Array:
    """Return an argument as an array of JAX that holds real numbers."""
    if not isinstance(value, jax.Array):
        return _from_numpy(loss, name, value)
    if not isinstance(value.dtype, np.dtype):  # keys of random numbers
        raise DTypeError(f"{name}: expected real numbers, got dtype {value.dtype}", name)
    if not isinstance(value, jax.core.Tracer) and value.is_deleted():
        text = f"{name}: expected an array that holds numbers, got one that was deleted or donated"
        raise DTypeError(text, name)
    return value


def _from_numpy(loss: Loss, name: str, value: Any) -> jax.Array:
    """Return an array of NumPy, a number or a list as an array of JAX."""
    for kind in set(map(type, jax.tree.leaves(value))):
        if framework(kind) not in (None, "jax"):
            text = (
                f"{name}: expected numbers of JAX or NumPy, got {kind.__module__}.{kind.__name__}"
            )
            raise DTypeError(text, name)
    array = as_array(name, value)
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype != array.dtype:
        array = _before_rounding(loss, name, array, dtype)
    return jnp.asarray(array)


def _before_rounding(
    loss: Loss, name: str, array: NDArray[Any], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return an array that JAX can round to 32 bits.

    Integers too large for that are made floats. Indices and lengths are refused instead, if they
    would become others.
    """
    domain = next((row["domain"] for row in loss._inputs if row["name"] == name), None)
    if array.dtype.kind == "f" and domain not in DISCRETE:
        return array
    with np.errstate(over="ignore"):
        changed = (array.astype(dtype) != array) & ~np.isnan(array)
    if not changed.any():
        return array
    if domain not in DISCRETE:
        return array.astype(np.float64)
    index = tuple(map(int, np.argwhere(changed)[0]))
    place = f"{name}[{', '.join(map(str, index))}]" if index else name
    value = array[index].item()
    text = f"{place}: expected a number that {dtype} holds, got {value}"
    remedy = "for 64 bits call jax.config.update('jax_enable_x64', True)"
    error = LengthError if domain in {"Lengths", "Offsets"} else LabelError
    raise error(f"{text}; {remedy}", name, index, value)


@dataclass(frozen=True)
class _Operation:
    """A call without its arrays."""

    loss: Loss
    #: The names of the arrays in their order: inputs, and perhaps `grad_output`.
    operands: tuple[str, ...]
    #: What is computed: ``"value"``, names of inputs for the gradients by them, ``"hess"``.
    results: tuple[str, ...]
    denominator: float | None
    on_error: OnError

    @property
    def first(self) -> str:
        """The name of the prediction."""
        return self.operands[0]

    def text(self, ndim: int) -> str:
        """Return what the handler reads, for a prediction of so many axes."""
        lines = (
            self.loss._spec["name"],
            " ".join(self.operands),
            " ".join(self.results),
            ndim,
            self.on_error,
            self.denominator,
            *(f"{name}={value!r}" for name, value in self.loss._params.items()),
        )
        return "\n".join(map(str, lines))

    def check_shapes(self, arrays: Collection[Any]) -> None:
        """Refuse lengths that `jax.export` has symbols for."""
        for name, array in zip(self.operands, arrays, strict=True):
            if not all(isinstance(length, int) for length in array.shape):
                text = f"{name}: expected a shape of numbers, got {array.shape}"
                raise ShapeError(f"{text}; export one program for each shape", name)

    def inputs(self, arrays: Collection[Any]) -> dict[str, Any]:
        """Return the arrays by their names, without the gradient that comes from outside."""
        named = zip(self.operands, arrays, strict=True)
        return {name: array for name, array in named if name != "grad_output"}

    def specs(self, arrays: Collection[Any]) -> list[ArraySpec]:
        """Return the shapes and types of the results."""
        signature = self.loss.signature(**self.inputs(arrays))
        found = {"value": signature.value, "hess": signature.grads[self.first], **signature.grads}
        return [found[name] for name in self.results]

    def geometry(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return where the axes of the call are."""
        pred = inputs[self.first]
        given: list[tuple[tuple[int, ...], str] | None] = [(pred.shape, str(pred.dtype))]
        return self.loss._signature(given + [None] * (len(self.loss._inputs) - 1))

    def floating(self, arrays: Collection[jax.Array]) -> list[jax.Array]:
        """Return the arrays with those that decide the type of the results as floats."""
        rules = {row["name"]: row["gradient"] for row in self.loss._inputs}
        return [
            array.astype(float)
            if rules.get(name) == "Default" and not jnp.issubdtype(array.dtype, jnp.inexact)
            else array
            for name, array in zip(self.operands, arrays, strict=True)
        ]

    def check_differentiable(self, names: Collection[str]) -> None:
        """Refuse derivatives that there are none of."""
        rules = {row["name"]: row["gradient"] for row in self.loss._inputs}
        for name in names:
            if name == "grad_output":
                text = "grad_output: no derivative by it; take the gradient by jax.vjp instead"
                raise NotImplementedError(text)
            if rules[name] == "Never":
                text = f"{name}: there is no derivative by it; pass jax.lax.stop_gradient({name})"
                raise ParameterError(text, name)

    def is_coupled(self, inputs: Mapping[str, Any]) -> bool:
        """Whether an element of an input has a part in several elements of the value."""
        if not self.loss.signature(**inputs).value.shape:
            return False
        spec = self.loss._spec
        whole_rows = spec["family"] == "rowwise" and spec["unreduced"] == "Element"
        return bool(spec["family"] == "pairwise" or (whole_rows and self.loss.reduction == "none"))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _compute(operation: _Operation, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Compute the results of an operation by the handler in `rustloss._core`."""
    # All operands are on the devices in the same way, see `_alike`, and so are the results.
    aval = _typeof(arrays[0])
    results = [
        aval.update(shape=shape, dtype=jnp.dtype(dtype), weak_type=False)
        for shape, dtype in operation.specs(arrays)
    ]
    run = ffi.ffi_call(_TARGET, results, vmap_method="expand_dims")
    return tuple(run(*arrays, call=operation.text(arrays[0].ndim)))


# Older versions of JAX have these under other names, and the oldest no types that need the casts.
_typeof = getattr(jax, "typeof", None) or jax.core.get_aval
_reshard = getattr(jax.sharding, "reshard", None)
_cast = (
    functools.partial(jax.lax.pcast, to="varying")
    if hasattr(jax.lax, "pcast")
    else getattr(jax.lax, "pvary", lambda array, _: array)
)


@functools.partial(_compute.defjvp, symbolic_zeros=True)
def _compute_jvp(
    operation: _Operation, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    named = zip(operation.operands, tangents, strict=True)
    perturbed = {name: tangent for name, tangent in named if not isinstance(tangent, SymbolicZero)}
    operation.check_differentiable(perturbed)
    if operation.results == ("value",):
        value, tangent = _value_jvp(operation, operation.inputs(primals), perturbed)
        return (value,), (tangent,)
    return _derivatives_jvp(operation, primals, perturbed)


def _value_jvp(
    operation: _Operation, inputs: dict[str, jax.Array], perturbed: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Return the value and its tangent, whose parts are gradients times tangents, summed."""
    # One number for many elements has one gradient, the sum of what it does to all of them.
    line_up = functools.partial(_line_up, operation, inputs)
    inputs = inputs | {name: line_up(name, inputs[name]) for name in perturbed}
    operation = replace(operation, operands=tuple(inputs), results=("value", *perturbed))
    value, *grads = _compute(operation, *inputs.values())
    total = jnp.zeros_like(value)
    for (name, tangent), grad in zip(perturbed.items(), grads, strict=True):
        product = grad.astype(value.dtype) * line_up(name, tangent).astype(value.dtype)
        total += _summed(operation, inputs, product, value.shape)
    return _as_its_tangent(value, total), total


def _as_its_tangent(array: jax.Array, tangent: jax.Array) -> jax.Array:
    """Return a result with a mesh, which in JAX 0.6's `shard_map` foreign functions leave out."""
    return array if _typeof(array) == _typeof(tangent) else array * 1


def _line_up(
    operation: _Operation, inputs: Mapping[str, jax.Array], name: str, array: jax.Array
) -> jax.Array:
    """Return an input, or its tangent, with an element of its own for each of the prediction's."""
    pred = inputs[operation.first]
    rule = next(row["shape"] for row in operation.loss._inputs if row["name"] == name)
    if rule == "Broadcast":
        return jnp.broadcast_to(array, pred.shape)
    if rule == "SameOrOneVector" and array.size != pred.size:
        vectors = operation.geometry(inputs)["vectors"]
        along = [1] * pred.ndim
        along[vectors] = pred.shape[vectors]
        return jnp.broadcast_to(array.reshape(along), pred.shape)
    return array


def _summed(
    operation: _Operation,
    inputs: Mapping[str, jax.Array],
    product: jax.Array,
    shape: tuple[int, ...],
) -> jax.Array:
    """Return the sums over what belongs to one element of the value."""
    if not shape:
        return product.sum()
    axes, pred = operation.geometry(inputs), inputs[operation.first]
    rows = axes["unreduced"]
    by_row = product.size != pred.size or pred.size == math.prod(rows)
    product = product.reshape(rows if by_row else pred.shape)
    if operation.loss.reduction == "none" and by_row:
        return product.reshape(shape)
    is_vector = operation.loss.reduction == "none" and operation.loss._spec["unreduced"] == "Row"
    if is_vector and axes["vectors"] is not None:
        return product.sum(axes["vectors"]).reshape(shape)
    samples = axes["samples" if by_row else "first_samples"]
    return product.sum([axis for axis in range(product.ndim) if axis != samples]).reshape(shape)


def _derivatives_jvp(
    operation: _Operation, primals: tuple[Any, ...], perturbed: Mapping[str, jax.Array]
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Return results that have a gradient among them, and their tangents."""
    first, loss, inputs = operation.first, operation.loss, operation.inputs(primals)
    hess = loss.signature(**inputs).hess
    is_whole = hess == "zero" or (hess == "diagonal" and is_elementwise(loss))
    if not is_whole or {*operation.results, *perturbed} - {"value"} != {first}:
        text = (
            f"expected derivatives that {loss._spec['name']} has: first ones, and of elementwise "
            f"losses second ones by {first} alone, got a further derivative of "
            f"{operation.results} by {tuple(perturbed)}"
        )
        raise NotImplementedError(text)
    more = () if hess == "zero" else ("hess",)
    found = _compute(replace(operation, results=operation.results + more), *primals)
    tangents = {name: jnp.zeros_like(x) for name, x in zip(operation.results, found, strict=False)}
    if more:
        tangents[first] = found[-1] * perturbed[first]
    if "value" in tangents:
        value = replace(operation, operands=tuple(inputs), results=("value",))
        tangents["value"] = _value_jvp(value, inputs, perturbed)[1]
    return tuple(map(_as_its_tangent, found, tangents.values())), tuple(tangents.values())


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _coupled(operation: _Operation, *arrays: jax.Array) -> jax.Array:
    """Compute a value of several elements whose gradients are not those of their sum."""
    return _compute(operation, *arrays)[0]


def _coupled_fwd(operation: _Operation, *primals: Any) -> tuple[jax.Array, Any]:
    arrays = tuple(primal.value for primal in primals)
    named = zip(operation.operands, primals, strict=True)
    perturbed = [name for name, primal in named if primal.perturbed]
    operation.check_differentiable(perturbed)
    # Names are kept as keys, for values have to be arrays.
    return _coupled(operation, *arrays), (arrays, dict.fromkeys(perturbed))


def _coupled_bwd(operation: _Operation, saved: Any, cotangent: Any) -> tuple[Any, ...]:
    arrays, perturbed = saved
    operands = (*operation.operands, "grad_output")
    backward = replace(operation, operands=operands, results=tuple(perturbed))
    grads = dict(zip(perturbed, _compute(backward, *arrays, cotangent), strict=True))
    inputs = operation.inputs(arrays)
    return tuple(
        grads[name].astype(array.dtype) if name in grads else None for name, array in inputs.items()
    )


_coupled.defvjp(_coupled_fwd, _coupled_bwd, symbolic_zeros=True)


def _alike(arrays: list[jax.Array]) -> list[jax.Array]:
    """Return operands that are on the devices of a mesh in the same way.

    Under `shard_map` each varies over the axes of the mesh that any of them varies over. With
    explicit sharding each is whole on every device. Both happen outside of our rules for
    derivatives, so that JAX sums and distributes the gradients.
    """
    axes = frozenset[Any]().union(*map(_varying, arrays))
    arrays = [_vary(array, axes - _varying(array)) for array in arrays]
    shardings = [getattr(_typeof(array), "sharding", None) for array in arrays]
    split = next((s for s in shardings if s is not None and any(s.spec)), None)
    if split is None or _reshard is None:
        return arrays
    whole = jax.sharding.NamedSharding(split.mesh, jax.sharding.PartitionSpec())
    return [_reshard(array, whole) for array in arrays]


def _varying(array: jax.Array) -> frozenset[Any]:
    """Return the axes of a mesh that an array varies over, of which older versions know none."""
    aval = _typeof(array)
    kind = getattr(aval, "manual_axis_type", None)
    found: frozenset[Any] = kind.varying if kind else getattr(aval, "vma", frozenset())
    return found


def _vary(array: jax.Array, axes: Collection[Any]) -> jax.Array:
    """Return an array that varies over further axes of a mesh."""
    for axis in sorted(axes, key=str):
        array = _cast(array, axis)
    return array


# Compiled, as an operation by itself takes JAX fifty times as long as the loss takes.
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _run(operation: _Operation, *given: jax.Array) -> tuple[jax.Array, ...]:
    operation.check_shapes(given)
    arrays = _alike(operation.floating(given))
    if operation.results == ("value",) and operation.is_coupled(operation.inputs(arrays)):
        return (_coupled(operation, *arrays),)
    return _compute(operation, *arrays)  # type: ignore[no-any-return]

"""Losses on arrays of Apache MXNet 1.9, under its autograd.

A loss called with arrays of ``mx.nd`` or ``mx.np`` gives one of the same kind. Between
``autograd.record()`` and ``backward()`` it is part of the graph, so a Gluon network trains through
it. Arrays are read and returned without a copy: what a recorded call was given must not be written
to before `backward()`.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
from mxnet import autograd, gluon, nd
from mxnet import numpy as mnp
from mxnet.base import _LIB, MXNetError, check_call
from mxnet.util import is_np_shape
from numpy.typing import NDArray

from rustloss._adapter import DISCRETE, foreign, refuse_outputs
from rustloss.errors import DTypeError, ParameterError

if TYPE_CHECKING:
    from rustloss import Loss

__all__ = ["LossBlock", "call"]


class LossBlock(gluon.loss.Loss):  # type: ignore[misc]  # MXNet has no types
    """A loss as a block of Gluon, for code that asks for a ``gluon.loss.Loss``, as Estimator does.

    Everywhere else the loss itself will do. There is nothing to compile: `hybridize` does nothing.

    Parameters
    ----------
    loss : rustloss.Loss
        The loss.
    **kwargs
        ``prefix`` and ``params`` of a block.

    Examples
    --------
    >>> import mxnet as mx
    >>> import rustloss as rl
    >>> from rustloss.mxnet import LossBlock
    >>> LossBlock(rl.L2Loss())(mx.nd.array([1, 3]), mx.nd.array([1, 1])).asnumpy()
    array([0., 2.], dtype=float32)
    """

    def __init__(self, loss: Loss, **kwargs: Any) -> None:
        super().__init__(None, 0, **kwargs)
        self.loss = loss

    def forward(self, *inputs: Any) -> Any:
        """Return the loss of arrays in its own order."""
        return self.loss(*inputs)

    def hybridize(self, active: bool = True, **kwargs: Any) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.loss!r})"


def call(loss: Loss, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a method of a loss with arrays of MXNet.

    Parameters
    ----------
    loss : rustloss.Loss
        The loss.
    method : str
        ``"__call__"``, which autograd records if it records, ``"value_and_grad"``, ``"grad"`` or
        ``"grad_hess"``, which are not differentiated any further.
    args, kwargs
        What the method takes; NumPy's arrays and numbers are taken too.

    Returns
    -------
    mxnet.nd.NDArray or mxnet.np.ndarray, or a tuple of them
        Of the kind and the context of the first argument that is either. One number has the shape
        (1,), as in Gluon, unless NumPy's shapes are on (``mx.npx.set_np()``).

    Raises
    ------
    rustloss.errors.DTypeError
        For a symbol, a parameter, a sparse array, or an array of another device.
    rustloss.errors.ParameterError
        If autograd wants the gradient by an input that has none, such as a weight.
    """
    given, options, *_ = loss._bind(method, args, kwargs)
    refuse_outputs(options)
    arrays = foreign({**given, **options})
    numbers = {k: view(k, x) for k, x in arrays.items()}
    numeric = {**given, **options, **numbers}
    if method == "__call__" and autograd.is_recording():
        result = _recorded(loss, {k: x for k, x in arrays.items() if k in given}, numeric)
    else:
        result = getattr(loss, method)(**numeric)
    return _finished(result, next(iter(arrays.values())))


def view(name: str, array: Any) -> NDArray[Any]:
    """Return the memory of an array as NumPy's, when everything that writes to it has finished."""
    if not isinstance(array, nd.NDArray):
        remedy = "call the loss on what the network returns, outside of hybrid_forward"
        kind = type(array).__name__
        raise DTypeError(f"{name}: expected an array, got a {kind} without numbers; {remedy}", name)
    if array.stype != "default":
        remedy = f"pass {name}.tostype('default')"
        raise DTypeError(f"{name}: expected a dense array, got stype {array.stype}; {remedy}", name)
    if not array.ctx.device_type.startswith("cpu"):
        remedy = f"pass {name}.as_in_context(mx.cpu())"
        raise DTypeError(f"{name}: expected memory of the CPU, got {array.ctx}; {remedy}", name)
    if array.size == 0:  # and so without memory
        return np.empty(array.shape, array.dtype)
    return np.asarray(_Memory(array))


class _Memory:
    """The memory of an array of MXNet in the form that NumPy asks for, which keeps it alive."""

    def __init__(self, array: Any) -> None:
        array.wait_to_read()
        address = ctypes.c_void_p()
        check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(address)))
        dtype = np.dtype(array.dtype)
        self.owner = array
        self.__array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "typestr": dtype.str,
            "descr": dtype.descr,
            "data": (address.value, True),
        }


def _recorded(loss: Loss, arrays: dict[str, Any], numeric: dict[str, Any]) -> Any:
    """Return the value as a node of the graph, if it depends on what the graph has."""
    wanted = []
    for row in loss._inputs:
        name = row["name"]
        if name not in arrays or row["domain"] in DISCRETE or not _in_graph(arrays[name]):
            continue
        if row["gradient"] == "Never":
            remedy = f"pass {name}.detach()"
            raise ParameterError(f"{name}: there is no gradient by it; {remedy}", name)
        wanted.append(name)
    if not wanted:
        return loss(**numeric)
    # A Function stops at the first input whose gradient nobody asked for, and does not add to a
    # gradient that is there. So it gets a single input, which operators of MXNet's own make.
    flat = [arrays[name].as_nd_ndarray().reshape(-1) for name in wanted]
    joined = flat[0]
    if len(flat) > 1:
        joined = nd.concat(*(x.astype(flat[0].dtype) for x in flat), dim=0)
    return _Function(loss, numeric, tuple(wanted))(joined)


def _in_graph(array: Any) -> bool:
    """Return whether a gradient can flow to an array."""
    try:
        autograd.get_symbol(array)
    except MXNetError:
        return False
    return True


class _Function(autograd.Function):  # type: ignore[misc]  # MXNet has no types
    """The value of one call, and its gradient by the inputs of these names, flat and joined."""

    def __init__(self, loss: Loss, numeric: dict[str, Any], wrt: tuple[str, ...]) -> None:
        super().__init__()
        self.loss = loss
        self.numeric = numeric
        self.wrt = wrt
        self.shape: tuple[int, ...] = ()

    def forward(self, joined: Any) -> Any:  # noqa: ARG002  # stands for what `numeric` has
        """Return the value."""
        value = self.loss(**self.numeric)
        self.shape = value.shape
        return _from_numpy(value)

    def backward(self, grad_output: Any) -> Any:
        """Return the gradient."""
        arriving = view("grad_output", grad_output).reshape(self.shape)
        grads = self.loss.grad(**self.numeric, wrt=self.wrt, grad_output=arriving)
        return _from_numpy(np.concatenate([grad.ravel() for grad in grads]))


def _from_numpy(result: Any) -> Any:
    array = np.asarray(result, order="C")
    if array.ndim == 0 and not is_np_shape():
        array = array.reshape(1)
    return nd.from_numpy(array, zero_copy=True)


def _finished(result: Any, like: Any) -> Any:
    """Return results as arrays of the kind and the context of an array of MXNet."""
    if isinstance(result, tuple):
        return tuple(_finished(part, like) for part in result)
    array = result if isinstance(result, nd.NDArray) else _from_numpy(result)
    array = array.as_in_context(like.ctx)  # the same array but for contexts as mx.cpu(1)
    return array.as_np_ndarray() if isinstance(like, mnp.ndarray) else array

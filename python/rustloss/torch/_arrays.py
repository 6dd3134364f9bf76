"""Tensors as NumPy arrays and back, over the same memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad

from rustloss._interop import as_array
from rustloss.errors import DTypeError


def to_numpy(name: str, tensor: Tensor) -> NDArray[Any]:
    """Return a tensor's memory as an array.

    Parameters
    ----------
    name : str
        The argument's name, for errors.
    tensor : Tensor
        A dense tensor in the CPU's memory, of any strides. One whose negative bit is set is copied.

    Raises
    ------
    DTypeError
        If it is on another device, sparse, nested, quantised, complex or of an unknown type.
    """
    if not tensor.is_cpu:
        raise _unreadable(name, tensor)
    try:
        array: NDArray[Any] = tensor.numpy(force=tensor.requires_grad)
    except (RuntimeError, TypeError) as error:
        if tensor.is_neg():
            return to_numpy(name, tensor.resolve_neg())
        if tensor.dtype == torch.bfloat16 and tensor.layout == torch.strided:
            return _bfloat16(name, tensor)
        raise _unreadable(name, tensor) from error
    return array


def to_tensor(result: Any) -> Any:
    """Return a result of a loss as a tensor, tuples as tuples of tensors."""
    if isinstance(result, tuple):
        return tuple(map(to_tensor, result))
    array = np.asarray(result)
    try:
        return torch.from_numpy(array)
    except TypeError:  # bfloat16, which NumPy does not know
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)


def as_tensor(name: str, value: Any) -> Tensor:
    """Return an argument of a call as a tensor; numbers are in double precision, as NumPy's are.

    Raises
    ------
    DTypeError
        If it is on another device, nested, or a list of rows of different lengths.
    """
    if not isinstance(value, Tensor):
        try:
            if not torch.compiler.is_compiling():
                value = as_array(name, value)
            return torch.as_tensor(np.array(value))
        except (TypeError, ValueError) as error:
            text = f"{name}: expected a tensor where torch traces, transforms or differentiates"
            raise DTypeError(f"{text} twice, got {type(value).__name__}", name) from error
    if value.device.type != "cpu" or value.is_nested:
        raise _unreadable(name, value)
    return value


def _bfloat16(name: str, tensor: Tensor) -> NDArray[Any]:
    try:
        import ml_dtypes
    except ImportError as error:
        text = f"{name}: bfloat16 needs the package ml_dtypes; install it, or pass {name}.float()"
        raise DTypeError(text, name) from error
    return to_numpy(name, tensor.view(torch.int16)).view(ml_dtypes.bfloat16)


def moves(tensor: Tensor) -> bool:
    """Return whether a derivative by a tensor is asked for, backward or forward."""
    if tensor.requires_grad:
        return bool(torch.is_grad_enabled())
    if torch.compiler.is_compiling():
        return False
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None:
        return True
    if not torch._C._functorch.is_gradtrackingtensor(tensor):
        return False
    below: Tensor = torch._C._functorch.get_unwrapped(tensor)
    return moves(below)


def is_batched(tensor: Tensor) -> bool:
    """Return whether a tensor is a slice in ``torch.vmap``, or in what autograd has of it."""
    functorch = torch._C._functorch
    return bool(functorch.is_batchedtensor(tensor) or functorch.is_legacy_batchedtensor(tensor))


def _unreadable(name: str, tensor: Tensor) -> DTypeError:
    if tensor.is_nested:
        what, remedy = "a nested one", f"pass each of {name}.unbind() by itself"
    elif tensor.is_meta:
        what, remedy = "one on meta", "pass one that has data"
    elif tensor.device.type != "cpu":
        what, remedy = f"one on {tensor.device}", f"pass {name}.cpu()"
    elif tensor.is_quantized:
        what, remedy = f"a quantised one, {tensor.dtype}", f"pass {name}.dequantize()"
    elif tensor.layout != torch.strided:
        what, remedy = f"one of layout {tensor.layout}", f"pass {name}.to_dense()"
    elif tensor.is_complex():
        what, remedy = f"one of {tensor.dtype}", f"pass real numbers, as {name}.real"
    elif tensor.is_floating_point() and tensor.dtype.itemsize == 1:
        what, remedy = f"one of {tensor.dtype}", f"pass {name}.float()"
    else:
        what = f"a {type(tensor).__name__} whose numbers cannot be read"
        remedy = "where torch traces, call a LossModule"
    return DTypeError(f"{name}: expected a dense tensor on the CPU, got {what}; {remedy}", name)

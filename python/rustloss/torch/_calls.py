"""Calls of losses on tensors: which way each of them goes."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from rustloss._frameworks import framework
from rustloss._loss import Loss
from rustloss.errors import CallError, DTypeError, OutputError
from rustloss.torch._arrays import as_tensor, moves, to_numpy, to_tensor
from rustloss.torch._autograd import Eager, traced
from rustloss.torch._op import Call, Traits, traits

#: Classes whose tensors are nothing but memory; other ones have their own ways to be called.
_PLAIN = frozenset({Tensor, torch.nn.Parameter})

#: What a call takes beside the inputs of the loss.
_OPTIONS = ("out", "denominator")

#: What methods write to.
_OUTPUTS = ("out", "grad_out", "hess_out")


def call(loss: Loss, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a method of a loss with tensors.

    Parameters
    ----------
    loss : Loss
        The loss.
    method : {"__call__", "value_and_grad", "grad", "grad_hess"}
        Its method; all but the first give tensors without a graph.
    args, kwargs
        What the method takes, tensors among it.

    Returns
    -------
    Tensor or tuple of Tensor

    Raises
    ------
    rustloss.errors.DTypeError
        If a tensor is not dense, not on the CPU, or not of real numbers.
    rustloss.errors.ParameterError
        If a tensor needs a gradient that the loss does not have.
    """
    if method == "__call__":
        return value(traits(loss), args, kwargs)
    _refuse_foreign({**dict(zip(traits(loss).names, args, strict=False)), **kwargs})
    return _detached(loss, method, args, kwargs)


def apply(loss: Loss, *args: Any, **kwargs: Any) -> Tensor:
    """Return the value of a loss, as ``loss(*args, **kwargs)`` does if one of them is a tensor.

    Parameters
    ----------
    loss : Loss
        The loss.
    *args, **kwargs
        What a call of it takes: tensors, arrays, numbers.

    Returns
    -------
    Tensor

    Examples
    --------
    >>> import torch
    >>> import rustloss as rl
    >>> from rustloss.torch import apply
    >>> pred = torch.tensor([1.0, 3.0], requires_grad=True)
    >>> apply(rl.L2Loss(reduction="sum"), pred, torch.zeros(2)).backward()
    >>> pred.grad
    tensor([1., 3.])
    """
    return value(traits(loss), args, kwargs)


def value(traits: Traits, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the value of a loss with what autograd needs behind it.

    Parameters
    ----------
    traits : Traits
        The loss.
    args, kwargs
        What a call of it takes.

    Returns
    -------
    Tensor
    """
    is_traced = _is_traced()
    recorded = torch.is_grad_enabled()
    by_position = not is_traced and not kwargs and len(args) <= len(traits.positional)
    if by_position and _PLAIN.issuperset(map(type, args)):
        # Tensors alone: the usual call, which is to take no longer than it must.
        names = traits.positional[: len(args)]
        call = _wanted(traits, names, tuple([recorded and x.requires_grad for x in args]))
        if call.wrt:
            plain: Tensor = Eager.apply(call, names, {}, *args)
            return plain
        return _without_graph(traits, args, {})
    given = _present(traits, args, kwargs)
    tensors = {name: x for name, x in given.items() if isinstance(x, Tensor)}
    others = {name: x for name, x in given.items() if name not in tensors}
    if not torch.compiler.is_compiling():
        _refuse_foreign(others)
    names = (*tensors,)
    needed = tuple([recorded and x.requires_grad for x in tensors.values()])
    if is_traced or not _PLAIN.issuperset(map(type, tensors.values())):
        Call(traits, names).wanted(needed)
        return _traced(traits, given)
    call = _wanted(traits, names, needed)
    if not call.wrt:
        return _without_graph(traits, (), given)
    _refuse_out(given)
    found: Tensor = Eager.apply(call, (*given,), others, *tensors.values())
    return found


def _without_graph(traits: Traits, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    result: Tensor = _detached(traits.loss, "__call__", args, kwargs)
    return result


def _present(traits: Traits, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return what is given of a call, in the order of its inputs and options."""
    names, positional = traits.names, traits.positional
    if kwargs or len(args) > len(positional):
        known = (*positional[len(args) :], *names[len(positional) :], *_OPTIONS)
        if len(args) > len(positional) or any(name not in known for name in kwargs):
            text = f"expected {', '.join(names)} once each, and {', '.join(_OPTIONS)} by name"
            got = f"{len(args)} by position and {', '.join(kwargs) or 'none'}"
            raise CallError(f"{text}, got {got}")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return {name: given[name] for name in (*names, *_OPTIONS) if given.get(name) is not None}


@functools.lru_cache(maxsize=1024)
def _wanted(traits: Traits, names: tuple[str, ...], needed: tuple[bool, ...]) -> Call:
    return Call(traits, names).wanted(needed)


def _refuse_out(given: dict[str, Any]) -> None:
    if "out" in given:
        raise CallError("out: expected none beside tensors that need a gradient", "out")


def _refuse_foreign(given: dict[str, Any]) -> None:
    """Raise if an argument, or the first element of a list, is an array of another framework."""
    for name, x in given.items():
        first = x[0] if isinstance(x, list | tuple) and x else x
        (owner,) = map(framework, map(type, [first]))
        if owner not in {None, "torch"}:
            text = f"{name}: expected tensors, NumPy's arrays or numbers, got an array of {owner}"
            raise DTypeError(f"{text}; pass numpy.asarray({name})", name)


def _is_traced() -> bool:
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    level: int = torch.autograd.forward_ad._current_level
    return level >= 0


def _traced(traits: Traits, given: dict[str, Any]) -> Tensor:
    """Return the value through the operator, all of whose arguments are tensors."""
    _refuse_out(given)
    tensors = {name: as_tensor(name, x) for name, x in given.items()}
    return traced(traits.text, (*tensors,), *tensors.values())


def _detached(loss: Loss, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    inputs, options, *_ = loss._bind(method, args, kwargs)
    given = {**inputs, **options}
    for name in _OUTPUTS:
        if isinstance(given.get(name), Tensor):
            _write(name, given[name])
    arrays = {name: to_numpy(name, x) if isinstance(x, Tensor) else x for name, x in given.items()}
    return to_tensor(getattr(loss, method)(**arrays))


def _write(name: str, output: Tensor) -> None:
    """Tell autograd that a tensor is written to, or raise if it must not be."""
    if output.is_neg():
        text = f"{name}: expected memory to write to, got a tensor that negates another's"
        raise DTypeError(f"{text}; pass one of its own", name)
    if moves(output):
        text = f"{name}: expected memory to write to, got a tensor that needs a gradient"
        raise OutputError(f"{text}; pass {name}.detach()", name)
    torch.autograd.graph.increment_version(output)

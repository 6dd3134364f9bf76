"""Losses on arrays of libraries that follow the Python array API standard.

A loss called with such arrays gives arrays of their library. It has no gradient there but what
`value_and_grad` and the like return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rustloss._adapter import foreign, refuse_outputs
from rustloss._interop import as_array
from rustloss.errors import DTypeError

if TYPE_CHECKING:
    from rustloss import Loss

__all__ = ["call"]


def call(loss: Loss, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a method of a loss with arrays that have an ``__array_namespace__``.

    Parameters
    ----------
    loss : rustloss.Loss
        The loss.
    method : str
        ``"__call__"``, ``"value_and_grad"``, ``"grad"`` or ``"grad_hess"``.
    args, kwargs
        What the method takes; NumPy's arrays and numbers are taken too.

    Returns
    -------
    array, or a tuple of them
        Of the library that the arrays are of.

    Raises
    ------
    rustloss.errors.DTypeError
        If the arrays are of several libraries, or not in the CPU's memory.
    """
    inputs, options, *_ = loss._bind(method, args, kwargs)
    refuse_outputs(options)
    given = {**inputs, **options}
    arrays = foreign(given)
    namespaces = {array.__array_namespace__() for array in arrays.values()}
    if len(namespaces) > 1:
        names = " and ".join(sorted(namespace.__name__ for namespace in namespaces))
        raise DTypeError(f"expected arrays of one library beside NumPy's, got those of {names}")
    numbers = {name: as_array(name, array) for name, array in arrays.items()}
    (namespace,) = namespaces
    return _native(namespace, getattr(loss, method)(**{**given, **numbers}))


def _native(namespace: Any, result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(_native(namespace, part) for part in result)
    return namespace.from_dlpack(np.asarray(result))

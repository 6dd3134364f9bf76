"""Arrays of other frameworks: which framework a call belongs to, and the adapter for it.

An adapter is a module with ``call(loss, method, args, kwargs)``: it converts the arrays of its
framework, calls that method of the loss with NumPy's, and converts the results. Nothing here
imports a framework: an array of one is recognised by where its class comes from.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any

from rustloss._interop import refuse_misaligned
from rustloss.errors import DTypeError

if TYPE_CHECKING:
    from rustloss._loss import Loss

#: The adapters by the packages whose classes they take.
_ADAPTERS = {
    "torch": "torch",
    "jax": "jax",
    "jaxlib": "jax",
    "tensorflow": "tensorflow",
    "mxnet": "mxnet",
    "autograd": "autograd",
}


@functools.lru_cache(maxsize=1024)
def framework(kind: type[Any]) -> str | None:
    """Return the name of the adapter for arrays of a class, None if NumPy's way is theirs."""
    packages = [str(cls.__module__).partition(".")[0] for cls in kind.__mro__]
    imported = (package for package in packages if package in sys.modules)
    name = next((_ADAPTERS[package] for package in imported if package in _ADAPTERS), None)
    if name is None and "numpy" not in packages and hasattr(kind, "__array_namespace__"):
        return "array_api"
    return name


def call(loss: Loss, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what an adapter makes of a call, NotImplemented if no argument asks for one.

    Raises
    ------
    DTypeError
        If the arguments are of several frameworks.
    ShapeError
        If they have indices that differ, or columns in different places.
    """
    found = set(map(framework, map(type, (*args, *kwargs.values()))))
    owners = {owner for owner in found if owner}
    if len(owners) == 1:
        return _adapter(*owners).call(loss, method, args, kwargs)
    # Only here, as to look up the names takes longer than all else.
    names = (row["name"] for row in loss._inputs)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if not owners:
        refuse_misaligned(given)
        return NotImplemented
    of = {framework(type(value)): name for name, value in reversed(given.items())}  # type: ignore[arg-type]
    parts = " and ".join(f"{owner} ({of[owner]})" for owner in sorted(owners))
    text = f"expected arrays of one framework beside NumPy's, got those of {parts}"
    raise DTypeError(text)


@functools.cache
def _adapter(name: str) -> Any:
    return importlib.import_module(f"rustloss.{name}")

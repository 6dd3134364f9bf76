"""Arrays of other frameworks: which framework a call belongs to, and the adapter for it.

An adapter is a module with ``call(loss, method, args, kwargs)``: it converts the arrays of its
framework, calls that method of the loss with NumPy's, and converts the results. Nothing here
imports a framework: an array of one is recognised by where its class comes from.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterable
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
_LISTS = {list, tuple}


@functools.lru_cache(maxsize=1024)
def framework(kind: type[Any]) -> str | None:
    """Return the name of the adapter for arrays of a class, None if NumPy's way is theirs."""
    packages = [str(cls.__module__).partition(".")[0] for cls in kind.__mro__]
    imported = (package for package in packages if package in sys.modules)
    name = next((_ADAPTERS[package] for package in imported if package in _ADAPTERS), None)
    if name == "torch" and "Tensor" not in {cls.__name__ for cls in kind.__mro__}:
        return None  # torch.Size is a tuple, and a torch.dtype no array
    if name is None and "numpy" not in packages and hasattr(kind, "__array_namespace__"):
        return "array_api"
    return name


def call(loss: Loss, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what an adapter makes of a call, NotImplemented if no argument asks for one.

    Raises
    ------
    DTypeError
        If the arguments, or what lists and tuples among them hold, are of several frameworks.
    ShapeError
        If they have indices that differ, or columns in different places.
    """
    values = (*args, *kwargs.values())
    kinds = set(map(type, values))
    owners = _owners(kinds)
    mixed = owners if kinds.isdisjoint(_LISTS) else owners | _owners(_inside(values))
    if len(owners) == len(mixed) == 1:
        return _adapter(*owners).call(loss, method, args, kwargs)
    # Only here, as to look up the names takes longer than all else.
    names = (row["name"] for row in loss._inputs)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if len(mixed) > 1:
        held = {name: _owners({type(value), *_inside([value])}) for name, value in given.items()}
        # Of more arguments than there are inputs, the last ones have no name.
        first = {k: next((name for name in held if k in held[name]), "?") for k in mixed}
        parts = " and ".join(f"{owner} ({first[owner]})" for owner in sorted(mixed))
        raise DTypeError(f"expected arrays of one framework beside NumPy's, got those of {parts}")
    # Arrays of a framework that lie in lists alone are read as numbers.
    refuse_misaligned(given)
    return NotImplemented


def _owners(kinds: Iterable[Any]) -> set[str]:
    """Return the adapters for arrays of some classes."""
    return {owner for owner in map(framework, kinds) if owner}


def _inside(values: Iterable[Any]) -> set[type[Any]]:
    """Return the classes of what lies in those of the values that are lists, at any depth."""
    kinds: set[type[Any]] = set()
    seen = {id(value): value for value in values if type(value) in _LISTS}
    waiting = list(seen.values())
    while waiting:
        row = waiting.pop()
        found = set(map(type, row))
        kinds |= found
        if not found.isdisjoint(_LISTS):
            # A list may hold itself.
            new = {id(x): x for x in row if type(x) in _LISTS and id(x) not in seen}
            seen |= new
            waiting += new.values()
    return kinds


@functools.cache
def _adapter(name: str) -> Any:
    return importlib.import_module(f"rustloss.{name}")

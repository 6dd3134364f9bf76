"""What the adapters of frameworks share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rustloss.errors import CallError, OutputError

if TYPE_CHECKING:
    from rustloss import Loss

#: The domains of indices and lengths: numbers without a slope.
DISCRETE = frozenset({"Classes", "Tokens", "Lengths", "Offsets"})


def bind(
    loss: Loss, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs of a call by their names, and the other arguments.

    Raises
    ------
    CallError
        If there are too many arguments, or one is given twice.
    """
    names = [row["name"] for row in loss._inputs]
    if len(args) > len(names):
        raise CallError(f"expected at most {len(names)} arguments, got {len(args)}")
    inputs = dict(zip(names, args, strict=False))
    for name in kwargs:
        if name in inputs:
            raise CallError(f"{name}: given by position and by name", name)
    inputs |= {name: value for name, value in kwargs.items() if name in names}
    return inputs, {name: value for name, value in kwargs.items() if name not in names}


def refuse_outputs(options: dict[str, Any]) -> None:
    """Raise `OutputError` if a call names memory for its results."""
    for name in ("out", "grad_out", "hess_out"):
        if options.get(name) is not None:
            text = f"{name}: results of this call are new arrays of its framework; leave it out"
            raise OutputError(text, name)

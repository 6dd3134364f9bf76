"""What can be wrong with a call.

Every class is a `ValueError` or a `TypeError` and can be pickled. The text names the argument, what
was expected and what came; for a label, a length or a weight also the index and the value.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "CallError",
    "DTypeError",
    "InternalError",
    "LabelError",
    "LengthError",
    "OutputError",
    "ParameterError",
    "ShapeError",
    "WeightError",
]


class ArgumentError(Exception):
    """A mistake in one argument; the base of all classes here but `InternalError`.

    Attributes
    ----------
    argument : str or None
        The argument's name; None where there is none to blame.
    index : tuple of int or None
        Where the value stands in the argument.
    value : int, float or None
        The value found there, exactly.
    """

    def __init__(
        self,
        message: str,
        argument: str | None = None,
        index: tuple[int, ...] | None = None,
        value: float | None = None,
    ) -> None:
        super().__init__(message)
        self.argument = argument
        self.index = index
        self.value = value

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (str(self), self.argument, self.index, self.value)


class CallError(ArgumentError, TypeError):
    """An argument that is missing, unknown or given twice, or more arguments than there are."""


class ShapeError(ArgumentError, ValueError):
    """A shape or a number of dimensions."""


class DTypeError(ArgumentError, TypeError):
    """An element type, or something that is not an array of numbers."""


class LabelError(ArgumentError, ValueError):
    """A class label or a token."""


class LengthError(ArgumentError, ValueError):
    """A sequence length."""


class WeightError(ArgumentError, ValueError):
    """A weight that is negative or not finite."""


class ParameterError(ArgumentError, ValueError):
    """A constructor parameter or an option of a call.

    Attributes
    ----------
    needs : tuple of str and bool, or None
        Where `argument` has no meaning without another parameter: that one, and the value that it
        must have.
    """

    def __init__(
        self,
        message: str,
        argument: str | None = None,
        index: tuple[int, ...] | None = None,
        value: float | None = None,
        needs: tuple[str, bool] | None = None,
    ) -> None:
        super().__init__(message, argument, index, value)
        self.needs = needs

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        cls, arguments = super().__reduce__()
        return cls, (*arguments, self.needs)


class OutputError(ArgumentError, ValueError):
    """An output buffer: read-only, of another shape or type, or overlapping."""


class InternalError(RuntimeError):
    """A bug in rustloss itself. Please report it."""

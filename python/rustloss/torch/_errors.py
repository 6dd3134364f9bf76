"""Errors of rustloss that are of torch's classes, too: what catches the one catches the other."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rustloss.errors import (
    ArgumentError,
    DTypeError,
    LabelError,
    LengthError,
    ParameterError,
    ShapeError,
)


class TorchDTypeError(DTypeError, RuntimeError):
    """An element type, a `RuntimeError` in torch."""


class TorchLabelError(LabelError, IndexError, RuntimeError):
    """A label, an `IndexError` in torch if it is a class and a `RuntimeError` if it is not."""


class TorchLengthError(LengthError, RuntimeError):
    """A sequence length, a `RuntimeError` in torch."""


class TorchParameterError(ParameterError, RuntimeError):
    """A parameter, a `RuntimeError` in torch for some."""


class TorchShapeError(ShapeError, RuntimeError):
    """A shape, a `RuntimeError` in torch for most."""


def as_torch(error: ArgumentError, words: Mapping[str, str]) -> ArgumentError:
    """Return the error with torch's class beside its own, if there is one, and in torch's words.

    Parameters
    ----------
    error : ArgumentError
        The error of a loss.
    words : mapping of str to str
        What torch calls the arguments of the loss.
    """
    both = {
        DTypeError: TorchDTypeError,
        LabelError: TorchLabelError,
        LengthError: TorchLengthError,
        ParameterError: TorchParameterError,
        ShapeError: TorchShapeError,
    }
    kind = both.get(type(error), type(error))
    text = re.sub(rf"\b({'|'.join(words)})\b", lambda found: words[found[0]], str(error))
    argument = words.get(error.argument or "", error.argument)
    return kind(text, argument, error.index, error.value)

"""How a loss states its parameters: as a dataclass states its fields.

A parameter is a class variable with its type and default; those below ``_: KW_ONLY`` are given by
name alone. The constructor is made of these lines, here and by type checkers.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import KW_ONLY
from inspect import Parameter
from typing import Any, TypeVar, dataclass_transform

from rustloss.errors import CallError

C = TypeVar("C", bound=type)


@dataclass_transform(eq_default=False, frozen_default=True)
def loss_class(cls: C) -> C:
    """Make the class of the registry's loss of this name: what it states are its parameters.

    As an attribute each name is the instances' own.
    """
    parameters: dict[str, Parameter] = {}
    kind: Any = Parameter.POSITIONAL_OR_KEYWORD
    for name, annotation in inspect.get_annotations(cls, eval_str=True).items():
        if annotation is KW_ONLY:
            kind = Parameter.KEYWORD_ONLY
        else:
            default = vars(cls)[name]
            parameters[name] = Parameter(name, kind, default=default, annotation=annotation)
            delattr(cls, name)
    made: Any = cls
    made._registered, made._stated = cls.__name__, parameters
    return cls


def arguments_by_name(
    cls: type, parameters: Mapping[str, Parameter], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return what a constructor is given by name, with the defaults of what it is not given."""
    names = [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY]
    if len(args) > len(names):
        text = f"expected at most {len(names)} arguments by position, {tuple(names)}"
        raise CallError(f"{cls.__name__}: {text}, got {len(args)}")
    given = dict(zip(names, args, strict=False))
    for name in given:
        if name in kwargs:
            text = f"{name}: expected one value, got one by position and one by name"
            raise CallError(text, name)
    return {**{name: p.default for name, p in parameters.items()}, **given, **kwargs}

"""The classes that losses derive from, one for each list of inputs; `_calls.pyi` types their calls.

When a program runs all of them are `Loss`, as the core binds the arguments of every call, and the
options of a constructor are any.
"""

from __future__ import annotations

from typing import TypeVar

from rustloss._loss import Loss

R = TypeVar("R")

Options = dict

Plain = Logit = Count = Moments = Couple = Triple = Batches = Sequences = Loss

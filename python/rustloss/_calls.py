"""The classes that losses derive from, one for each list of inputs; `_calls.pyi` types their calls.

When a program runs all of them are `Loss`, as the core binds the arguments of every call.
"""

from __future__ import annotations

from typing import TypeVar

from rustloss._loss import Loss

R = TypeVar("R")

Plain = Logit = Count = Moments = Couple = Triple = Batches = Sequences = Loss

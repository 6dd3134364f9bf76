"""Help for tests of losses, and of code that uses them.

`arguments` draws valid calls of every loss for hypothesis (the extra ``testing``); `example` and
`relayout` make input without it; `bad_calls` lists calls that must fail; `check_gradient` and
`ulp_distance` measure.
"""

from rustloss.testing._bad_calls import BadCall, bad_calls
from rustloss.testing._gradient import check_gradient
from rustloss.testing._inputs import LAYOUTS, example, relayout
from rustloss.testing._oracle import Oracle, oracle
from rustloss.testing._strategies import Arguments, arguments
from rustloss.testing._ulp import ulp_distance

__all__ = [
    "LAYOUTS",
    "Arguments",
    "BadCall",
    "Oracle",
    "arguments",
    "bad_calls",
    "check_gradient",
    "example",
    "oracle",
    "relayout",
    "ulp_distance",
]

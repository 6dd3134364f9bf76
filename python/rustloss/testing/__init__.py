"""Help for tests of losses, one's own or those here, and of code that uses them.

`assert_parity` compares a function with a loss on calls that it draws, `check_gradient` a gradient
with differences, `assert_ulp` numbers digit by digit; `oracle` gives a loss in plain NumPy.
`arguments` draws valid calls of every loss for hypothesis (the extra ``testing``), `example` and
`relayout` make input without it, and `bad_calls` lists calls that must fail.
"""

from rustloss.testing._bad_calls import BadCall, bad_calls
from rustloss.testing._gradient import check_gradient
from rustloss.testing._inputs import LAYOUTS, example, relayout
from rustloss.testing._oracle import Oracle, oracle
from rustloss.testing._parity import assert_parity
from rustloss.testing._strategies import Arguments, arguments
from rustloss.testing._ulp import assert_ulp, ulp_distance

__all__ = [
    "LAYOUTS",
    "Arguments",
    "BadCall",
    "Oracle",
    "arguments",
    "assert_parity",
    "assert_ulp",
    "bad_calls",
    "check_gradient",
    "example",
    "oracle",
    "relayout",
    "ulp_distance",
]

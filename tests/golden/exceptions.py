"""Where our number is not MXNet's: the closed table of `test_golden.py`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

INF, NAN = math.inf, math.nan


class Difference(NamedTuple):
    """One case in which our number is not upstream's.

    Numbers stand by the field's flat index: `upstream` as 1.9.1 recorded them, `ours` in 2.0's
    convention. `raises` names our error instead. `option` gives upstream's number.
    """

    why: str
    upstream: dict[str, dict[int, float]]
    ours: dict[str, dict[int, float]]
    raises: str | None = None
    option: dict[str, Any] | None = None


def at_logit_zero(upstream: dict[int, float], ours: dict[int, float]) -> Difference:
    why = "the gradient at logit 0 is sigmoid(0) - z: both of upstream's branches have slope 0"
    return Difference(why, {"pred": upstream}, {"pred": ours})


EXCEPTIONS = {
    "logistic_signed": at_logit_zero({2: -1.0}, {2: -0.5}),
    "logistic_binary": at_logit_zero({2: -1.0}, {2: -0.5}),
    "bce_zero_logit": at_logit_zero({0: 0.0, 1: -1.0, 2: -0.5}, {0: 0.5, 1: -0.5, 2: 0.0}),
    "bce_pos_weight_zero_logit": at_logit_zero({0: 1.0, 1: 0.0}, {0: 0.5, 1: -1.0}),
    "bce_from_sigmoid": Difference(
        "no epsilon inside the logarithms: a sure and wrong model costs infinity",
        {
            "output": {3: 27.631021115928547, 4: 27.631021115928547},
            "pred": {3: -1e12, 4: 1e12},
        },
        {"output": {3: INF, 4: INF}, "pred": {3: -INF, 4: INF}},
        option={"epsilon": 1e-12},
    ),
    "ce_out_of_range": Difference(
        "labels -1, 99 and 1.9 are errors, not classes 0, 1 and 1",
        {"output": {0: 9.000123402189724, 1: 6.00247568513773, 2: 0.00012340218972333965}},
        {},
        raises="LabelError",
        option={"out_of_range": "clip"},
    ),
    "ce_sw_wrong_1d": Difference(
        "(N,) weights are one per sample; upstream multiplies every sample by their mean",
        {
            "output": {0: 13.500185103284586, 1: 9.003713527706594},
            "pred": {
                0: -1.4998149081360206,
                1: 1.4998149081360206,
                2: 1.496291065265048,
                3: -1.4962910652650478,
            },
        },
        {
            "output": {0: 9.000123402189724, 1: 12.00495137027546},
            "pred": {
                0: -0.9998766054240138,
                1: 0.9998766054240138,
                2: 1.9950547536867306,
                3: -1.9950547536867304,
            },
        },
    ),
    "kl_zero_target": Difference(
        "the derivative of y log y at y = 0 is -inf",
        {"label": {0: -26.021583203494448, 2: -26.021583203494448}},
        {"label": {0: -INF, 2: -INF}},
        option={"epsilon": 1e-12},
    ),
    "ctc_lengths_only_label": Difference(
        "a label equal to the blank is an error",
        {"output": {0: 18.828204908943594, 1: 16.505817188653367}},
        {},
        raises="LabelError",
    ),
    "ctc_infeasible": Difference(
        "a label that does not fit has probability 0, so loss infinity and gradient 0",
        {"output": {1: 0.0}},
        {"output": {1: INF}},
        option={"infeasible": "zero"},
    ),
    "cos_label_other": Difference(
        "labels are +1 or -1",
        {"output": {0: 0.0, 1: 0.0, 2: 0.0}},
        {},
        raises="LabelError",
    ),
    "cos_zero_vector": Difference(
        "a zero vector has cosine 0 and gradient 0",
        {"input1": {0: NAN, 1: NAN, 2: NAN, 3: NAN}},
        {"input1": {0: 0.0, 1: 0.0, 2: 0.0, 3: 0.0}},
    ),
    "poisson_full_target0": Difference(
        "log(0!) is 0, and log(3!) is exact",
        {"output": {0: NAN}},
        {"output": {0: (1 + math.e - 3 + math.log(6)) / 2}},
    ),
    "sdml_weight_ignored": Difference(
        "weight=10 multiplies the loss by 10",
        {"output": {0: 0.05462499852327271, 1: 0.13261411084940986, 2: 0.02212042176474785}},
        {"output": {0: 0.18208332841090903, 1: 0.4420470361646995, 2: 0.07373473921582617}},
    ),
    "sdml_n1": Difference(
        "one sample has no other to be told from", {"output": {0: NAN}}, {}, raises="ValueError"
    ),
}

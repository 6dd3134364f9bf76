"""The calls whose bits `bits.py` records: which options a loss has, and which of them meet."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Values = tuple[Any, ...]
Options = Mapping[str, Any]

#: How often every pair of values of two options is met at least.
REPEATS = 3
#: The options whose values are met in all combinations.
PRODUCT = ("shape", "dtype", "order")
#: How many calls are large.
LARGE = 8

#: For each dtype its largest number and its smallest subnormal.
LIMITS = {
    "float32": ((2 - 2.0**-23) * 2.0**127, 2.0**-149),
    "float64": ((2 - 2.0**-52) * 2.0**1023, 2.0**-1074),
    "float16": (65504.0, 2.0**-24),
    "bfloat16": ((2 - 2.0**-7) * 2.0**127, 2.0**-133),
}

#: Shapes, with the class axis after the first colon and the batch axis after the second.
ELEMENTS = (
    *("8x10", "37x129", "3x7x5", "2x3x4x5", "10x8::1", "3x7x5::-1", "64", "1500", "1", "0d") * 2,
    *("0x5", "5x0", "90x700", "700x90::1"),
)
ROWS = (
    *("8x10", "37x129", "9x1", "33x5", "20x33", "12x300", "6x1500", "10", "3x7x5:1") * 2,
    *("10x8:0:1", "4x5x6:1:2", "1x1", "0x5", "5x0", "2048x10", "400x300", "9x40x50:1"),
)
REDUCTIONS = (
    *("sample", "none", "sample_sum", "sum", "mean", "batch_mean", "weighted_mean"),
    *("sample_weighted_mean", "mean/3.5", "weighted_mean/3.5"),
)
DOMAIN = ("raise", "allow")
ORDERS = ("C", "F", "reversed", "strided")

#: What every loss has.
COMMON: dict[str, Values] = {
    "reduction": REDUCTIONS,
    "weight": ("default", *(0.7, -3.0, None) * 2, 0.0),
    "empty": ("nan", "zero"),
    "dtype": tuple(LIMITS),
    "order": ORDERS,
    "numbers": (*("plain", "plain", "grid", "wide") * 2, "special", "huge"),
    "sample_weight": (*("none", "half", "sample", "element", "column") * 2, "zeros", "huge"),
    "grad_output": ("none", "none", "half", "array", "special"),
    "out": ("fresh", "fresh", "F", "strided", "inplace"),
}
#: What losses of a label have besides.
LABELLED: dict[str, Values] = {
    "label_order": (*ORDERS, "broadcast"),
    "label_dtype": ("same", "same", "float64", "float16", "int64"),
    "wrt": (None, None, "label", "pred+label", "label+"),
}


@dataclass(frozen=True)
class Entry:
    """What a loss takes: `inputs` says what each array holds, `unreduced` the shape of E.

    `params` are those of the class, `options` what else varies; the first value is the default.
    `forms` are parameters, and perhaps `wrt`, that have a meaning only together.
    """

    inputs: Mapping[str, Callable[[Options], str]]
    shapes: Values = ELEMENTS
    unreduced: str = "element"
    params: Mapping[str, Values] = field(default_factory=dict)
    forms: tuple[Options, ...] = ({},)
    options: Mapping[str, Values] = field(default_factory=lambda: LABELLED)
    large: str = "600x1024"

    @property
    def rows(self) -> dict[str, Values]:
        """All that is drawn for a call, with its values."""
        form = tuple(range(len(self.forms)))
        return {"shape": self.shapes, "form": form, **self.params, **COMMON, **self.options}

    @property
    def known(self) -> set[str]:
        """The parameters of the class that are varied."""
        return {*self.params, *(key for form in self.forms for key in form if key != "wrt")}


def holds(**kinds: str) -> dict[str, Callable[[Options], str]]:
    return {name: lambda _, kind=kind: kind for name, kind in kinds.items()}  # type: ignore[misc]


CLASS_FORMS: tuple[Options, ...] = (
    *({}, {"ignore_index": 0}, {"ignore_index": -100}) * 2,
    *({"out_of_range": "clip"}, {"out_of_range": "clip", "ignore_index": 2}),
)
CLASS_OPTIONS: dict[str, Values] = {
    "label_order": (*ORDERS, "broadcast", "keepdims"),
    "label_dtype": ("int64", "int64", "int32", "uint8", "float32", "float64"),
}
BY_CLASS = (None, None, "ramp", "zeros")
SIGNED: dict[str, Values] = {"margin": (1, 0, -0.5, 1e30), "out_of_range": DOMAIN}

TABLE: dict[str, Entry] = {
    "L1Loss": Entry(holds(pred="real", label="real")),
    "L2Loss": Entry(holds(pred="real", label="real")),
    "HuberLoss": Entry(
        holds(pred="real", label="real"), params={"rho": (1, 0.375, 6.0, 1e-30, 1e30)}
    ),
    "HingeLoss": Entry(holds(pred="real", label="sign"), params=SIGNED),
    "SquaredHingeLoss": Entry(holds(pred="real", label="sign"), params=SIGNED),
    "LogisticLoss": Entry(
        {
            **holds(pred="real"),
            "label": lambda o: "unit" if o["label_format"] == "binary" else "sign",
        },
        params={"label_format": ("signed", "binary"), "out_of_range": DOMAIN},
    ),
    "SigmoidBinaryCrossEntropyLoss": Entry(
        {"pred": lambda o: "unit" if o.get("from_sigmoid") else "real", **holds(label="unit")},
        params={"out_of_range": DOMAIN},
        forms=(
            {},
            {"from_sigmoid": True},
            {"from_sigmoid": True, "epsilon": 1e-12},
            {"from_sigmoid": True, "epsilon": 0.125},
            {"from_sigmoid": True, "clamp": True},
        ),
        options={
            **LABELLED,
            "pos_weight": ("none", "one", "column", "element", "huge"),
            "wrt": (None, None, "label", "pos_weight", "pred+label+pos_weight"),
        },
    ),
    "PoissonNLLLoss": Entry(
        {"pred": lambda o: "real" if o["from_logits"] else "count", **holds(target="count")},
        params={
            "from_logits": (True, False),
            "compute_full": (False, True, "stirling"),
            "out_of_range": DOMAIN,
        },
        options={
            **LABELLED,
            "epsilon": ("none", 1e-3, 0.0),
            "wrt": (None, None, "target", "pred+target", "target+"),
        },
    ),
    "GaussianNLLLoss": Entry(
        holds(pred="real", target="real", var="count"),
        params={"full": (False, True), "epsilon": (1e-6, 0.5)},
        options={**LABELLED, "wrt": (None, "target", "var", "pred+target+var")},
    ),
    "MarginRankingLoss": Entry(
        holds(input1="real", input2="real", label="sign"),
        params=SIGNED,
        options={**LABELLED, "wrt": (None, "input2", "input2+input1", "label")},
    ),
    "HingeEmbeddingLoss": Entry(holds(pred="real", label="sign"), params=SIGNED),
    "SoftmaxCrossEntropyLoss": Entry(
        {
            "pred": lambda o: "log" if o["from_logits"] else "real",
            "label": lambda o: "class" if o.get("sparse_label", True) else "distribution",
        },
        ROWS,
        "row",
        params={
            "from_logits": (False, False, True),
            "class_weight": (None, None, "ramp", "zeros"),
            "label_smoothing": (0.0, 0.0, 0.1, 1.0),
        },
        forms=(
            *({}, {"ignore_index": 0}, {"ignore_index": -100}) * 2,
            *({"out_of_range": "clip"}, {"out_of_range": "clip", "ignore_index": 2}),
            *({"sparse_label": False}, {"sparse_label": False, "wrt": "label"}),
            *({"sparse_label": False, "wrt": "pred+label"}, {"wrt": "pred+label"}),
            *({"z_loss": 0.125}, {"z_loss": 1e-4, "ignore_index": 0}),
        ),
        options={
            "label_order": (*ORDERS, "broadcast", "keepdims"),
            "label_dtype": ("int64", "int64", "int32", "uint8", "float32", "float64"),
        },
        large="200x3000",
    ),
    "SoftmaxFocalLoss": Entry(
        holds(pred="real", label="class"),
        ROWS,
        "row",
        params={"gamma": (2.0, 0.0, 0.5, 5.0), "alpha": BY_CLASS},
        forms=CLASS_FORMS,
        options=CLASS_OPTIONS,
        large="200x3000",
    ),
    "PolyLoss": Entry(
        holds(pred="real", label="class"),
        ROWS,
        "row",
        params={"epsilon": (1.0, -1.0, 10.0), "class_weight": BY_CLASS},
        forms=CLASS_FORMS,
        options=CLASS_OPTIONS,
        large="200x3000",
    ),
    "CategoricalHingeLoss": Entry(
        holds(pred="real", label="class"),
        ROWS,
        "row",
        params={"margin": (1.0, 0.0, -0.5, 1e30)},
        forms=CLASS_FORMS,
        options=CLASS_OPTIONS,
        large="200x3000",
    ),
    "MultiMarginLoss": Entry(
        holds(pred="real", label="class"),
        ROWS,
        "row",
        params={"p": (1, 2), "margin": (1.0, 0.0, -0.5, 1e30), "class_weight": BY_CLASS},
        forms=CLASS_FORMS,
        options=CLASS_OPTIONS,
        large="200x3000",
    ),
    "MultiLabelMarginLoss": Entry(
        holds(pred="real", label="classes"),
        ROWS,
        "row",
        options={
            **CLASS_OPTIONS,
            "label_dtype": ("int64", "int32", "float32"),
            "label_order": ORDERS,
        },
        large="200x300",
    ),
    "MultiLabelSoftMarginLoss": Entry(
        holds(pred="real", label="unit"),
        ROWS,
        "row",
        params={"class_weight": BY_CLASS, "out_of_range": DOMAIN},
        options={**LABELLED, "label_order": ORDERS},
        large="200x3000",
    ),
    "MultiQuantileLoss": Entry(
        holds(pred="real", label="number"),
        ROWS,
        "row",
        params={"quantiles": BY_CLASS},
        large="200x3000",
    ),
    "CRPSLoss": Entry(
        holds(pred="real", label="number"),
        ROWS,
        "row",
        params={"fair": (False, True)},
        large="200x300",
    ),
    "KLDivLoss": Entry(
        {
            "pred": lambda o: "log" if o.get("from_logits", True) else "real",
            "label": lambda o: "log" if o.get("log_target") else "distribution",
        },
        ROWS,
        forms=(
            *({}, {"epsilon": 1e-12}, {"epsilon": 0.125}, {"log_target": True}),
            *({"out_of_range": "allow"}, {"from_logits": False, "out_of_range": "allow"}),
            *({"from_logits": False}, {"from_logits": False, "temperature": 0.5}),
            *({"from_logits": False, "temperature": 3.0, "epsilon": 1e-12},),
            *({"from_logits": False, "temperature": 3.0, "log_target": True},),
        ),
        options={**LABELLED, "label_order": (*ORDERS, "broadcast", "shared")},
        large="200x3000",
    ),
    "TripletLoss": Entry(
        holds(pred="real", positive="real", negative="real"),
        ELEMENTS,
        "sample",
        params={"margin": (1, 0, -200.0, 1e30)},
        options={"wrt": (None, "pred", "negative+positive", "positive+")},
    ),
    "TripletMarginLoss": Entry(
        holds(pred="real", positive="real", negative="real"),
        ROWS,
        "row",
        params={
            "margin": (1.0, 0.0, 1e30),
            "p": (2.0, 1.0, 3.0),
            "swap": (False, True),
        },
        options={"wrt": (None, "pred", "negative+positive", "positive+")},
        large="2048x300",
    ),
    "CosineEmbeddingLoss": Entry(
        holds(input1="real", input2="real", label="pair sign"),
        ROWS,
        "row",
        params={"margin": (0, 0.25, -0.5), "out_of_range": DOMAIN},
        options={**LABELLED, "wrt": (None, "input1", "input2+input1", "input2+")},
        large="2048x300",
    ),
    "SDMLLoss": Entry(
        holds(x1="real", x2="real"),
        ("2x3", "5x7", "16x40", "33x129", "7x5::1", "1x3", "2x0", "0x3", "150x64"),
        "pair",
        params={
            "smoothing_parameter": (0.3, 0.0, 1.0),
            "memory_limit": (1 << 28, 1 << 28, 1 << 14, 1 << 18),
        },
        options={"wrt": (None, "x1", "x2+x1", "x2+")},
        large="300x17",
    ),
    "InfoNCELoss": Entry(
        holds(x1="real", x2="real"),
        ("2x3", "5x7", "16x40", "33x129", "7x5::1", "1x3", "2x0", "0x3", "150x64"),
        "sample",
        params={
            "temperature": (0.07, 1.0, 1e-4, 1e30),
            "similarity": ("cosine", "dot"),
            "symmetric": (True, False),
            "memory_limit": (1 << 28, 1 << 28, 1 << 14, 1 << 18),
        },
        options={"wrt": (None, "x1", "x2+x1", "x2+")},
        large="300x17",
    ),
    "CTCLoss": Entry(
        {},
        # Samples, frames, classes, labels. In the fourth, the labels do not fit into the frames.
        (
            *("3x9x5x4", "1x1x2x1", "5x37x12x15", "4x6x3x8", "2x33x300x9", "2x5x1x0") * 2,
            *("0x5x3x2", "3x0x4x2", "1x700x20x300", "4x60x1000x25"),
        ),
        "sample",
        params={
            "layout": ("NTC", "TNC", "TC"),
            "label_layout": ("NT", "TN"),
            "blank": ("last", "first", 1),
            "input": ("logits", "log_probs", "log_probs_torch"),
            "infeasible": ("inf", "zero", "raise"),
            "memory_limit": (*(1 << 28, 1 << 18) * 2, 1 << 15),
        },
        options={
            "reduction": (*REDUCTIONS, "target_mean"),
            "numbers": ("plain", "plain", "grid", "wide", "special", "huge", "masked", "far"),
            "labels": ("padded", "lengths", "flat+lengths", "flat+offsets", "lists"),
            "label_dtype": ("int64", "int32", "float64"),
            "pred_lengths": ("none", "given"),
        },
        large="24x80x30x25",
    ),
}


def plan(name: str) -> list[Options]:
    """Return the calls of a loss: the product of PRODUCT, then more until all pairs are met."""
    entry, rng = TABLE[name], random.Random(name)
    rows = entry.rows
    values = (dict.fromkeys(rows[key]) for key in PRODUCT)
    products = [dict(zip(PRODUCT, each, strict=True)) for each in itertools.product(*values)]
    sizes = [len(set(map(repr, row))) for row in rows.values()]
    lacking = REPEATS * sum(a * b for a, b in itertools.combinations(sizes, 2))
    met: Counter[Any] = Counter()
    found: dict[str, Options] = {}

    def draw(fixed: dict[str, Any]) -> dict[str, Any]:
        return {key: row[int(rng.random() * len(row))] for key, row in rows.items()} | fixed

    def add(drawn: dict[str, Any]) -> None:
        options = dict(entry.forms[drawn.pop("form")])
        options = {"shape": drawn.pop("shape")} | options | drawn
        found.setdefault(identity(name, options), options)

    for fixed in itertools.chain(products, itertools.repeat({})):
        if not fixed and not lacking:
            break
        drawn = draw(fixed)
        named = [(key, repr(value)) for key, value in drawn.items()]
        fresh = [pair for pair in itertools.combinations(named, 2) if met[pair] < REPEATS]
        if fixed or fresh:
            add(drawn)
            met.update(fresh)
            lacking -= len(fresh)
    for _ in range(LARGE):
        add(draw({"shape": entry.large}))
    return list(found.values())


def identity(name: str, options: Options) -> str:
    """Return a call's name: the loss, the shape, and what is not the default."""
    rows = TABLE[name].rows
    defaults = {key: row[0] for key, row in rows.items() if key != "shape"}
    return " ".join([name, *(f"{k}={v}" for k, v in options.items() if v != defaults.get(k, ...))])

"""Where accuracy is measured, and the bound that the documentation promises there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rustloss.testing._bounds import Absolute, Bound

from . import inputs as draws
from .exact import Truth, truth, ulp_error
from .inputs import Array, Draw, Inputs


def in_ulp(bound: Bound | Absolute, first: Array, y: Array, exact: Truth) -> Any:
    """Return the bound of every number of a result `y` of which `first` is the first input."""
    if isinstance(bound, Absolute):
        info = np.finfo(y.dtype)
        size = np.maximum(1, np.abs(np.ldexp(exact.high, exact.exponent)))
        unit = np.ldexp(1.0, np.maximum(exact.against, info.minexp) - info.nmant)
        with np.errstate(over="ignore"):
            limit: Array = getattr(bound, y.dtype.name) * size / unit
        return limit.reshape(y.shape)
    if not bound.spread:
        return bound.base
    return bound.base + bound.spread * np.ptp(first, axis=-1, keepdims=y.ndim > 1)


EXACT = L1 = HINGE = Bound(1)
L2 = SQUARED_HINGE = Bound(2)
HUBER = LOGISTIC = Bound(3)
TERMS = Bound(4)
"""Of the sum of the absolute terms, as all bounds are; the others' terms have one sign."""
SDML = INFO_NCE = Bound(8)
SOFTMAX = Bound(4, 1 / 2)
CURVATURE = Bound(8)
"""Of p (1 - p): 3 for p, as much again for 1 - p where p is half, and 2 for the products."""

DTYPES = ["float32", "float64"]

Job = tuple[str, dict[str, Any], Inputs, tuple[str, ...]]
"""Loss, parameters, inputs and what is asked for: what another process can be sent."""


@dataclass(frozen=True)
class Case:
    """One loss with some kind of inputs."""

    title: str
    loss: str
    draw: Draw
    bounds: Mapping[str, Bound | Absolute]
    """Of the value, of the gradient with respect to the inputs named, of the second derivative."""
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wrt(self) -> tuple[str, ...]:
        """Return the inputs whose gradient is asked for."""
        return gradients(self.bounds)

    def inputs(self, dtype: str, seed: int) -> Inputs:
        """Return the same points on every call."""
        return self.draw(np.random.default_rng([seed, *self.title.encode()]), dtype)

    def job(self, inputs: Inputs) -> Job:
        """Return what `run` takes."""
        return self.loss, dict(self.params), inputs, tuple(self.bounds)

    def truth(self, inputs: Inputs) -> dict[str, Truth]:
        """Return the exact value and derivatives."""
        return truth(self.loss, self.params, inputs, self.bounds)

    def errors(
        self, inputs: Inputs, exact: Mapping[str, Truth], results: Mapping[str, Array]
    ) -> dict[str, tuple[Array, Array]]:
        """Return the errors of every result in ulp, and as shares of the bound."""
        found = {}
        first = next(iter(inputs.values())).astype(np.float64)
        for name, y in results.items():
            error = ulp_error(y, exact[name]).reshape(y.shape)
            found[name] = error, error / in_ulp(self.bounds[name], first, y, exact[name])
        return found


def gradients(asked: Any) -> tuple[str, ...]:
    """Return the inputs whose gradient is asked for."""
    return tuple(name for name in asked if name not in {"value", "hess"})


def run(job: Job) -> dict[str, Array]:
    """Let the library compute the unreduced value and the derivatives.

    For a loss along axis 0 samples and vectors change places on the way in and out.
    """
    import rustloss

    name, params, inputs, asked = job
    turned = params.get("axis") == 0
    loss = getattr(rustloss, name)(
        **params, **({"batch_axis": 1} if turned else {}), reduction="none"
    )

    def turn(x: Array) -> Array:
        return np.ascontiguousarray(x.T) if turned and x.ndim == 2 else x

    given, wrt = {key: turn(x) for key, x in inputs.items()}, gradients(asked)
    value, grads = loss.value_and_grad(**given, wrt=wrt)
    results = {"value": value, **dict(zip(wrt, grads, strict=True))}
    if "hess" in asked:
        results["hess"] = loss.grad_hess(**given)[1]
    return {key: turn(results[key]) for key in asked}


RHO = float(np.float32(0.3))
BAD_RHO = float.fromhex("0x1.ffe018p-1")
"""Its reciprocal has the largest error that rounding makes, in either dtype."""
BCE = "SigmoidBinaryCrossEntropyLoss"
CE = "SoftmaxCrossEntropyLoss"
SHAPES = [(480, 2), (192, 10), (8, 1000)]
"""Rows and classes."""
FEWER = [(120, 2), (48, 10), (2, 1000)]
"""For the options of a loss whose usual form has all of `SHAPES`."""


def bounds(
    bound: Bound, *inputs: str, value: Bound | None = None, hess: Bound | None = None
) -> dict[str, Bound | Absolute]:
    """Return one bound for all, unless the value or the second derivative has another."""
    return {**slopes(bound, *(inputs or ["pred"]), value=value), "hess": hess or bound}


def slopes(bound: Bound, *inputs: str, value: Bound | None = None) -> dict[str, Bound | Absolute]:
    """Return the bounds of a loss without a second derivative."""
    return {"value": value or bound, **dict.fromkeys(inputs, bound)}


HARD_LABELS = bounds(LOGISTIC, hess=TERMS)
SOFT_LABELS = bounds(TERMS, "pred", "label", value=LOGISTIC)
POSITIVE_WEIGHT = bounds(TERMS, "pred", "label", "pos_weight")
SPARSE = bounds(SOFTMAX, hess=CURVATURE)
SMOOTHED = bounds(TERMS, value=SOFTMAX, hess=CURVATURE)
# The derivative by a label is the loss of that class.
DENSE = {"value": SOFTMAX, "pred": TERMS, "label": SOFTMAX, "hess": CURVATURE}
DIVERGENCE = bounds(TERMS, "pred", "label", hess=CURVATURE)
# The derivative by a variance has the square of a slope, and twice the error of that.
GAUSSIAN = {**bounds(TERMS, "pred", "target"), "var": Bound(6)}
POISSON = bounds(TERMS, "pred", "target")
QUANTILES = bounds(TERMS, "pred", "label")
CRPS = slopes(TERMS, "pred", "label")
TRIPLET = slopes(TERMS, "pred", "positive", "negative")
COSINE = slopes(TERMS, "input1", "input2")
CTC: dict[str, Bound | Absolute] = {
    "value": Absolute(2e-7, 1e-12),
    "pred": Absolute(2e-6, 1e-11),
}


def bce(
    title: str,
    draw: Draw,
    bounds: Mapping[str, Bound | Absolute],
    **params: Any,
) -> Case:
    return Case(f"SigmoidBCE{title}", BCE, draw, bounds, params)


def poisson(title: str, draw: Draw, **params: Any) -> Case:
    return Case(f"PoissonNLL{title}", "PoissonNLLLoss", draw, POISSON, params)


def softmax(title: str, draw: Draw, bounds: Mapping[str, Bound | Absolute], **params: Any) -> Case:
    return Case(f"SoftmaxCE, {title}", CE, draw, bounds, params)


def z_loss(title: str, draw: Draw, bounds: Mapping[str, Bound | Absolute], **params: Any) -> Case:
    params = {"z_loss": 0.25, **params}
    return Case(f"SoftmaxCE, z-loss, {title}", CE, draw, bounds, params)


def focal(gamma: float, n: int, classes: int, title: str = "", **params: Any) -> Case:
    title = f"SoftmaxFocal, gamma = {gamma:g}{title}, {classes} classes"
    params, draw = {"gamma": gamma, **params}, draws.sparse(n, classes)
    # The power of 1 - p has gamma times its error, which is 3.
    limits = bounds(Bound(4 + 3 * gamma, 1 / 2), hess=Bound(8 + 3 * gamma))
    return Case(title, "SoftmaxFocalLoss", draw, limits, params)


def poly(epsilon: float, n: int, classes: int, title: str = "", **params: Any) -> Case:
    title = f"Poly, epsilon = {epsilon:g}{title}, {classes} classes"
    params = {"epsilon": epsilon, **params}
    # Below 0, 1 + epsilon p is small where 1 - p is, and has the error of that, which is 3.
    slope = SOFTMAX if epsilon >= 0 else Bound(7, 1 / 2)
    limits = bounds(slope, value=SOFTMAX, hess=CURVATURE)
    return Case(title, "PolyLoss", draws.sparse(n, classes), limits, params)


def categorical_hinge(n: int, classes: int, margin: float) -> Case:
    title = f"CategoricalHinge, margin {margin:g}, {classes} classes"
    draw = draws.hinged(n, classes, margin)
    return Case(title, "CategoricalHingeLoss", draw, bounds(HINGE), {"margin": margin})


def multi_margin(n: int, classes: int, p: int, title: str = "", **params: Any) -> Case:
    title = f"MultiMargin, p = {p}{title}, {classes} classes"
    params = {"p": p, "margin": 1.0, **params}
    return Case(title, "MultiMarginLoss", draws.hinged(n, classes, 1.0), bounds(TERMS), params)


def multilabel_margin(n: int, classes: int) -> Case:
    title, draw = f"MultiLabelMargin, {classes} classes", draws.class_sets(n, classes)
    return Case(title, "MultiLabelMarginLoss", draw, bounds(TERMS))


def multilabel_soft_margin(n: int, classes: int, title: str = "", **params: Any) -> Case:
    title = f"MultiLabelSoftMargin{title}, {classes} classes"
    draw = draws.many_labels(n, classes)
    limits = bounds(TERMS, "pred", "label")
    return Case(title, "MultiLabelSoftMarginLoss", draw, limits, params)


def triplet_margin(n: int, width: int, p: float = 2.0, title: str = "", **params: Any) -> Case:
    title = f"TripletMargin{title}, {width} features"
    params = {"margin": 1.0, "p": p, "epsilon": 1e-6, **params}
    # The power p - 1 of a share of a norm has p - 1 times its error, which is 4.
    bound = TERMS if p in (1, 2) else Bound(4 + 4 * (p - 1))
    limits = slopes(bound, "pred", "positive", "negative", value=TERMS)
    return Case(title, "TripletMarginLoss", draws.triplets(n, width), limits, params)


def quantiles(n: int, count: int, title: str = "", **params: Any) -> Case:
    title = f"MultiQuantile{title}, {count}"
    return Case(title, "MultiQuantileLoss", draws.forecasts(n, count), QUANTILES, params)


def crps(n: int, members: int, title: str = "", **params: Any) -> Case:
    title = f"CRPS{title}, ensembles of {members}"
    return Case(title, "CRPSLoss", draws.forecasts(n, members), CRPS, params)


def kl(title: str, draw: Draw, **params: Any) -> Case:
    return Case(f"KLDiv{title} classes", "KLDivLoss", draw, DIVERGENCE, params)


def cosine(n: int, width: int, margin: float, title: str = "", **params: Any) -> Case:
    title = f"CosineEmbedding{title}, {width} features"
    params = {"margin": margin, **params}
    return Case(title, "CosineEmbeddingLoss", draws.pairs(n, width), COSINE, params)


def sdml(n: int, width: int, apart: float = 0.0) -> Case:
    title = f"SDML, {n} x {width}" + (f", {apart:g} apart" if apart else "")
    params = {"smoothing_parameter": 0.25}
    draw = draws.neighbours(n, width, apart)
    return Case(title, "SDMLLoss", draw, slopes(SDML, "x1", "x2"), params)


def info_nce(n: int, width: int, **params: Any) -> Case:
    params = {"temperature": 0.07, "similarity": "cosine", "symmetric": True, **params}
    title = f"InfoNCE, {n} x {width}, {params['similarity']}, {params['temperature']:g}"
    title += "" if params["symmetric"] else ", rows"
    draw = draws.neighbours(n, width, 0.0)
    return Case(title, "InfoNCELoss", draw, slopes(INFO_NCE, "x1", "x2"), params)


def ctc(n: int, frames: int, classes: int, longest: int) -> Case:
    draw = draws.transcriptions(n, frames, classes, longest)
    return Case(f"CTC, {frames} frames", "CTCLoss", draw, CTC)


def class_weights(classes: int) -> tuple[float, ...]:
    """Return weights of which some are 0."""
    return tuple(0.3 * (c % 7) for c in range(1, classes + 1))


CASES = [
    Case("L1", "L1Loss", draws.regression(), bounds(L1)),
    Case("L2", "L2Loss", draws.regression(), bounds(L2, hess=EXACT)),
    Case("Huber", "HuberLoss", draws.regression(1.0), bounds(HUBER), {"rho": 1.0}),
    Case("Huber, rho = 0.3", "HuberLoss", draws.regression(RHO), bounds(HUBER), {"rho": RHO}),
    Case("Huber, rho = 0.99976", "HuberLoss", draws.badly_rounded, bounds(HUBER), {"rho": BAD_RHO}),
    Case("Hinge", "HingeLoss", draws.signed(1.0), bounds(HINGE), {"margin": 1.0}),
    Case(
        "SquaredHinge",
        "SquaredHingeLoss",
        draws.signed(1.0),
        bounds(SQUARED_HINGE),
        {"margin": 1.0},
    ),
    Case("Logistic", "LogisticLoss", draws.binary(-1.0), HARD_LABELS),
    Case(
        "Logistic, soft labels",
        "LogisticLoss",
        draws.soft(-1.0),
        SOFT_LABELS,
        {"out_of_range": "allow"},
    ),
    Case(
        "Logistic, soft labels from 0 to 1",
        "LogisticLoss",
        draws.soft(0.0),
        SOFT_LABELS,
        {"label_format": "binary"},
    ),
    bce("", draws.binary(0.0), HARD_LABELS),
    bce(", soft labels", draws.soft(0.0), SOFT_LABELS),
    bce(
        ", positive weight",
        draws.with_positive_weight(draws.soft(0.0)),
        POSITIVE_WEIGHT,
    ),
    bce(" of probabilities", draws.probabilities(soft=False), HARD_LABELS, from_sigmoid=True),
    bce(
        " of probabilities, soft labels",
        draws.probabilities(soft=True),
        SOFT_LABELS,
        from_sigmoid=True,
    ),
    bce(
        " of probabilities, positive weight",
        draws.with_positive_weight(draws.probabilities(soft=True)),
        POSITIVE_WEIGHT,
        from_sigmoid=True,
    ),
    bce(
        " of probabilities, epsilon",
        draws.probabilities(soft=True),
        SOFT_LABELS,
        from_sigmoid=True,
        epsilon=1e-12,
    ),
    bce(
        " of probabilities, clamped",
        draws.with_positive_weight(draws.probabilities(soft=True, wrong=True)),
        POSITIVE_WEIGHT,
        from_sigmoid=True,
        clamp=True,
    ),
    *(
        Case(
            f"GaussianNLL{title}",
            "GaussianNLLLoss",
            draws.normal(1e-6),
            GAUSSIAN,
            {"epsilon": 1e-6, **params},
        )
        for title, params in {"": {}, ", full": {"full": True}}.items()
    ),
    Case(
        "MarginRanking",
        "MarginRankingLoss",
        draws.ranked(0.5),
        bounds(HINGE, "input1", "input2", "label"),
        {"margin": 0.5},
    ),
    Case(
        "HingeEmbedding",
        "HingeEmbeddingLoss",
        draws.distances(1.0),
        bounds(HINGE),
        {"margin": 1.0},
    ),
    poisson("", draws.counts()),
    poisson(" of rates", draws.counts(rates=True), from_logits=False),
    poisson(", full", draws.counts(), compute_full=True),
    poisson(", full by Stirling", draws.counts(), compute_full="stirling"),
    poisson(" of rates, full", draws.counts(rates=True), from_logits=False, compute_full=True),
    *(softmax(f"{c} classes", draws.sparse(n, c), SPARSE) for n, c in [*SHAPES, (2, 32_000)]),
    *(softmax(f"{c} level classes", draws.level(n, c), SPARSE) for n, c in [(200, 31), (40, 127)]),
    *(softmax(f"along axis 0, {c} classes", draws.sparse(n, c), SPARSE, axis=0) for n, c in FEWER),
    *(
        softmax(
            f"class weights, {c} classes",
            draws.sparse(n, c),
            SPARSE,
            class_weight=class_weights(c),
        )
        for n, c in FEWER
    ),
    *(
        softmax(f"label smoothing, {c} classes", draws.sparse(n, c), SMOOTHED, label_smoothing=0.1)
        for n, c in FEWER
    ),
    *(
        softmax(
            f"class weights and label smoothing, {c} classes",
            draws.sparse(n, c),
            SMOOTHED,
            class_weight=class_weights(c),
            label_smoothing=0.1,
        )
        for n, c in FEWER
    ),
    *(
        softmax(f"soft labels, {c} classes", draws.dense(n, c), DENSE, sparse_label=False)
        for n, c in SHAPES
    ),
    *(
        softmax(
            f"weighted and smoothed soft labels, {c} classes",
            draws.dense(n, c),
            DENSE,
            sparse_label=False,
            class_weight=class_weights(c),
            label_smoothing=0.1,
        )
        for n, c in FEWER
    ),
    *(
        softmax(
            f"log-probabilities, {c} classes",
            draws.sparse_log_probabilities(n, c),
            bounds(EXACT),
            from_logits=True,
        )
        for n, c in FEWER
    ),
    *(
        softmax(
            f"soft labels, log-probabilities, {c} classes",
            draws.log_probabilities(n, c),
            bounds(TERMS, "pred", "label"),
            sparse_label=False,
            from_logits=True,
        )
        for n, c in FEWER
    ),
    *(z_loss(f"{c} classes", draws.sparse(n, c), SPARSE) for n, c in SHAPES),
    *(
        z_loss(
            f"log-probabilities as logits, {c} classes",
            draws.sparse_log_probabilities(n, c),
            SPARSE,
        )
        for n, c in FEWER
    ),
    *(
        z_loss(
            f"class weights and label smoothing, {c} classes",
            draws.sparse(n, c),
            SMOOTHED,
            class_weight=class_weights(c),
            label_smoothing=0.1,
        )
        for n, c in FEWER
    ),
    *(
        z_loss(
            f"weighted and smoothed soft labels, {c} classes",
            draws.dense(n, c),
            DENSE,
            sparse_label=False,
            class_weight=class_weights(c),
            label_smoothing=0.1,
        )
        for n, c in FEWER
    ),
    *(focal(gamma, n, c) for gamma in [0.0, 0.5, 2.0, 5.0] for n, c in FEWER),
    *(focal(2.0, n, c, ", alpha", alpha=class_weights(c)) for n, c in FEWER),
    *(focal(2.0, n, c, " along axis 0", axis=0) for n, c in FEWER),
    *(poly(epsilon, n, c) for epsilon in [-1.0, 1.0, 10.0] for n, c in FEWER),
    *(poly(1.0, n, c, ", class weights", class_weight=class_weights(c)) for n, c in FEWER),
    *(categorical_hinge(n, c, margin) for margin in [1.0, 0.3] for n, c in SHAPES),
    *(multi_margin(n, c, p) for p in [1, 2] for n, c in SHAPES),
    multi_margin(48, 10, 2, ", class weights", class_weight=class_weights(10)),
    *(multilabel_margin(n, c) for n, c in [(240, 2), (96, 10), (4, 300)]),
    *(multilabel_soft_margin(n, c) for n, c in FEWER),
    multilabel_soft_margin(48, 10, ", class weights", class_weight=class_weights(10)),
    *(quantiles(n, count) for n, count in [(600, 1), (300, 2), (200, 3), (6, 100)]),
    quantiles(300, 3, " of given levels", quantiles=(0.05, 0.5, 0.9)),
    *(crps(n, m) for n, m in [(600, 1), (300, 2), (300, 3), (30, 100)]),
    *(crps(n, m, ", fair", fair=True) for n, m in [(60, 1), (300, 2), (300, 3), (30, 100)]),
    crps(60, 3, " along axis 0", axis=0),
    *(kl(f", {c}", draws.log_probabilities(n, c)) for n, c in SHAPES),
    *(kl(f" from logits, {c}", draws.dense(n, c), from_logits=False) for n, c in SHAPES),
    *(
        kl(f" from logits along axis 0, {c}", draws.dense(n, c), from_logits=False, axis=0)
        for n, c in FEWER
    ),
    *(
        kl(f" at temperature {t}, {c}", draws.dense(n, c), from_logits=False, temperature=t)
        for (n, c), t in zip(SHAPES, [0.3, 2.5, 7.0], strict=True)
    ),
    kl(", epsilon, 10", draws.log_probabilities(192, 10), epsilon=1e-12),
    *(
        kl(
            f" of log-targets, {c}",
            draws.log_targets(draws.log_probabilities(n, c)),
            log_target=True,
        )
        for n, c in SHAPES
    ),
    *(
        kl(
            f" of log-targets from logits, {c}",
            draws.log_targets(draws.dense(n, c)),
            log_target=True,
            from_logits=False,
        )
        for n, c in SHAPES
    ),
    kl(
        " of log-targets at temperature 2.5, 10",
        draws.log_targets(draws.dense(192, 10)),
        log_target=True,
        from_logits=False,
        temperature=2.5,
    ),
    *(
        Case(
            f"Triplet, {d} features", "TripletLoss", draws.triplets(n, d), TRIPLET, {"margin": 1.0}
        )
        for n, d in [(300, 2), (40, 100), (4, 2000)]
    ),
    *(triplet_margin(n, d) for n, d in [(300, 2), (40, 100), (4, 2000)]),
    *(triplet_margin(120, 5, p, f", p = {p:g}") for p in [1.0, 1.5, 3.0]),
    triplet_margin(200, 3, title=", swapped", swap=True),
    cosine(300, 2, 0.0),
    cosine(500, 3, 0.0),
    cosine(200, 17, 0.25),
    cosine(60, 100, 0.5),
    cosine(6, 1000, 0.0),
    cosine(200, 5, -0.3, ", margin -0.3"),
    cosine(200, 17, 0.25, " along axis 0", axis=0),
    *(sdml(n, d) for n, d in [(2, 3), (8, 8), (16, 50)]),
    sdml(8, 8, apart=10.0),
    *(info_nce(n, d) for n, d in [(2, 3), (8, 8), (12, 50)]),
    info_nce(8, 8, temperature=1e-3),
    info_nce(8, 8, temperature=10.0, symmetric=False),
    info_nce(8, 8, similarity="dot", temperature=1.0),
    info_nce(8, 8, similarity="dot", symmetric=False),
    *(ctc(*sizes) for sizes in [(30, 10, 5, 4), (6, 60, 8, 25)]),
]

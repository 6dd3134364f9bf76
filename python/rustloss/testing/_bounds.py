"""The error that is documented for each loss, by result: the loosest one among its options."""

from __future__ import annotations

from typing import NamedTuple


class Bound(NamedTuple):
    """A bound in ulp, and what each unit between the largest and the smallest logit adds to it."""

    base: float
    spread: float = 0.0

    def __str__(self) -> str:
        return f"{self.base:g} + S/{1 / self.spread:g}" if self.spread else f"{self.base:g}"


class Absolute(NamedTuple):
    """A bound of either dtype on the error itself, relative to a truth above 1."""

    float32: float
    float64: float

    def __str__(self) -> str:
        return f"{self.float32:.0e}, {self.float64:.0e}"


class Bounds(NamedTuple):
    """The bounds of the value, of gradients, and of the second derivative if there is one."""

    value: Bound | Absolute
    grad: Bound | Absolute
    hess: Bound | None = None


def _same(ulp: float) -> Bounds:
    return Bounds(Bound(ulp), Bound(ulp), Bound(ulp))


def _first(ulp: float) -> Bounds:
    return Bounds(Bound(ulp), Bound(ulp))


#: A test compares it with the cases that the table of the documentation is made of.
BOUNDS = {
    "L1Loss": _same(1),
    "L2Loss": Bounds(Bound(2), Bound(2), Bound(1)),
    "HuberLoss": _same(3),
    "HingeLoss": _same(1),
    "SquaredHingeLoss": _same(2),
    "LogisticLoss": Bounds(Bound(3), Bound(4), Bound(4)),
    "SigmoidBinaryCrossEntropyLoss": _same(4),
    "GaussianNLLLoss": Bounds(Bound(4), Bound(6), Bound(4)),
    "MarginRankingLoss": _same(1),
    "HingeEmbeddingLoss": _same(1),
    "PoissonNLLLoss": _same(4),
    "SoftmaxCrossEntropyLoss": Bounds(Bound(4, 1 / 2), Bound(4, 1 / 2), Bound(8)),
    "SoftmaxFocalLoss": Bounds(Bound(19, 1 / 2), Bound(19, 1 / 2), Bound(23)),
    "PolyLoss": Bounds(Bound(4, 1 / 2), Bound(7, 1 / 2), Bound(8)),
    "CategoricalHingeLoss": _same(1),
    "MultiMarginLoss": _same(4),
    "MultiLabelMarginLoss": _same(4),
    "MultiLabelSoftMarginLoss": _same(4),
    "MultiQuantileLoss": _same(4),
    "CRPSLoss": _first(4),
    "KLDivLoss": Bounds(Bound(4), Bound(4), Bound(8)),
    "TripletLoss": _first(4),
    "TripletMarginLoss": Bounds(Bound(4), Bound(12)),
    "CosineEmbeddingLoss": _first(4),
    "SDMLLoss": _first(8),
    "InfoNCELoss": _first(8),
    "CTCLoss": Bounds(Absolute(2e-7, 1e-12), Absolute(2e-6, 1e-11)),
}

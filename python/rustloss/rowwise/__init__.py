"""Losses that look at one vector at a time; see `rustloss.Loss` for options and reductions."""

from rustloss.rowwise.distances import CosineEmbeddingLoss, TripletLoss, TripletMarginLoss
from rustloss.rowwise.forecasts import CRPSLoss, MultiQuantileLoss
from rustloss.rowwise.margins import (
    CategoricalHingeLoss,
    MultiLabelMarginLoss,
    MultiLabelSoftMarginLoss,
    MultiMarginLoss,
)
from rustloss.rowwise.softmax import (
    KLDivLoss,
    PolyLoss,
    SoftmaxCELoss,
    SoftmaxCrossEntropyLoss,
    SoftmaxFocalLoss,
)

__all__ = [
    "CRPSLoss",
    "CategoricalHingeLoss",
    "CosineEmbeddingLoss",
    "KLDivLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "MultiQuantileLoss",
    "PolyLoss",
    "SoftmaxCELoss",
    "SoftmaxCrossEntropyLoss",
    "SoftmaxFocalLoss",
    "TripletLoss",
    "TripletMarginLoss",
]

"""What a signature says of a call is what the call does, and what it refuses the call refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rustloss as rl
from rustloss import ArraySpec
from rustloss.errors import ArgumentError, CallError, DTypeError, ParameterError, ShapeError

X = np.ones((2, 6, 4), "f")
CTC = rl.CTCLoss()
HUBER = rl.HuberLoss()
NO_CLASSES = np.ones((2, 6, 0), "f")
LABELS = np.ones((2, 3), int)
MASKED = np.ma.masked_array([1.0, 999.0], [False, True])

FRACTION: Any = (2.5,)
UNKNOWN: Any = (None,)

SHAPES: dict[str, tuple[rl.Loss, dict[str, Any], type[ArgumentError], str]] = {
    "labels of more samples": (CTC, {"label": np.ones((3, 2), int)}, ShapeError, "label"),
    "labels of three dimensions": (CTC, {"label": np.ones((2, 3, 1), int)}, ShapeError, "label"),
    "labels without lengths": (CTC, {"label": np.ones(6, int)}, ShapeError, "label"),
    "lengths of more samples": (
        CTC,
        {"label": LABELS, "pred_lengths": np.ones(5, int)},
        ShapeError,
        "pred_lengths",
    ),
    "lengths of labels": (
        CTC,
        {"label": LABELS, "label_lengths": np.ones((2, 2), int)},
        ShapeError,
        "label_lengths",
    ),
    "too many offsets": (
        CTC,
        {"label": np.ones(6, int), "label_offsets": np.zeros(4, int)},
        ShapeError,
        "label_offsets",
    ),
    "lengths and offsets": (
        CTC,
        {
            "label": np.ones(6, int),
            "label_offsets": np.zeros(3, int),
            "label_lengths": np.ones(2, int),
        },
        ParameterError,
        "label_lengths",
    ),
    "a blank that is no class": (rl.CTCLoss(blank=9), {"label": LABELS}, ParameterError, "blank"),
    "no classes": (CTC, {"pred": NO_CLASSES, "label": LABELS}, ShapeError, "pred"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes_of_sequences_are_checked_without_data(case):
    loss, given, error, argument = SHAPES[case]
    given = {"pred": X, **given}
    with pytest.raises(error) as by_signature:
        loss.signature(**given)
    with pytest.raises(error) as by_call:
        loss(**given)
    assert by_signature.value.argument == argument
    assert str(by_signature.value) == str(by_call.value)


@pytest.mark.parametrize(
    "given",
    [
        {"label": LABELS},
        {"label": LABELS, "pred_lengths": [6, 5], "label_lengths": [3, 1]},
        {"label": np.ones(3, int), "label_lengths": [2, 1]},
        {"label": np.ones(3, int), "label_offsets": [0, 1, 3]},
    ],
)
def test_sequences_that_line_up_have_a_signature(given):
    given = {name: np.asarray(x) for name, x in given.items()}
    assert CTC.signature(X, **given).value == ArraySpec(CTC(X, **given).shape, "float32")


@pytest.mark.parametrize("dtype", [">f8", "<f8", "f4", "f2", np.float64, np.dtype(">f4")])
def test_a_type_may_have_any_name_and_byte_order(dtype):
    x = np.ones(3, dtype)
    name = np.dtype(dtype).name
    for given in (x, ArraySpec((3,), dtype)):
        assert HUBER.signature(given, x).grads == {
            "pred": ArraySpec((3,), name),
            "label": ArraySpec((3,), name),
        }


@pytest.mark.parametrize(
    ("given", "error", "argument"),
    [
        ({}, CallError, "pred"),
        ({"label": X}, CallError, "pred"),
        ({"pred": X}, CallError, "label"),
        ({"pred": X, "label": X, "denominator": 2}, CallError, "denominator"),
        ({"pred": X, "label": X, "weights": X}, CallError, "weights"),
        ({"pred": [1.0], "label": X}, DTypeError, "pred"),
        ({"pred": MASKED, "label": MASKED.data}, DTypeError, "pred"),
        ({"pred": ArraySpec((3,), "object"), "label": ArraySpec((3,), "f4")}, DTypeError, "pred"),
        ({"pred": ArraySpec((3,), "f4"), "label": ArraySpec((3,), "word")}, DTypeError, "label"),
        ({"pred": ArraySpec((-1,), "f4"), "label": X}, ShapeError, "pred"),
        ({"pred": X, "label": ArraySpec(FRACTION, "f4")}, ShapeError, "label"),
        ({"pred": X, "label": ArraySpec(UNKNOWN, "f4")}, ShapeError, "label"),
        ({"pred": ArraySpec((2**62, 2**62), "f4"), "label": X}, ShapeError, "pred"),
        ({"pred": X, "label": np.ones(5)}, ShapeError, "label"),
    ],
)
def test_mistakes_name_the_argument(given, error, argument):
    with pytest.raises(error, match=rf"^{argument}\b") as caught:
        HUBER.signature(**given)
    assert caught.value.argument == argument


@pytest.mark.parametrize("name", ["CategoricalHingeLoss", "SoftmaxFocalLoss", "MultiMarginLoss"])
def test_one_hot_labels_are_told_what_they_should_be(name):
    one_hot = np.eye(3)
    with pytest.raises(ShapeError, match="argmax along the class axis") as caught:
        getattr(rl, name)()(np.ones((3, 3)), one_hot)
    assert "sparse_label" not in str(caught.value)
    with pytest.raises(ShapeError, match="sparse_label=False"):
        rl.SoftmaxCELoss()(np.ones((3, 3)), one_hot)


@pytest.mark.parametrize(
    ("name", "params", "options", "text"),
    [
        ("CTCLoss", {"blank": 1.0}, {}, "blank: .* got 1.0$"),
        ("HuberLoss", {"batch_axis": 1.0}, {}, "batch_axis: .* got 1.0$"),
        ("InfoNCELoss", {"temperature": 1e-320}, {}, "temperature: .* got 1e-320$"),
        ("KLDivLoss", {"from_logits": np.array([True, False])}, {}, r"from_logits: .*array\(\["),
        ("PoissonNLLLoss", {}, {"epsilon": -1.0}, "epsilon: .* got -1$"),
        ("PoissonNLLLoss", {}, {"epsilon": [1.0, 2.0]}, r"epsilon: .* shape \(2,\)$"),
        ("L2Loss", {"reduction": "mean"}, {"denominator": True}, "denominator: .* got True$"),
    ],
)
def test_errors_say_what_came(name, params, options, text):
    with pytest.raises(ParameterError, match=text):
        getattr(rl, name)(**params)(X, X, **options)

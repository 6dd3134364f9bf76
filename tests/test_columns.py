"""Arrays in column-major order: many rows side by side in memory give the bits of rows in C order.

Rows enough for a block of columns, and vectors longer than what is summed at once.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import rustloss as rl
from contract import DTYPES, assert_same_bits, everything, losses_of, remade
from rustloss.testing import example
from rustloss.testing._registry import differentiable, spec_of, specs

#: A block that ends early, and vectors of more than one block of a sum.
SHAPES = [(1100, 7), (70, 1500)]

ALONE = [name for name, spec in specs().items() if spec.family in {"elementwise", "rowwise"}]
over_alone = pytest.mark.parametrize("name", ALONE)


def column_major(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asfortranarray(array) for name, array in inputs.items()}


def cases(name: str, classes: int) -> list[rl.Loss]:
    """Return a loss with its defaults, its switches and its numbers away from their defaults."""
    weights = {"class_weight": np.linspace(0.5, 1.5, classes)}
    changed: dict[str, list[dict[str, Any]]] = {
        "SoftmaxCrossEntropyLoss": [
            *({"label_smoothing": 0.1}, {"z_loss": 0.01}, {"sparse_label": False, "z_loss": 0.01}),
            *({"sparse_label": False, "label_smoothing": 0.1}, {"label_smoothing": 0.1, **weights}),
        ],
        "KLDivLoss": [
            {"from_logits": False, **more}
            for more in ({}, {"log_target": True}, {"temperature": 2.5}, {"epsilon": 1e-3})
        ],
        "CosineEmbeddingLoss": [{"margin": 0.3}],
        "MultiMarginLoss": [{"p": 2}, weights],
        "MultiLabelSoftMarginLoss": [weights],
        "MultiQuantileLoss": [{"quantiles": np.linspace(0.1, 0.9, classes)}],
        "TripletMarginLoss": [{"margin": 0.0, "epsilon": 0.0, "weight": -3.0}],
    }
    plain = losses_of(name)
    return plain + [remade(plain[0], **changes) for changes in changed.get(name, [])]


@over_alone
def test_columns_have_the_bits_of_rows(name):
    for shape in SHAPES:
        for number, loss in enumerate(cases(name, shape[1])):
            dtypes = (np.float64, DTYPES[number % 3]) if shape[0] == 70 else (np.float32,)
            for dtype in dtypes:
                inputs = example(loss, shape, dtype=dtype, seed=number)
                compare(loss, inputs, column_major(inputs))


def compare(loss: rl.Loss, inputs: dict[str, Any], columns: dict[str, Any]) -> None:
    """Assert that calls in two orders give the same bits, whatever is asked for."""
    expected = everything(loss, inputs)
    assert_same_bits(everything(loss, columns), expected)
    upstream = {"grad_output": np.full(np.shape(expected["value"]), -0.5)}
    assert_same_bits(everything(loss, columns, **upstream), everything(loss, inputs, **upstream))
    for wrt in differentiable(loss, inputs):
        grads = [np.asarray(loss.grad(**each, wrt=wrt)) for each in (columns, inputs)]
        assert_same_bits({wrt: grads[0]}, {wrt: grads[1]})
        if grads[0].ndim == 2:
            assert grads[0].flags.f_contiguous
    values = [np.asarray(loss(**each)) for each in (columns, inputs)]
    assert_same_bits({"value": values[0]}, {"value": values[1]})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 70, 9), (3, 6, 128)])
@pytest.mark.parametrize(
    "loss",
    [
        *(rl.CosineEmbeddingLoss(axis=1), rl.SoftmaxCELoss(axis=1)),
        *(rl.SoftmaxCELoss(axis=1, sparse_label=False), rl.KLDivLoss(from_logits=False, axis=1)),
    ],
    ids=["cosine", "classes", "distributions", "divergence"],
)
def test_an_inner_axis_has_the_bits_of_the_last(loss, shape, dtype):
    """Blocks of columns end where the runs of an inner axis do."""
    inputs = example(loss, shape, dtype=dtype)
    moved = {
        key: np.ascontiguousarray(np.moveaxis(array, 1, -1)).swapaxes(1, -1)
        if array.ndim == 3
        else array
        for key, array in inputs.items()
    }
    assert_same_bits(everything(loss, moved), everything(loss, inputs))


@over_alone
def test_rows_out_of_the_ordinary(name):
    """Weights of 0, infinite and missing numbers, vectors too long or too short for squares."""
    for number, loss in enumerate(cases(name, 9)):
        inputs = example(loss, (130, 9), dtype=np.float32, seed=number)
        first = differentiable(loss, inputs)[0]
        for change in (0.0, np.inf, -np.inf, np.nan, 1e30, 1e-30):
            for row in (0, 129):
                changed = dict(inputs)
                changed[first] = inputs[first].copy()
                with np.errstate(invalid="ignore"):
                    changed[first][row] *= np.float32(change)
                assert_same_outcome(loss, changed)
        weight = np.ones(130, np.float32)
        weight[[3, 77]] = 0, 1e38
        weighted = {**inputs, "sample_weight": weight}
        assert_same_outcome(loss, weighted)


def assert_same_outcome(loss: rl.Loss, inputs: dict[str, Any]) -> None:
    """Assert the same bits, or the same error."""
    try:
        expected = everything(loss, inputs)
    except rl.errors.LabelError as error:
        with pytest.raises(rl.errors.LabelError, match=re.escape(str(error))):
            everything(loss, column_major(inputs))
    else:
        assert_same_bits(everything(loss, column_major(inputs)), expected)


@over_alone
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_over_their_input(name, dtype):
    logits = {"KLDivLoss": {"from_logits": False}}
    loss: Any = spec_of(name).cls(**logits.get(name, {}))
    inputs = example(loss, (100, 12), dtype=dtype)
    if not may_overwrite(loss):
        pytest.skip("only where a gradient may take its input's place")
    expected = loss.value_and_grad(**inputs)
    pred = np.asfortranarray(inputs["pred"])
    value, grad = loss.value_and_grad(**{**inputs, "pred": pred}, grad_out=pred)
    assert grad is pred
    assert_same_bits({0: value, 1: grad}, dict(enumerate(expected)))


def may_overwrite(loss: Any) -> bool:
    inputs = example(loss, (2, 3))
    if "pred" not in inputs:
        return False
    try:
        loss.value_and_grad(**inputs, grad_out=inputs["pred"])
    except (rl.errors.CallError, ValueError):
        return False
    return True


def test_a_wrong_label_is_named_in_c_order():
    label = np.full((100, 3), 1 / 3, np.float32, order="F")
    label[70, 1] = label[71, 0] = -1
    pred = np.zeros((100, 3), np.float32, order="F")
    with pytest.raises(rl.errors.LabelError, match=r"\[70, 1\]"):
        rl.KLDivLoss(from_logits=False)(pred, label)
    weight = np.ones(100, np.float32)
    weight[70] = 0
    with pytest.raises(rl.errors.LabelError, match=r"\[71, 0\]"):
        rl.KLDivLoss(from_logits=False)(pred, label, weight)
    sign = np.ones(100, np.float32)
    sign[99] = 2
    with pytest.raises(rl.errors.LabelError, match=r"\[99\]"):
        rl.CosineEmbeddingLoss()(pred, pred, sign)


#: Lines for all lanes and a few more, stacks below and beside one another, a short last block.
SHARED = [
    (95, 300),
    (300, 95),
    (1000, 700),
    (70, 1050),
    (1100, 95),
    (2100, 70),
    (40, 2049),
    (1, 5000),
]


@pytest.mark.parametrize("shape", SHARED)
@pytest.mark.parametrize("order", ["FF", "CF", "FC"])
def test_threads_that_share_samples_change_no_bit(shape, order):
    rng = np.random.default_rng(0)
    draws = [rng.standard_normal(shape) * 10.0 ** rng.integers(-20, 20, shape) for _ in "ab"]
    weights = [None, rng.uniform(0, 2, shape[0]) * (rng.random(shape[0]) > 0.1)]
    weights += [rng.uniform(0, 2, shape) * (rng.random(shape) > 0.1)]
    for dtype in (np.float64, np.float32, np.float16):
        arrays = [
            x.astype(dtype) if dtype != np.float16 else np.tanh(x).astype(dtype) for x in draws
        ]
        for reduction in ("sample", "sum", "mean"):
            loss = rl.LogisticLoss(reduction=reduction, out_of_range="allow")
            for weight in weights:
                expected = everything(
                    loss, dict(zip(("pred", "label"), arrays, strict=True), sample_weight=weight)
                )
                given = [np.asarray(x, order=o) for x, o in zip(arrays, order, strict=True)]
                for threads in (1, 2, 3, 4, 8):
                    with rl.num_threads(threads):
                        inputs = dict(
                            zip(("pred", "label"), given, strict=True), sample_weight=weight
                        )
                        assert_same_bits(everything(loss, inputs), expected)

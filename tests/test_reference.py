"""The library against the float64 oracle over random calls, and the oracle against itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rustloss as rl
from reference import draws
from rustloss.testing._registry import specs
from rustloss.testing.oracles import evaluate

TOLERANCE = {np.float64: 1e-13, np.float32: 4e-6}
"""Relative to the largest number of the call; the terms behind a result may cancel."""
DIFFERENCE_STEP = 1e-5
DIFFERENCE = 1e-8
"""Central differences: rounding over the step, relative to the largest number of the call."""

over_losses = pytest.mark.parametrize("name", draws.LOSSES)
random_calls = settings(deadline=None, max_examples=100)
INF, NAN = np.inf, np.nan


def titles(cases: dict[str, Any]) -> list[str]:
    """Name cases by their loss, which comes first in them, and what they are."""
    return [f"{case[0]}-{title}" for title, case in cases.items()]


def to_dtype(inputs: dict[str, Any], wrt: tuple[str, ...], dtype: Any) -> list[Any]:
    """Give the differentiable inputs the dtype; labels, lengths and None stay as they are."""
    return [x.astype(dtype) if key in wrt else x for key, x in inputs.items()]


def largest(*arrays: Any) -> float:
    """Return the largest finite size among the arrays, at least 1."""
    sizes = (np.abs(x[np.isfinite(x)]).max(initial=0) for x in map(np.asarray, arrays))
    return max(1.0, *map(float, sizes))


def assert_same(actual: Any, expected: Any, dtype: Any, scale: float) -> None:
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@over_losses
@random_calls
@given(st.data())
def test_library_is_the_oracle(name: str, dtype: Any, data: st.DataObject) -> None:
    draw = draws.Draw(data.draw, smooth=False)
    call = draws.call(draw, name)
    shape = evaluate(name, call.params, **call.inputs, **call.named).value.shape
    grad_output = draw.pick(0.5, draw.random.integers(1, 5, shape) / 4)
    value, grads, hess = evaluate(
        name, call.params, **call.inputs, **call.named, grad_output=grad_output
    )
    wrt = tuple(grads)
    scale = largest(value, *grads.values(), *(call.inputs[key] for key in wrt))
    loss = getattr(rl, name)(**call.params)
    args = dict(zip(call.inputs, to_dtype(call.inputs, wrt, dtype), strict=True))

    ours, slopes = loss.value_and_grad(**args, **call.named, wrt=wrt, grad_output=grad_output)
    assert_same(ours, value, dtype, scale)
    for key, slope in zip(wrt, slopes, strict=True):
        assert_same(slope, grads[key], dtype, scale)
    np.testing.assert_array_equal(loss(**args, **call.named), ours)
    if hess is not None:
        grad, bend = loss.grad_hess(**args, **call.named, grad_output=grad_output)
        assert_same(grad, grads[wrt[0]], dtype, scale)
        assert_same(bend, hess, dtype, largest(hess, scale))


@over_losses
@random_calls
@given(st.data())
def test_oracle_gradient_is_its_derivative(name: str, data: st.DataObject) -> None:
    draw = draws.Draw(data.draw, smooth=True)
    call = draws.call(draw, name)
    value, grads, _ = evaluate(name, call.params, **call.inputs, **call.named)
    grad_output = draw.random.integers(1, 5, value.shape) / 4
    _, grads, _ = evaluate(name, call.params, **call.inputs, **call.named, grad_output=grad_output)

    def total(key: str, by: Any) -> Any:
        moved = {**call.inputs, key: call.inputs[key] + by}
        return (evaluate(name, call.params, **moved, **call.named).value * grad_output).sum()

    for key, grad in grads.items():
        step = DIFFERENCE_STEP * draw.random.choice([-1.0, 1.0], call.inputs[key].shape)
        difference = (total(key, step) - total(key, -step)) / 2
        scale = largest(grad, value, call.inputs[key]) * max(1, grad.size)
        assert abs(difference - (grad * step).sum()) <= DIFFERENCE * DIFFERENCE_STEP * scale


@over_losses
@random_calls
@given(st.data())
def test_oracle_hessian_is_the_derivative_of_its_gradient(name: str, data: st.DataObject) -> None:
    draw = draws.Draw(data.draw, smooth=True)
    call = draws.call(draw, name)
    _, grads, hess = evaluate(name, call.params, **call.inputs, **call.named)
    key = next(iter(call.inputs))
    if hess is None:
        assert not specs()[name].hess
        return
    for index in np.ndindex(hess.shape):
        step = np.zeros(hess.shape)
        step[index] = DIFFERENCE_STEP
        ahead, behind = (
            evaluate(name, call.params, **moved, **call.named).grads[key][index]
            for moved in ({**call.inputs, key: call.inputs[key] + by} for by in (step, -step))
        )
        difference = (ahead - behind) / (2 * DIFFERENCE_STEP)
        assert abs(difference - hess[index]) <= DIFFERENCE * largest(grads[key], hess)


KINKS = [
    ("L1Loss", {}, [[2.0], [2.0]], [0.0], [0.0]),
    ("HuberLoss", {"rho": 2}, [[-2.0, 2.0], [0.0, 0.0]], [-1.0, 1.0], [0.0, 0.0]),
    ("HingeLoss", {}, [[1.0, -1.0], [1.0, -1.0]], [0.0, 0.0], [0.0, 0.0]),
    ("SquaredHingeLoss", {}, [[1.0, -1.0], [1.0, -1.0]], [0.0, 0.0], [0.0, 0.0]),
    ("TripletLoss", {"margin": 3}, [[[1.0, 0.0]], [[1.0, 1.0]], [[1.0, 2.0]]], [[0.0, 0.0]], None),
    ("CosineEmbeddingLoss", {}, [[[3.0, 0.0]], [[0.0, 2.0]], [-1.0]], [[0.0, 0.0]], None),
    ("CategoricalHingeLoss", {}, [[[2.0, 1.0, 1.0]], [0]], [[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]),
    ("CategoricalHingeLoss", {}, [[[1.5, 1.0, 1.0]], [0]], [[-1.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]]),
    ("GaussianNLLLoss", {"epsilon": 0.5}, [[1.0], [0.0], [0.5]], [2.0], [2.0]),
    ("MarginRankingLoss", {"margin": 1.0}, [[2.0], [1.0], [1.0]], [0.0], [0.0]),
    ("HingeEmbeddingLoss", {}, [[1.0, 1.0], [-1.0, 1.0]], [0.0, 1.0], [0.0, 0.0]),
    ("MultiMarginLoss", {}, [[[2.0, 1.0, 1.0]], [0]], [[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]),
    ("MultiMarginLoss", {"p": 2}, [[[2.0, 1.0, 1.0]], [0]], [[0.0] * 3], [[0.0] * 3]),
    ("MultiLabelMarginLoss", {}, [[[2.0, 1.0]], [[0, -1]]], [[0.0, 0.0]], [[0.0, 0.0]]),
    (
        "TripletMarginLoss",
        {"epsilon": 0},
        [[[0.0, 0.0]], [[0.0, 2.0]], [[3.0, 0.0]]],
        [[0.0, 0.0]],
        None,
    ),
    # A distance of 0 has slope 0.
    (
        "TripletMarginLoss",
        {"epsilon": 0, "margin": 4},
        [[[0.0, 0.0]], [[0.0, 0.0]], [[3.0, 0.0]]],
        [[1.0, 0.0]],
        None,
    ),
    ("MultiQuantileLoss", {}, [[[1.0, 2.0]], [2.0]], [[-0.125, 0.0]], [[0.0, 0.0]]),
    ("CRPSLoss", {}, [[[1.0, 1.0, 2.0, 3.0]], [2.0]], [[-0.125, -0.125, -0.0625, 0.0625]], None),
]


@pytest.mark.parametrize(("name", "params", "inputs", "grad", "hess"), KINKS)
def test_kinks(name: str, params: dict[str, Any], inputs: Any, grad: Any, hess: Any) -> None:
    oracle = evaluate(name, params, *inputs)
    np.testing.assert_array_equal(next(iter(oracle.grads.values())), grad)
    loss = getattr(rl, name)(**params)
    value, ours = loss.value_and_grad(*inputs)
    np.testing.assert_array_equal(value, oracle.value)
    np.testing.assert_array_equal(ours[0] if isinstance(ours, tuple) else ours, grad)
    if hess is not None:
        np.testing.assert_array_equal(oracle.hess, hess)
        np.testing.assert_array_equal(loss.grad_hess(*inputs)[1], hess)


ENDS = np.array([-INF, -1000.0, -40.0, -0.0, 0.0, 40.0, 1000.0, INF])
EXTREMES = {
    "l1": ("L1Loss", {}, ENDS, 1.0),
    "l2": ("L2Loss", {}, ENDS, 1.0),
    "huber": ("HuberLoss", {}, ENDS, 1.0),
    "hinge up": ("HingeLoss", {}, ENDS, 1.0),
    "hinge down": ("HingeLoss", {}, ENDS, -1.0),
    "squared hinge": ("SquaredHingeLoss", {}, ENDS, 1.0),
    "logistic up": ("LogisticLoss", {}, ENDS, 1.0),
    "logistic down": ("LogisticLoss", {}, ENDS, -1.0),
    "bce 0": ("SigmoidBinaryCrossEntropyLoss", {}, ENDS, 0.0),
    "bce 1": ("SigmoidBinaryCrossEntropyLoss", {}, ENDS, 1.0),
    "bce soft": ("SigmoidBinaryCrossEntropyLoss", {}, ENDS, 0.25),
    "bce probability 0": (
        "SigmoidBinaryCrossEntropyLoss",
        {"from_sigmoid": True},
        np.array([0.0, 0.5, 1.0]),
        0.0,
    ),
    "bce probability 1": (
        "SigmoidBinaryCrossEntropyLoss",
        {"from_sigmoid": True},
        np.array([0.0, 0.5, 1.0]),
        1.0,
    ),
    "poisson 0": ("PoissonNLLLoss", {}, ENDS, 0.0),
    "poisson 3": ("PoissonNLLLoss", {}, ENDS, 3.0),
    "poisson full": ("PoissonNLLLoss", {"compute_full": True}, ENDS, 3.0),
    "poisson rate": (
        "PoissonNLLLoss",
        {"from_logits": False},
        np.array([0.0, 1.0, INF]),
        0.0,
    ),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("name", "params", "pred", "label"), EXTREMES.values(), ids=titles(EXTREMES)
)
def test_extremes(name: str, params: dict[str, Any], pred: Any, label: float, dtype: Any) -> None:
    labels = np.full(pred.shape, label)
    value, grads, hess = evaluate(name, params, pred, labels)
    assert hess is not None
    assert not np.isnan(value).any()
    assert not np.isnan(grads["pred"]).any()
    loss = getattr(rl, name)(**params)
    ours, grad = loss.value_and_grad(pred.astype(dtype), labels)
    # relative for each number: tails keep their digits
    rtol = TOLERANCE[dtype]
    np.testing.assert_allclose(ours, value, rtol=rtol)
    np.testing.assert_allclose(grad, grads["pred"], rtol=rtol)
    np.testing.assert_allclose(loss.grad_hess(pred.astype(dtype), labels)[1], hess, rtol=rtol)


ROWS = np.array(
    [
        [0.0, 1000.0, -1000.0],
        [-INF, 0.0, 1.0],
        [0.0, INF, 5.0],
        [0.0, 60.0, -60.0],
        # in float64 the square of exp(-385) is 0, and exp(-730) is subnormal
        [0.0, 385.0, 0.0],
        [0.0, 730.0, 0.0],
    ]
)


ON_ROWS = {
    "cross-entropy": ("SoftmaxCrossEntropyLoss", {}),
    "focal, gamma 0": ("SoftmaxFocalLoss", {"gamma": 0.0}),
    "focal, gamma 0.5": ("SoftmaxFocalLoss", {"gamma": 0.5}),
    "focal, gamma 2": ("SoftmaxFocalLoss", {}),
    "poly": ("PolyLoss", {}),
    "poly, epsilon -1": ("PolyLoss", {"epsilon": -1.0}),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize(("name", "params"), ON_ROWS.values(), ids=titles(ON_ROWS))
def test_extreme_rows(name: str, params: dict[str, Any], label: int, dtype: Any) -> None:
    labels = np.full(len(ROWS), label)
    value, grads, hess = evaluate(name, params, ROWS, labels)
    assert hess is not None
    assert not np.isnan(value).any()
    loss = getattr(rl, name)(**params)
    ours, grad = loss.value_and_grad(ROWS.astype(dtype), labels)
    # below the smallest normal number digits run out
    tiny = float(np.finfo(dtype).tiny)
    bend = loss.grad_hess(ROWS.astype(dtype), labels)[1]
    pairs: list[tuple[Any, Any]] = [(ours, value), (grad, grads["pred"]), (bend, hess)]
    sizes: list[Any] = [0.0, 0.0, 0.0]
    if name == "PolyLoss":
        # the oracle's terms, which are cross-entropy's in size, may cancel, where the loss's do not
        surprise, slopes, own = evaluate("SoftmaxCrossEntropyLoss", {}, ROWS, labels)
        terms: list[Any] = [surprise, slopes["pred"], own]
        sizes = [np.where(np.isfinite(x), abs(x), 0) for x in terms]
    for (found, expected), size in zip(pairs, sizes, strict=True):
        with np.errstate(invalid="ignore"):
            error = abs(found - expected)
        room = TOLERANCE[dtype] * abs(expected) + np.finfo(float).eps * size + tiny
        assert ((found == expected) | (error <= room)).all(), (found, expected)


ONES = np.ones((2, 3))
BAD_CALLS = {
    "transposed label": ("L1Loss", {}, (ONES, ONES.T), {}),
    "label of another size": ("L2Loss", {}, (ONES, np.ones(2)), {}),
    "weights by feature": ("L1Loss", {}, (ONES, ONES), {"sample_weight": np.ones(3)}),
    "weights too many": ("L1Loss", {}, (ONES, ONES), {"sample_weight": np.ones((4, 2, 3))}),
    "negative weight": ("L1Loss", {}, (ONES, ONES), {"sample_weight": [1.0, -1.0]}),
    "infinite weight": ("L1Loss", {}, (ONES, ONES), {"sample_weight": [1.0, INF]}),
    "weight is NaN": ("L1Loss", {}, (ONES, ONES), {"sample_weight": NAN}),
    "class too large": ("SoftmaxCrossEntropyLoss", {}, (ONES, [0, 3]), {}),
    "class negative": ("SoftmaxCrossEntropyLoss", {}, (ONES, [0, -1]), {}),
    "class fractional": ("SoftmaxCrossEntropyLoss", {}, (ONES, [0, 1.5]), {}),
    "class is NaN": ("SoftmaxCrossEntropyLoss", {}, (ONES, [0, NAN]), {}),
    "clipped class is NaN": (
        "SoftmaxCrossEntropyLoss",
        {"out_of_range": "clip"},
        (ONES, [0, NAN]),
        {},
    ),
    "one-hot as sparse": ("SoftmaxCrossEntropyLoss", {}, (ONES, ONES), {}),
    "classes along the batch": ("SoftmaxCrossEntropyLoss", {"axis": 0}, (ONES, [0, 0, 0]), {}),
    "focal class too large": ("SoftmaxFocalLoss", {}, (ONES, [0, 3]), {}),
    "focal weights too few": ("SoftmaxFocalLoss", {"alpha": [1.0, 2.0]}, (ONES, [0, 1]), {}),
    "poly class fractional": ("PolyLoss", {}, (ONES, [0, 1.5]), {}),
    "hinge class is NaN": ("CategoricalHingeLoss", {}, (ONES, [0, NAN]), {}),
    "hinge without classes": ("CategoricalHingeLoss", {}, (np.ones((2, 0)), [0, 0]), {}),
    "multi-margin class too large": ("MultiMarginLoss", {}, (ONES, [0, 3]), {}),
    "multi-margin weights too few": (
        "MultiMarginLoss",
        {"class_weight": [1.0, 2.0]},
        (ONES, [0, 1]),
        {},
    ),
    "set of too large a class": ("MultiLabelMarginLoss", {}, (ONES, [[0, 3, -1], [-1, 0, 0]]), {}),
    "set without an end": ("MultiLabelMarginLoss", {}, (ONES, [[0, -2, -1], [-1, 0, 0]]), {}),
    "soft margin without classes": (
        "MultiLabelSoftMarginLoss",
        {},
        (np.ones((2, 0)), np.ones((2, 0))),
        {},
    ),
    "soft margin label": ("MultiLabelSoftMarginLoss", {}, (ONES, 2 * ONES), {}),
    "quantiles too few": ("MultiQuantileLoss", {"quantiles": [0.5]}, (ONES, [0, 0]), {}),
    "quantiles of nothing": ("MultiQuantileLoss", {}, (np.ones((2, 0)), [0, 0]), {}),
    "a label for each member": ("CRPSLoss", {}, (ONES, ONES), {}),
    "ensembles of nothing": ("CRPSLoss", {}, (np.ones((2, 0)), [0, 0]), {}),
    "no classes": ("SoftmaxCrossEntropyLoss", {}, (np.ones((2, 0)), [0, 0]), {}),
    "KL label by row": ("KLDivLoss", {}, (ONES, np.ones((2, 1))), {}),
    "KL label negative": ("KLDivLoss", {}, (ONES, -ONES), {}),
    "KL label is NaN": ("KLDivLoss", {"from_logits": False}, (ONES, NAN * ONES), {}),
    "KL log-label is NaN": ("KLDivLoss", {"log_target": True}, (ONES, NAN * ONES), {}),
    "unknown reduction": ("L1Loss", {"reduction": "average"}, (ONES, ONES), {}),
    "target_mean without targets": ("L1Loss", {"reduction": "target_mean"}, (ONES, ONES), {}),
    "label_format": ("LogisticLoss", {"label_format": "onehot"}, (ONES, ONES), {}),
    "cosine label": ("CosineEmbeddingLoss", {}, (ONES, ONES, [1, 0]), {}),
    "one sample for SDML": ("SDMLLoss", {}, (ONES[:1], ONES[:1]), {}),
    "label equals blank": ("CTCLoss", {}, (np.ones((1, 4, 3)), [[0, 2]]), {}),
    "label past the classes": ("CTCLoss", {}, (np.ones((1, 4, 3)), [[0, 3]]), {}),
    "infeasible": ("CTCLoss", {"infeasible": "raise"}, (np.ones((1, 2, 3)), [[0, 0]]), {}),
}


@pytest.mark.parametrize(
    ("name", "params", "args", "named"), BAD_CALLS.values(), ids=titles(BAD_CALLS)
)
def test_bad_calls_raise(name: str, params: dict[str, Any], args: Any, named: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the oracle only says that it is wrong
        evaluate(name, params, *args, **named)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its class is checked below
        getattr(rl, name)(**params).value_and_grad(*args, **named)
    assert isinstance(caught.value, rl.errors.ArgumentError)

"""Derivatives with respect to logits whose probability is subnormal, magnified by a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import rustloss as rl
from reference.exact import Truth, truth, ulp_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOUND = 8.0
"""In ulp, whatever the range of the logits is: a weight does not add to it."""
WEIGHT = 20
"""The exponent of the weight of each row, a power of two, which rounds nothing itself."""
GAPS = {"float32": (80.0, 115.0), "float64": (700.0, 760.0)}
"""How far below the largest logit of its row the others are."""

CE = "SoftmaxCrossEntropyLoss"
CASES: dict[str, tuple[str, dict[str, Any], float]] = {
    "cross-entropy": (CE, {}, BOUND),
    "class weights": (CE, {"class_weight": None}, BOUND),
    "smoothed": (CE, {"class_weight": None, "label_smoothing": 0.1}, BOUND),
    "z-loss": (CE, {"z_loss": 0.25}, BOUND),
    "z-loss, smoothed": (CE, {"z_loss": 0.25, "class_weight": None, "label_smoothing": 0.1}, BOUND),
    "distribution": (CE, {"sparse_label": False}, BOUND),
    "distribution, z-loss": (CE, {"sparse_label": False, "z_loss": 0.25}, BOUND),
    # The power of 1 - p has gamma times its error, which is 3.
    "focal": ("SoftmaxFocalLoss", {"gamma": 2.0}, BOUND + 6),
    "focal, gamma = 0.5": ("SoftmaxFocalLoss", {"gamma": 0.5}, BOUND + 1.5),
    "focal, gamma = 0.1": ("SoftmaxFocalLoss", {"gamma": 0.1}, BOUND + 0.3),
    "poly": ("PolyLoss", {"epsilon": 2.0}, BOUND),
    "poly, epsilon = 1": ("PolyLoss", {"epsilon": 1.0}, BOUND),
    "poly, epsilon = -1": ("PolyLoss", {"epsilon": -1.0}, BOUND),
    "divergence": ("KLDivLoss", {"from_logits": False}, BOUND),
    "divergence, warm": ("KLDivLoss", {"from_logits": False, "temperature": 3.0}, BOUND),
    "divergence, cold": ("KLDivLoss", {"from_logits": False, "temperature": 0.5}, BOUND),
}
LAYOUTS = ["C", "F", "axis 0"]

over_cases = pytest.mark.parametrize("case", CASES)
over_dtypes = pytest.mark.parametrize("dtype", GAPS)
over_shapes = pytest.mark.parametrize("shape", [(3, 7), (70, 7), (3, 40), (70, 40)], ids=str)


def of_case(case: str, classes: int) -> tuple[str, dict[str, Any], float]:
    """Return loss, parameters and bound, with weights of so many classes."""
    name, params, bound = CASES[case]
    weights = np.resize([0.0, 0.5, 1.0, 3.0, 0.7, 2.0, 1.3], classes)
    given = {"class_weight": tuple(weights.tolist())} if "class_weight" in params else {}
    return name, {**params, **given}, bound


def drawn(
    loss: str, params: dict[str, Any], dtype: str, shape: tuple[int, int]
) -> dict[str, NDArray[Any]]:
    """Draw rows in which all classes but one are improbable, or half of them are."""
    (rows, classes), rng = shape, np.random.default_rng([*shape, *loss.encode()])
    gaps = rng.uniform(*GAPS[dtype], shape) * params.get("temperature", 1.0)
    gaps[::2] *= rng.random(gaps[::2].shape) < 0.5
    gaps[np.arange(rows), rng.integers(0, classes, rows)] = 0
    pred = (rng.uniform(-9, 9, (rows, 1)) - gaps).astype(dtype)
    if loss != "KLDivLoss" and params.get("sparse_label", True):
        return {"pred": pred, "label": rng.integers(0, classes, rows)}
    # Sums of labels are far from 1 in places.
    label = rng.dirichlet(np.ones(classes), rows) * (gaps < 1)
    return {"pred": pred, "label": label.astype(dtype)}


def derivatives(
    name: str, params: dict[str, Any], layout: str, given: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the gradient by three methods and the second derivative, in C order."""
    axis = {"axis": 0, "batch_axis": 1} if layout == "axis 0" else {}
    loss = getattr(rl, name)(**params, **axis, reduction="none")

    def turn(x: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(x.T if axis and x.ndim == 2 else x)

    lay = np.asfortranarray if layout == "F" else turn
    arrays = {key: lay(x) for key, x in given.items()}
    first, hess = loss.grad_hess(**arrays)
    results = {
        "pred": loss.value_and_grad(**arrays)[1],
        "grad": loss.grad(**arrays),
        "first": first,
        "hess": hess,
    }
    return {key: turn(x) for key, x in results.items()}


def heavier(exact: Truth) -> Truth:
    """Return what is exact times the weight."""
    return exact._replace(exponent=exact.exponent + WEIGHT, against=exact.against + WEIGHT)


@over_shapes
@over_dtypes
@over_cases
def test_a_weight_shows_no_digits_that_are_lost(case, dtype, shape):
    name, params, bound = of_case(case, shape[1])
    given = drawn(name, params, dtype, shape)
    exact = truth(name, params, given, ["pred", "hess"])
    given["sample_weight"] = np.full(shape[0], 2.0**WEIGHT, dtype)
    for layout in LAYOUTS:
        results = derivatives(name, params, layout, given)
        for key, numbers in exact.items():
            error = ulp_error(results[key], heavier(numbers)).max()
            print(f"{layout}, {key}: {error:.2f} ulp")
            assert error <= bound, (layout, key)


@over_shapes
@over_dtypes
@over_cases
def test_layouts_and_methods_give_the_same_bits(case, dtype, shape):
    name, params, _ = of_case(case, shape[1])
    rng = np.random.default_rng([*shape, *case.encode()])
    for odd in None, np.nan, -np.nan, np.inf:
        given = drawn(name, params, dtype, shape)
        given["pred"][rng.random(shape) < 0.2] = -np.inf
        if odd is not None:
            given["pred"][rng.random(shape) < 0.05] = odd
        given["sample_weight"] = (2.0 ** rng.integers(-3, WEIGHT, shape[0])).astype(dtype)
        given["sample_weight"][0] = 0
        results = [derivatives(name, params, layout, given) for layout in LAYOUTS]
        for result in results:
            for key, expected in results[0].items():
                np.testing.assert_array_equal(result[key], expected)
            for key in "grad", "first":
                np.testing.assert_array_equal(result[key], result["pred"])

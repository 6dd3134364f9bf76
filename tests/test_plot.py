"""Curves show what the losses compute."""

import sys

import matplotlib as mpl
import numpy as np
import pytest

import rustloss as rl
from rustloss import _core

mpl.use("agg")

import matplotlib.pyplot as plt

REGISTRY = _core.registry()
ELEMENTWISE = [spec["name"] for spec in REGISTRY if spec["family"] == "elementwise"]

OF_ROWS = [
    "SoftmaxCrossEntropyLoss",
    "SoftmaxFocalLoss",
    "PolyLoss",
    "CategoricalHingeLoss",
    "MultiQuantileLoss",
    "CRPSLoss",
]
"""Losses of a row beside which one class or one number stands."""


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def lines(ax):
    return {line.get_label(): line.get_xydata().T for line in ax.lines}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(ax, name):
    loss = getattr(rl, name)()
    first, *others = [i["name"] for i in loss._inputs if i["required"]]
    rl.plot.curve(loss, *[1.0] * len(others), low=0.25, high=3, points=23, ax=ax)
    drawn = lines(ax)
    x = np.linspace(0.25, 3, 23)
    inputs = {first: x, **dict.fromkeys(others, np.ones_like(x))}
    value, grad = loss.value_and_grad(**inputs, wrt=first)
    np.testing.assert_array_equal(drawn["value"], [x, value])
    np.testing.assert_array_equal(drawn["gradient"], [x, grad])
    hess = loss.grad_hess(**inputs)[1]
    np.testing.assert_array_equal(drawn["second derivative"], [x, hess])


@pytest.mark.loss("SoftmaxCrossEntropyLoss")
@pytest.mark.parametrize("index", [0, 1, -1])
def test_rowwise(ax, index):
    loss = rl.SoftmaxCrossEntropyLoss()
    rl.plot.curve(loss, label=[1], row=[1, 2, 3], index=index, points=5, ax=ax)
    rows = np.tile([1.0, 2, 3], (5, 1))
    rows[:, index] = x = np.linspace(-4, 4, 5)
    value, grad = loss.value_and_grad(rows, np.ones(5, dtype=int))
    drawn = lines(ax)
    np.testing.assert_array_equal(drawn["value"], [x, value])
    np.testing.assert_array_equal(drawn["gradient"], [x, grad[:, index]])


@pytest.mark.parametrize("reduction", ["none", "sample_sum", "sum", "mean", "weighted_mean"])
def test_reduction_plays_no_part(ax, reduction):
    rl.plot.curve(rl.L2Loss(), ax=ax)
    rl.plot.curve(rl.L2Loss(reduction=reduction), ax=ax)
    plain, reduced = ax.lines[0], ax.lines[3]
    np.testing.assert_array_equal(plain.get_xydata(), reduced.get_xydata())


def test_gallery_has_every_elementwise_loss():
    figure = rl.plot.gallery(columns=2)
    titles = [ax.get_title() for ax in figure.axes]
    plt.close(figure)
    assert {f"{name}()" for name in ELEMENTWISE} <= set(titles)
    assert {f"{name}()" for name in OF_ROWS} <= set(titles)


def test_current_axes(ax):
    plt.sca(ax)
    assert rl.plot.curve(rl.L1Loss()) is ax


@pytest.mark.parametrize("name", ["CTCLoss", "SDMLLoss"])
def test_no_curve(ax, name):
    with pytest.raises(TypeError, match=name):
        rl.plot.curve(getattr(rl, name)(), ax=ax)


def test_input_without_default(ax):
    with pytest.raises(TypeError, match="positive"):
        rl.plot.curve(rl.TripletLoss(), ax=ax)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="rustloss\\[plot\\]"):
        rl.plot.curve(rl.L1Loss())

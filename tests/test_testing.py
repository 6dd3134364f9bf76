"""The helpers for tests see what they should see."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

import rustloss as rl
from rustloss.testing import LAYOUTS, arguments, check_gradient, example, relayout, ulp_distance
from rustloss.testing._gradient import _sides_of_kinks
from rustloss.testing._registry import geometry, ndims, specs

INF, NAN = np.inf, np.nan
PRED, LABEL = np.array([0.5, -1.5, 3.0]), np.array([0.25, 0.5, 0.75])

over_losses = pytest.mark.parametrize("name", list(specs()))


# Distances


@pytest.mark.parametrize(
    ("dtype", "tiny", "eps"),
    [
        (np.float16, 2.0**-24, 2.0**-10),
        (ml_dtypes.bfloat16, 2.0**-133, 2.0**-7),
        (np.float32, 2.0**-149, 2.0**-23),
        (np.float64, 2.0**-1074, 2.0**-52),
    ],
)
def test_ulp_distance(dtype, tiny, eps):
    cases = [
        (1.0, 1.0, 0),
        (0.0, -0.0, 0),
        (1 + eps, 1.0, 1),
        (1 - eps / 2, 1.0, 0.5),
        (-1 - 3 * eps, -1.0, 3),
        (tiny, 0.0, 1),
        (0.0, tiny, 1),
        (-tiny, tiny, 2),
        (5 * tiny, 2 * tiny, 3),
        (2.0, 0.0, 2 / tiny),
        (NAN, NAN, 0),
        (NAN, 1.0, INF),
        (1.0, NAN, INF),
        (INF, INF, 0),
        (INF, -INF, INF),
        (INF, 1.0, INF),
        (1.0, INF, INF),
        (NAN, INF, INF),
    ]
    actual, expected, distance = np.array(cases).T
    with np.errstate(over="ignore"):
        far = ulp_distance(actual.astype(dtype), expected)
    np.testing.assert_array_equal(far, distance)
    assert ulp_distance(dtype(1), 1).shape == ()


def test_ulp_distance_of_more_digits():
    assert ulp_distance(np.float32(1), 1 + 2.0**-24) == 0.5
    assert ulp_distance(np.float64(1), np.longdouble(1) + np.longdouble(2) ** -53) == 0.5
    assert ulp_distance(np.float32(INF), 1e39) == 0
    assert ulp_distance(np.finfo(np.float32).max, 2.0**128) == 1
    assert ulp_distance(np.float32(0), 2.0**-150) == 0.5
    with pytest.raises(TypeError, match="actual: expected floating-point numbers, got dtype int64"):
        ulp_distance(1, 1)


# Gradients


class WrongGradient(rl.L2Loss):
    """A loss whose gradient is off by a hundred-thousandth, in one element."""

    __slots__ = ()

    def value_and_grad(self, *args: Any, **kwargs: Any) -> Any:
        value, grads = super().value_and_grad(*args, **kwargs)
        for grad in grads:
            grad.flat[-1] *= 1 + 1e-5
        return value, grads


class WrongHessian(rl.L2Loss):
    __slots__ = ()

    def grad_hess(self, *args: Any, **kwargs: Any) -> Any:
        grad, hess = super().grad_hess(*args, **kwargs)
        return grad, hess * (1 + 1e-5)


def test_check_gradient_finds_mistakes():
    check_gradient(rl.L2Loss(), PRED, LABEL)
    with pytest.raises(
        AssertionError,
        match=r"WrongGradient\(\): d/dpred at \[2\] is 2\.250.*differences 2\.25 \(step",
    ):
        check_gradient(WrongGradient(), PRED, LABEL)
    with pytest.raises(AssertionError, match=r"WrongGradient\(\): d/dlabel at \[2\]"):
        check_gradient(WrongGradient(), PRED, LABEL, wrt="label")
    check_gradient(WrongGradient(), PRED, LABEL, wrt="label", rtol=1e-4)
    with pytest.raises(AssertionError, match=r"WrongHessian\(\): d2/dpred2 at \[0\] is 1\.00001"):
        check_gradient(WrongHessian(), PRED, LABEL)


def test_check_gradient_leaves_out_kinks_alone():
    here = _sides_of_kinks(rl.HuberLoss(), {"pred": PRED, "label": LABEL})
    np.testing.assert_array_equal(here, [-1, 1, 1])
    check_gradient(rl.L1Loss(), [1.0, 2.0], [1.0, 3.0])
    check_gradient(rl.HuberLoss(rho=0.5), [[1.0, 1.5]], [[1.5, 1.5]])
    with pytest.raises(AssertionError, match=r"d/dpred at \[1\]"):
        check_gradient(rl.L1Loss(), [1.0, 2.0], [1.0, 3.0], atol=-1.0)


def test_check_gradient_of_kinks_alone_fails():
    text = r"L1Loss\(\): d/dpred was not checked, all 2 elements are at kinks"
    with pytest.raises(AssertionError, match=text):
        check_gradient(rl.L1Loss(), [1.0, 2.0], [1.0, 2.0])
    with pytest.raises(AssertionError, match="d/dlabel was not checked"):
        check_gradient(rl.HuberLoss(rho=0.5), [1.0], [1.5], wrt="label")


def test_check_gradient_of_nothing_fails():
    empty = np.zeros((2, 0))
    for loss, pred, label in ((rl.L1Loss(), empty, empty), (rl.SoftmaxCELoss(), empty.T, [])):
        with pytest.raises(AssertionError, match="d/dpred was not checked, there is no element"):
            check_gradient(loss, pred, label)
    with pytest.raises(AssertionError, match=r"d/d\[1\] was not checked, there is no element"):
        check_gradient(lambda x, y: (x.sum() + y.sum(), (x * 0 + 1, y)), [1.0], [])
    with pytest.raises(rl.errors.ParameterError, match=r"wrt: .*'pred', 'label'\), got \(\)"):
        check_gradient(rl.L1Loss(), PRED, LABEL, wrt=())
    with pytest.raises(TypeError, match=r"gradient: expected 1 to 1 gradients, .* got 0"):
        check_gradient(lambda x: (x, ()), PRED)


def test_check_gradient_takes_all_of_a_call():
    check_gradient(
        rl.SigmoidBCELoss(reduction="mean"),
        PRED.astype(np.float16),
        LABEL,
        sample_weight=[1, 0, 2],
        pos_weight=[2.0],
        grad_output=-3.0,
        denominator=7.0,
    )
    check_gradient(rl.L2Loss(), PRED[:, None], LABEL, None, grad_output=[1.0, 0.0, 2.0])
    check_gradient(rl.L2Loss(), 1.0, 2.0)


def with_mistake(x: Any) -> Any:
    """Return the sum of squares, and a gradient that is wrong in some places, in one the most."""
    grad = 2 * x
    grad.flat[1:2] *= 1.001
    grad.flat[2:3] *= 1.1
    return x**2, grad


def test_check_gradient_of_a_function_names_the_worst():
    text = (
        r"with_mistake: d/d\[0\] at \[1, 0\] is 4\.4, by differences 4 "
        r"\(step 0\.000976562\); the worst of 2 that are wrong, of 6"
    )
    with pytest.raises(AssertionError, match=text):
        check_gradient(with_mistake, [[1.0, -1.0], [2.0, 3.0], [4.0, 5.0]])
    check_gradient(with_mistake, [3.0])


def test_check_gradient_of_any_callable():
    check_gradient(lambda x, y: (x * y, (y, x)), [2.0, 3.0], [1, 4])
    check_gradient(
        lambda x, scale: scale * x**2, 3, gradient=lambda x, scale: 2 * scale * x, scale=2
    )
    with pytest.raises(AssertionError, match=r"d/d\[1\] at \[\] is 3, by differences 2 "):
        check_gradient(lambda x, y: (x * y, (y, x + 1)), 2.0, 5.0)
    with pytest.raises(AssertionError, match=r"at \[0\] is nan, by differences 2 "):
        check_gradient(lambda x: (x**2, x * [np.nan]), [1.0])
    with pytest.raises(
        rl.errors.ShapeError, match=r"gradient\[0\]: expected shape \(2,\), got \(\)"
    ):
        check_gradient(lambda x: (x, x.sum()), [1.0, 2.0])
    with pytest.raises(rl.errors.DTypeError, match=r"value: expected float64, .* got float32"):
        check_gradient(lambda x: (x.astype("f"), 1 + 0 * x), [1.0])
    with pytest.raises(rl.errors.ParameterError, match="wrt: expected for a loss alone"):
        check_gradient(lambda x: (x, 1 + 0 * x), [1.0], wrt="x")
    loss = rl.HuberLoss()
    check_gradient(loss, PRED, LABEL, gradient=loss.grad)


@pytest.mark.parametrize("at", [0.0, 1e-5, -7e-4, 3e-4, 1.5e-3])
@pytest.mark.parametrize("slope", [0.0, 1.0, -1.0])
def test_check_gradient_of_a_function_leaves_out_kinks(at, slope):
    def kinked(x: Any) -> Any:
        sides = np.where(x > at, 1.0, np.where(x < at, -1.0, slope))
        return abs(x - at) + np.sin(x), np.where(x == 0, slope, sides) + np.cos(x)

    check_gradient(kinked, [0.0, 1.0, -2.0])
    with pytest.raises(AssertionError, match="was not checked, all 1 elements are at kinks"):
        check_gradient(kinked, [0.0])


@pytest.mark.parametrize(
    "smooth",
    [
        lambda x: (x**2, 2 * x),
        lambda x: (np.cos(x), -np.sin(x)),
        lambda x: (np.logaddexp(0, 30 * x), 30 / (1 + np.exp(-30 * x))),
        lambda x: (1e6 + x**2, 2 * x),
        lambda x: (np.exp(x), np.exp(x)),
    ],
)
def test_check_gradient_leaves_out_no_smooth_point(smooth):
    rng = np.random.default_rng(0)
    points = [0.0, *rng.standard_normal(10), 20.0]
    for x in points:
        check_gradient(smooth, x, rtol=1e-4, atol=1e-6)


# Input


@over_losses
def test_examples_are_valid_and_repeatable(name):
    loss = specs()[name].cls()
    optional = [i.name for i in specs()[name].inputs if i.domain != "Offsets"]
    first, second, other = (example(loss, seed=s, optional=optional) for s in (0, 0, 1))
    assert np.isfinite(loss(**first)).all()
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert any(not np.array_equal(first[key], other[key]) for key in first)
    required = [i.name for i in specs()[name].inputs if i.required]
    assert list(example(loss)) == required
    for key in required:
        if next(i for i in specs()[name].inputs if i.name == key).gradient == "Default":
            assert example(loss, dtype=np.float16)[key].dtype == np.float16


@pytest.mark.parametrize(
    "dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int64]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_what_they_say(layout, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    moved = relayout(array, layout)
    assert moved.shape == array.shape
    np.testing.assert_array_equal(moved, array[[0, 0]] if layout == "broadcast" else array)
    assert not np.shares_memory(moved, array) or layout == "broadcast"
    flags = moved.flags
    assert flags.c_contiguous == (layout in ("C", "read-only", "swapped", "misaligned"))
    assert flags.f_contiguous == (layout == "F")
    assert flags.aligned == (layout != "misaligned")
    assert flags.writeable == (layout not in ("read-only", "broadcast"))
    if dtype != ml_dtypes.bfloat16:
        assert moved.dtype.isnative == (layout != "swapped")
    assert (min(moved.strides) < 0) == (layout == "reversed")
    assert (0 in moved.strides) == (layout == "broadcast")
    assert relayout(1.0, layout) == 1.0


def test_unknown_layout():
    with pytest.raises(ValueError, match=r"layout: expected one of .* got 'spam'"):
        relayout([1.0], "spam")


def drawn(strategy: Any, n: int = 200) -> list[Any]:
    found: list[Any] = []

    @settings(max_examples=n)
    @given(strategy)
    def collect(call: Any) -> None:
        found.append(call)

    collect()
    return found


@over_losses
def test_draws_reach_everything(name):
    # Draws are variations of each other, and some values are rare among them.
    spec, calls = specs()[name], drawn(arguments(name, layouts=True), 250)
    first = spec.inputs[0].name
    arrays = [inputs[first] for _, inputs in calls]
    if spec.family != "sequence":
        assert {a.ndim for a in arrays} == set(ndims(spec.cls()))
    assert {loss.reduction for loss, _ in calls} == set(spec.reductions)
    assert {a.dtype.newbyteorder("=") for a in arrays} == {np.dtype("f4"), np.dtype("f8")}
    assert any(not a.flags.aligned for a in arrays)
    assert any(not a.flags.writeable for a in arrays)
    for entry in spec.inputs:
        if entry.domain != "Offsets":
            given = {entry.name in inputs for _, inputs in calls}
            assert given == ({True} if entry.required else {True, False}), entry.name
    for key, param in spec.params.items():
        flags = {True, False} if param.kind in ("flag", "flag_or") else set()
        assert {loss._params[key] for loss, _ in calls} >= {*param.words, *flags}, key


@over_losses
def test_smooth_draws_stay_away_from_kinks(name):
    for loss, inputs in drawn(arguments(name, smooth=True), 50):
        assert inputs[specs()[name].inputs[0].name].dtype == np.float64
        assert (_sides_of_kinks(loss, inputs) != 0).all()


@over_losses
def test_draws_keep_what_is_given(name):
    made = specs()[name].cls(reduction="sum", weight=3.0)
    for loss, inputs in drawn(arguments(made, given={"sample_weight": True}, dtype=np.float16), 10):
        assert loss is made
        assert "sample_weight" in inputs
        assert inputs[specs()[name].inputs[0].name].dtype == np.float16
    for loss, _ in drawn(arguments(type(made), reduction="none", weight=0.5), 10):
        assert (loss.reduction, loss.weight) == ("none", 0.5)
    shape = {"pairwise": (3, 2), "sequence": (2, 7, 3)}.get(specs()[name].family, (2, 1, 3))
    for loss, inputs in drawn(arguments(name, shape=shape), 10):
        assert inputs[specs()[name].inputs[0].name].shape == shape
        assert np.shape(loss(**inputs)) in {
            (),
            (geometry(loss, shape).n,),
            geometry(loss, shape).unreduced,
        }


@over_losses
@pytest.mark.parametrize("is_given", [True, False])
def test_draws_have_the_optional_inputs_that_are_asked_for(name, is_given):
    optional = specs()[name].optional
    for _, inputs in drawn(arguments(name, given=dict.fromkeys(optional, is_given)), 10):
        assert {key in inputs for key in optional} == {is_given}


def test_draws_of_a_type_and_of_shapes():
    shapes = st.tuples(st.integers(2, 3), st.just(4))
    calls = drawn(arguments("HuberLoss", dtype="bfloat16", shape=shapes), 20)
    assert {inputs["pred"].dtype for _, inputs in calls} == {np.dtype(ml_dtypes.bfloat16)}
    assert {inputs["pred"].shape for _, inputs in calls} == {(2, 4), (3, 4)}
    text = r"given: expected names of optional inputs, \('sample_weight',\), got 'pos_weight'"
    with pytest.raises(rl.errors.ParameterError, match=text):
        arguments("HuberLoss", given={"pos_weight": True})


def simplest(name: str, condition: Any, **options: Any) -> str:
    """Return what hypothesis shrinks a call to of which something is true."""
    shrinking = settings(max_examples=1000, phases=[Phase.generate, Phase.shrink])
    return repr(find(arguments(name, **options), condition, settings=shrinking))


def test_draws_shrink_to_small_calls_with_round_numbers():
    large = simplest("HuberLoss", lambda call: (call.loss(**call.inputs) > 1).any())
    assert large == (
        "Arguments(loss=HuberLoss(reduction='none'), "
        "inputs={'pred': array(0.), 'label': array(2.)})"
    )
    positive = simplest(
        "SigmoidBCELoss",
        lambda call: (call.inputs["pos_weight"] > 1).any(),
        given={"pos_weight": True},
    )
    assert positive == (
        "Arguments(loss=SigmoidBinaryCrossEntropyLoss(reduction='none'), "
        "inputs={'pred': array(0.), 'label': array(0.), 'pos_weight': array(2.)})"
    )


def test_numbers_have_all_their_digits():
    calls = drawn(arguments("L1Loss", shape=(30,), dtype="float64"))
    numbers = np.concatenate([inputs["pred"] for _, inputs in calls])
    is_eighth = numbers * 8 == np.round(numbers * 8)
    assert 0.2 < is_eighth.mean() < 0.8
    assert (np.float32(numbers) != numbers).mean() > 0.2
    assert numbers.min() < -4
    assert numbers.max() > 4


def test_not_a_loss():
    with pytest.raises(TypeError, match="expected a loss of this library"):
        arguments(dict)  # type: ignore[arg-type]


def modules() -> list[str]:
    found = pkgutil.walk_packages(rl.testing.__path__, "rustloss.testing.")
    return [module.name for module in found]


@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_hypothesis_is_asked_for_only_when_needed():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import rustloss as rl; from rustloss import testing\n"
        "testing.check_gradient(rl.L2Loss(), [1.0], [2.0])\n"
        "try: testing.arguments(rl.L2Loss)\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'rustloss[testing]'" in done.stdout


def test_strategies_are_deterministic_here():
    assert settings().derandomize

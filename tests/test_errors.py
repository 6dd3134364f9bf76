"""Bad input raises an error that names the argument, and changes nothing."""

from __future__ import annotations

import pickle
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import rustloss as rl
from rustloss import errors
from rustloss.testing import BadCall, bad_calls, example, relayout
from rustloss.testing._registry import inputs as registered_inputs
from rustloss.testing._registry import specs

LEAST_CASES = 1000
LONGEST_CASE = 1.0
"""Seconds."""
INF, NAN = np.inf, np.nan
L2, HUBER, BCE = rl.L2Loss(), rl.HuberLoss(), rl.SigmoidBCELoss()
CE = rl.SoftmaxCrossEntropyLoss()

over_losses = pytest.mark.parametrize("name", list(specs()))


def arrays_of(call: BadCall) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the arrays of a call with the memory that they lie in."""
    given = list(call.inputs.values())
    while given:
        array = given.pop()
        if isinstance(array, tuple):
            given += array
        elif isinstance(array, np.ndarray):
            yield array
            if isinstance(array.base, np.ndarray):
                given.append(array.base)


def fault_of(call: BadCall) -> str | None:
    """Return what is wrong with how a call fails, None if nothing is."""
    before = [(a, a.tobytes()) for a in arrays_of(call)]
    start = time.perf_counter()
    try:
        result = call()
    except (ValueError, TypeError) as error:
        fault = fault_of_error(call, error)
    except BaseException as error:  # noqa: BLE001 (a panic or an exit is a fault as any other)
        fault = f"raises {error!r}"
    else:
        fault = f"returns {result!r}"
    if fault is None and time.perf_counter() - start > LONGEST_CASE:
        fault = "takes too long"
    if fault is None and any(a.tobytes() != bits for a, bits in before):
        fault = "changes an array"
    return fault and f"{call}: {fault}"


def fault_of_error(call: BadCall, error: Exception) -> str | None:
    if call.argument not in str(error):
        return f"raises {error!r}, which does not name it"
    if type(error) is not call.error:
        return f"raises {error!r}, which is no {call.error.__name__}"
    if error.argument != call.argument:
        return f"blames {error.argument}"
    if not call.element:
        return None
    if error.index is None or error.value is None:
        return f"raises {error!r} without index and value"
    found = np.asarray(call.inputs[call.argument])[error.index]
    if not (float(found) == error.value or (np.isnan(found) and np.isnan(error.value))):
        return f"finds {error.value} at {error.index}, where {found} is"
    return None


@over_losses
def test_every_bad_call_fails_by_name(name):
    faults = [fault for call in bad_calls(name) if (fault := fault_of(call))]
    assert not faults, "\n".join(faults)


def test_there_are_enough_bad_calls():
    assert sum(1 for name in specs() for _ in bad_calls(name)) >= LEAST_CASES


# In words

# Classes whose constructors may be asked for anything.
ANY: type[Any] = rl.L2Loss


def new(kind: Any, **params: Any) -> rl.Loss:
    loss: rl.Loss = kind(**params)
    return loss


def CEW(weights: Any) -> rl.Loss:
    return rl.SoftmaxCrossEntropyLoss(class_weight=weights)


PRED, LABEL = np.ones((2, 3)), np.zeros((2, 3))
DATES, RECORDS = np.ones(2, "M8[s]"), np.ones(2, "f4,f4")
LONG, MASKED = np.ones(2, np.longdouble), np.ma.array(PRED)
READ_ONLY = relayout(np.ones(2), "read-only")
MEAN = rl.L2Loss(reduction="mean")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: rl.HuberLoss(rho=0), r"ParameterError: rho: expected a finite number > 0, got 0"),
        (lambda: rl.HuberLoss(rho=NAN), r"ParameterError: rho: .* > 0, got nan"),
        (lambda: ANY(weight=INF), r"ParameterError: weight: .* finite number, got inf"),
        (lambda: ANY(weight="1"), r"ParameterError: weight: .* got '1'"),
        (lambda: ANY(batch_axis=0.5), r"ParameterError: batch_axis: .* integer, got 0\.5"),
        (lambda: ANY(reduction="avg"), r"ParameterError: reduction: .*'mean'.* got 'avg'"),
        (lambda: ANY(empty="inf"), r"ParameterError: empty: .*\('nan', 'zero'\), got 'inf'"),
        (lambda: ANY(rho=1.0), r"ParameterError: rho: L2Loss has no such parameter"),
        (
            lambda: new(rl.HuberLoss, delta=1.0),
            r"ParameterError: .* has no such parameter; .*; did you mean rho\?",
        ),
        (
            lambda: new(rl.SoftmaxCELoss, dim=1),
            r"ParameterError: .* has no such parameter; .*; did you mean axis\?",
        ),
        (
            lambda: new(rl.HingeLoss, magrin=1.0),
            r"ParameterError: .* has no such parameter; .*; did you mean margin\?",
        ),
        (
            lambda: new(rl.SoftmaxCELoss, weight=[1.0]),
            r"ParameterError: weight: .*; the weights of the classes are class_weight",
        ),
        (lambda: ANY().replace(reduction="maen"), r"ParameterError: reduction: .*mean 'mean'\?"),
        (
            lambda: ANY(reduction="target_mean"),
            r"ParameterError: reduction: .* no target sequences .* got 'target_mean'$",
        ),
        (
            lambda: ANY().replace(reduction=["mean"]),
            r"ParameterError: reduction: expected a word or None, got \['mean'\]",
        ),
        (lambda: rl.SigmoidBCELoss(epsilon=1e-9), r"ParameterError: epsilon: it needs from_sigm"),
        (lambda: ANY(1.0, 0, "none"), r"CallError: .* at most 2 arguments by position, .*, got 3"),
        (
            lambda: ANY(1.0, 0, batch_axis=0, weight=1.0),
            r"CallError: weight: .* one by position and one by name",
        ),
        (rl.Loss, r"TypeError: Loss is the base of all losses"),
        (lambda: L2(PRED), r"CallError: label: missing or None; L2Loss takes"),
        (lambda: L2(None, LABEL), r"CallError: pred: missing or None; L2Loss takes"),
        (
            lambda: L2(PRED, LABEL, label=LABEL),
            r"CallError: label: .* one by position and one by name",
        ),
        (
            lambda: L2(PRED, LABEL, None, 1),
            r"CallError: expected at most 3 arguments, got 4; .*\('pred', ",
        ),
        (
            lambda: L2(PRED, LABEL, wrt="pred"),
            r"CallError: wrt: unexpected argument; L2Loss takes .*'out'",
        ),
        (lambda: L2(PRED, LABEL.T), r"ShapeError: label: .*\(2, 3\).* got shape \(3, 2\)"),
        (lambda: L2(PRED, LABEL[:, :2]), r"ShapeError: label: .* got shape \(2, 2\)"),
        (lambda: L2(PRED, 0.0), r"ShapeError: label: .* got shape \(\)"),
        (lambda: ANY(batch_axis=2)(PRED, LABEL), r"ParameterError: batch_axis: .*-2 to 1, got 2"),
        (lambda: L2(PRED * 1j, LABEL), r"DTypeError: pred: .* real numbers, got dtype complex128"),
        (lambda: L2(PRED, LABEL.astype(object)), r"DTypeError: label: .* got dtype object"),
        (lambda: L2(PRED, [["a", "b"]]), r"DTypeError: label: .*real numbers, got dtype <U1"),
        (lambda: L2("spam", LABEL), r"DTypeError: pred: expected real numbers, got 'spam'"),
        (lambda: L2([[1.0], [1.0, 2.0]], LABEL), r"DTypeError: pred: expected an array of real"),
        (lambda: L2(MASKED, LABEL), r"DTypeError: pred: .*masked array; .* as sample_weight"),
        (lambda: L2(DATES, LABEL), r"DTypeError: pred: .* got dtype datetime64\[s\]"),
        (lambda: L2(RECORDS, LABEL), r"DTypeError: pred: .* got dtype \["),
        (lambda: L2(LONG, LABEL), r"DTypeError: pred: .* 64-bit .* got dtype (longdou|float128)"),
        (lambda: L2(PRED, LABEL, [1, 2, 3]), r"ShapeError: sample_weight: .*\(2,\).* shape \(3,\)"),
        (
            lambda: L2(PRED, LABEL, [1, -2]),
            r"WeightError: sample_weight\[1\]: .* got -2; .*grad_output",
        ),
        (lambda: L2(PRED, LABEL, [[1, 1, NAN]]), r"WeightError: sample_weight\[0, 2\]: .* got nan"),
        (lambda: BCE(PRED, LABEL, None, [1, 1, INF]), r"WeightError: pos_weight\[2\]: .* got inf"),
        (lambda: BCE(PRED, LABEL, None, [1, 1]), r"ShapeError: pos_weight: .* got shape \(2,\)"),
        (
            lambda: L2.value_and_grad(PRED, LABEL, wrt="sample_weight"),
            r"ParameterError: wrt: .*\('pred', 'label'\).* got 'sample_weight'",
        ),
        (
            lambda: BCE.value_and_grad(PRED, LABEL, wrt="pos_weight"),
            r"ParameterError: wrt: .*'pos_weight', which was not given",
        ),
        (
            lambda: L2.value_and_grad(PRED, LABEL, grad_output=[1, 2, 3]),
            r"ShapeError: grad_output: .*\(2,\), got shape \(3,\)",
        ),
        (lambda: L2(PRED, LABEL, denominator=2), r"ParameterError: denominator: .*'mean'"),
        (lambda: MEAN(PRED, LABEL, denominator=0), r"ParameterError: denominator: .* > 0, got 0"),
        (lambda: L2(PRED, LABEL, out=np.ones(3)), r"OutputError: out: .*\(2,\), got shape \(3,\)"),
        (lambda: L2(PRED, LABEL, out=np.ones(2, "f4")), r"OutputError: out: .* got float32"),
        (lambda: L2(PRED, LABEL, out=[0.0, 0.0]), r"OutputError: out: .* array, got list"),
        (lambda: L2(PRED, LABEL, out=READ_ONLY), r"OutputError: out: .*read-only"),
        (
            lambda: L2.value_and_grad(PRED, LABEL, grad_out=PRED[::-1]),
            r"OutputError: grad_out: it overlaps pred; .*may be pred itself, same memory, shape",
        ),
        (
            lambda: L2.value_and_grad(PRED, LABEL, grad_out=LABEL),
            r"OutputError: grad_out: it overlaps label; results need memory of their own$",
        ),
        (
            lambda: CE.value_and_grad(PRED, [0, 1], wrt="label"),
            r"ParameterError: wrt: .* one of \('pred',\) .* class indices have no gradient",
        ),
        (lambda: CE.grad(PRED, [0, 2**53]), r"LabelError: label\[1\]: .* got 9007199254740992"),
        (lambda: rl.TripletLoss().grad_hess(*[PRED] * 3), r"CallError: TripletLoss has no second"),
        (lambda: ANY(reduction="x" * 10**6), r"ParameterError: reduction: .{,350}$"),
        (lambda: CEW([-1.0] * 10**6), r"ParameterError: class_weight: .{,700}$"),
        (lambda: L2("x" * 10**6, LABEL), r"DTypeError: pred: .{,100}$"),
        (lambda: MEAN(PRED, LABEL, denominator=[0] * 10**6), r"ParameterError: denominator.{,99}$"),
        (lambda: ANY(**{"x" * 10**6: 1}), r"ParameterError: x{100}\.\.\.: L2Loss has no such"),
        (lambda: L2(PRED, LABEL, **{"x" * 10**6: 1}), r"CallError: x{100}\.\.\.: unexpected"),
    ],
)
def test_texts(make, text):
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert re.match(text, f"{type(caught.value).__name__}: {caught.value}"), caught.value


def test_what_cannot_change_says_so():
    with pytest.raises(
        AttributeError, match=r"'rho' of HuberLoss is immutable; loss\.replace\(rho"
    ):
        HUBER.rho = 3  # type: ignore[misc]  # what checkers refuse, as they should
    with pytest.raises(AttributeError, match="'weight' of HuberLoss is immutable"):
        del HUBER.weight
    with pytest.raises(AttributeError, match="no attribute 'spam'"):
        HUBER.spam = 3


def test_values_of_integers_are_exact():
    weight = np.array([1, -(2**63) + 1])
    with pytest.raises(errors.WeightError, match="-9223372036854775807") as caught:
        L2(PRED, LABEL, weight)
    assert repr(caught.value.value) == "-9223372036854775807"
    with pytest.raises(errors.WeightError, match=r"got -2\.5") as caught:
        L2(PRED, LABEL, [1, -2.5])
    assert caught.value.value == -2.5


@pytest.mark.parametrize("key", ["\ud800", "pred\udfff", ""])
def test_names_of_any_characters(key):
    with pytest.raises(errors.CallError, match="unexpected argument"):
        L2(PRED, LABEL, **{key: 1})
    with pytest.raises(errors.ParameterError, match="no such parameter"):
        ANY(**{key: 1})
    with pytest.raises(errors.ParameterError, match="wrt"):
        L2.grad(PRED, LABEL, wrt=key)
    with pytest.raises(errors.ParameterError, match="reduction"):
        ANY(reduction=key)


def test_names_that_are_no_words():
    odd: Any = {1: 2}
    with pytest.raises(errors.CallError, match="expected names of arguments, got 1"):
        L2(PRED, LABEL, **odd)


@pytest.mark.parametrize("shape", [(4, 4), (2, 3), (3, 4, 4), (2, 2)])
def test_transposed_label_is_not_taken_silently(shape):
    pred, label = np.zeros(shape), np.swapaxes(np.ones(shape), -1, -2)
    if label.shape == shape:
        L2(pred, label)
    else:
        with pytest.raises(errors.ShapeError, match="label"):
            L2(pred, label)


def test_failure_in_the_last_check_leaves_buffers_alone():
    out, grad_out = np.full(2, 7.0), np.full((2, 3), 7.0)
    with pytest.raises(errors.WeightError):
        L2.value_and_grad(PRED, LABEL, [1, -1], out=out, grad_out=grad_out)
    with pytest.raises(errors.OutputError):
        L2.value_and_grad(PRED, LABEL, out=out, grad_out=grad_out.T)
    assert (out == 7).all()
    assert (grad_out == 7).all()


# Another thread


@over_losses
def test_labels_that_change_during_the_call(name):
    loss = specs()[name].cls()
    if not any(i.name == "label" and i.is_discrete for i in registered_inputs(loss)):
        pytest.skip("has no class labels")
    inputs = example(loss)
    good = inputs["label"].copy()
    # Whatever mixture of the two a call sees, it is one of these.
    bad, stop = np.full_like(good, 10**6), threading.Event()

    def change():
        while not stop.is_set():
            inputs["label"][...] = bad
            inputs["label"][...] = good

    thread = threading.Thread(target=change)
    thread.start()
    try:
        expected = loss.value_and_grad(**{**inputs, "label": good})
        for _ in range(300):
            try:
                value, grad = loss.value_and_grad(**inputs)
            except errors.LabelError as error:
                assert error.value == 10**6  # noqa: PT017 (both outcomes are right)
            else:
                assert_array_equal(value, expected[0])
                assert_array_equal(grad, expected[1])
    finally:
        stop.set()
        thread.join()


# Classes


def test_classes_are_value_or_type_errors():
    for name in errors.__all__:
        cls = getattr(errors, name)
        if cls is errors.InternalError:
            assert issubclass(cls, RuntimeError)
            assert not issubclass(cls, errors.ArgumentError)
        elif cls is not errors.ArgumentError:
            assert issubclass(cls, errors.ArgumentError)
            assert issubclass(cls, ValueError) != issubclass(cls, TypeError)
        assert issubclass(cls, Exception)


@pytest.mark.parametrize("name", [n for n in errors.__all__ if n != "InternalError"])
def test_errors_are_picklable(name):
    error = getattr(errors, name)("label[3, 1]: no", "label", (3, 1), 99.0)
    same = pickle.loads(pickle.dumps(error))
    assert type(same) is type(error)
    assert str(same) == str(error) == "label[3, 1]: no"
    assert (same.argument, same.index, same.value) == ("label", (3, 1), 99.0)


def test_raised_errors_are_picklable():
    with pytest.raises(errors.WeightError) as caught:
        L2(PRED, LABEL, [[1, 1, 1], [1, 1, -3]])
    same = pickle.loads(pickle.dumps(caught.value))
    assert (same.argument, same.index, same.value) == ("sample_weight", (1, 2), -3.0)


@pytest.mark.parametrize(
    ("make", "argument", "needs"),
    [
        (lambda: rl.SoftmaxCELoss(sparse_label=False, ignore_index=1), "ignore_index", True),
        (lambda: rl.SoftmaxCELoss(from_logits=True, z_loss=0.5), "z_loss", False),
        (lambda: rl.SigmoidBCELoss(clamp=True), "clamp", True),
        (lambda: rl.KLDivLoss(log_target=True, epsilon=1e-9), "epsilon", False),
    ],
)
def test_a_parameter_without_a_meaning_says_which_one_it_needs(make, argument, needs):
    with pytest.raises(errors.ParameterError, match=f"{argument}: it needs") as caught:
        make()
    assert caught.value.needs is not None
    other, value = caught.value.needs
    assert (caught.value.argument, value) == (argument, needs)
    assert f" needs {other}={value}, got" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).needs == (other, value)


def test_a_wrong_parameter_needs_no_other():
    with pytest.raises(errors.ParameterError) as caught:
        rl.HuberLoss(rho=0)
    assert caught.value.needs is None


def test_bugs_can_be_caught():
    with pytest.raises(Exception, match="report"):
        raise errors.InternalError("please report it")
    assert str(pickle.loads(pickle.dumps(errors.InternalError("text")))) == "text"

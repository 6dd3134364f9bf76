"""Calls with arrays of other frameworks: who takes them over, and who does not."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import rustloss as rl
from rustloss import _frameworks, errors

L2 = rl.L2Loss()
PRED, LABEL = np.array([1.0, 2.0, 3.0]), np.zeros(3)
METHODS = ["__call__", "value_and_grad", "grad", "grad_hess"]


def tensor(package: str) -> Any:
    """Return an object of a class of that package."""
    return type("Tensor", (), {"__module__": f"{package}.core"})()


def forget() -> None:
    """Forget which classes and adapters have been seen."""
    _frameworks.framework.cache_clear()
    _frameworks._adapter.cache_clear()


@pytest.fixture
def adapters(monkeypatch):
    """Put packages without contents in the place of all frameworks, and adapters that answer."""
    forget()
    for package, name in _frameworks._ADAPTERS.items():
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        adapter = ModuleType(name)
        adapter.call = lambda *call, name=name: (name, *call)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"rustloss.{name}", adapter)
    yield
    forget()


@pytest.mark.usefixtures("adapters")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("package", _frameworks._ADAPTERS)
def test_the_adapter_gets_the_call_as_it_is(package, method):
    array, call = tensor(package), getattr(L2, method)
    name = _frameworks._ADAPTERS[package]
    assert call(array, LABEL) == (name, L2, method, (array, LABEL), {})
    assert call(PRED, label=array) == (name, L2, method, (PRED,), {"label": array})
    args, options = (PRED, LABEL), {"grad_output": array}
    assert call(*args, **options) == (name, L2, method, args, options)


@pytest.mark.usefixtures("adapters")
def test_arrays_of_two_frameworks_are_refused():
    with pytest.raises(errors.DTypeError, match=r"jax \(label\) and torch \(pred\)"):
        L2(tensor("torch"), tensor("jaxlib"))
    assert L2(tensor("jax"), tensor("jaxlib"))[0] == "jax"


@pytest.mark.usefixtures("adapters")
def test_lists_of_two_frameworks_are_refused():
    torch, jax = tensor("torch"), tensor("jaxlib")
    refused: list[tuple[tuple[Any, ...], str]] = [
        ((torch, [jax] * 3), r"jax \(label\) and torch \(pred\)"),
        ((jax, [[1.0], (2.0, torch)]), r"jax \(pred\) and torch \(label\)"),
        ((torch, LABEL, None, jax), r"jax \(\?\) and torch \(pred\)"),
        (([jax, torch], LABEL), r"jax \(pred\) and torch \(pred\)"),
        (([torch], PRED, (1.0, [[[[[jax]]]]])), r"jax \(sample_weight\) and torch \(pred\)"),
    ]
    for args, text in refused:
        with pytest.raises(errors.DTypeError, match=text):
            L2(*args)
    assert L2(torch, [torch, 1.0])[0] == "torch"
    endless: list[Any] = [jax]
    endless += [endless, endless]
    with pytest.raises(errors.DTypeError, match=r"jax \(label\) and torch \(pred\)"):
        L2(torch, endless)


@pytest.mark.usefixtures("adapters")
def test_lists_of_arrays_of_one_framework_are_numpys():
    one = tensor("torch")
    type(one).__array__ = lambda *_, **__: np.ones(())
    type(one).__float__ = lambda _: 1.0
    assert_array_equal(L2([one, one, one], LABEL), [0.5] * 3)


@pytest.mark.usefixtures("adapters")
def test_what_is_no_tensor_of_torch_is_numpys():
    size = type("Size", (tuple,), {"__module__": "torch"})
    dtype = type("dtype", (), {"__module__": "torch"})
    assert_array_equal(L2(size((1, 2, 3)), LABEL), L2(PRED, LABEL))
    assert L2(tensor("torch"), size((0, 0, 0)))[0] == "torch"
    with pytest.raises(errors.DTypeError, match="label: expected real numbers"):
        L2(PRED, dtype())


def test_a_class_of_a_framework_that_is_not_imported_is_like_any_other(monkeypatch):
    forget()
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    array = tensor("torch")
    type(array).__array__ = lambda *_, **__: PRED.copy()
    assert_array_equal(L2(array, LABEL), L2(PRED, LABEL))


def test_calls_on_plain_numbers_do_not_ask(monkeypatch):
    monkeypatch.setattr(_frameworks, "call", None)
    for pred in (PRED, PRED.tolist(), 1, 2.5):
        for method in METHODS:
            getattr(L2, method)(pred, np.asarray(pred), sample_weight=None, denominator=None)


def test_no_framework_is_imported():
    names = {*_frameworks._ADAPTERS, "pandas", "polars", "pyarrow", "sklearn", "scipy"}
    script = f"import rustloss, sys; print(sorted({names} & sys.modules.keys()))"
    run = [sys.executable, "-c", script]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "[]\n"

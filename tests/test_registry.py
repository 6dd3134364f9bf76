"""The registry, the Python classes and Gluon's signatures say the same."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import itertools
import pkgutil
import re
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rustloss as rl
import rustloss.testing
from rustloss import _core, _loss
from rustloss.testing import example
from rustloss.testing._gradient import _sides_of_kinks
from rustloss.testing._registry import REDUCTIONS, specs

#: Name: constructor in Gluon's order with defaults, arguments of the call in Gluon's order.
GLUON: dict[str, tuple[dict[str, Any], list[str]]] = {
    "L1Loss": ({"weight": None, "batch_axis": 0}, ["pred", "label", "sample_weight"]),
    "L2Loss": ({"weight": 1.0, "batch_axis": 0}, ["pred", "label", "sample_weight"]),
    "HuberLoss": (
        {"rho": 1, "weight": None, "batch_axis": 0},
        ["pred", "label", "sample_weight"],
    ),
    "HingeLoss": (
        {"margin": 1, "weight": None, "batch_axis": 0},
        ["pred", "label", "sample_weight"],
    ),
    "SquaredHingeLoss": (
        {"margin": 1, "weight": None, "batch_axis": 0},
        ["pred", "label", "sample_weight"],
    ),
    "LogisticLoss": (
        {"weight": None, "batch_axis": 0, "label_format": "signed"},
        ["pred", "label", "sample_weight"],
    ),
    "SigmoidBinaryCrossEntropyLoss": (
        {"from_sigmoid": False, "weight": None, "batch_axis": 0},
        ["pred", "label", "sample_weight", "pos_weight"],
    ),
    "SoftmaxCrossEntropyLoss": (
        {
            "axis": -1,
            "sparse_label": True,
            "from_logits": False,
            "weight": None,
            "batch_axis": 0,
        },
        ["pred", "label", "sample_weight"],
    ),
    "KLDivLoss": (
        {"from_logits": True, "axis": -1, "weight": None, "batch_axis": 0},
        ["pred", "label", "sample_weight"],
    ),
    "TripletLoss": (
        {"margin": 1, "weight": None, "batch_axis": 0},
        ["pred", "positive", "negative", "sample_weight"],
    ),
    "CTCLoss": (
        {"layout": "NTC", "label_layout": "NT", "weight": None},
        ["pred", "label", "pred_lengths", "label_lengths", "sample_weight"],
    ),
    "CosineEmbeddingLoss": (
        {"weight": None, "batch_axis": 0, "margin": 0},
        ["input1", "input2", "label", "sample_weight"],
    ),
    "PoissonNLLLoss": (
        {"weight": None, "from_logits": True, "batch_axis": 0, "compute_full": False},
        ["pred", "target", "sample_weight", "epsilon"],
    ),
    "SDMLLoss": (
        {"smoothing_parameter": 0.3, "weight": 1.0, "batch_axis": 0},
        ["x1", "x2", "sample_weight"],
    ),
}
ALIASES = {
    "SigmoidBCELoss": "SigmoidBinaryCrossEntropyLoss",
    "SoftmaxCELoss": "SoftmaxCrossEntropyLoss",
}
SECTIONS = ["Parameters", "References", "Examples"]

over_losses = pytest.mark.parametrize("name", list(specs()))
over_gluon = pytest.mark.parametrize("name", list(GLUON))


def classes() -> dict[str, type[rl.Loss]]:
    """Return every public loss by its own name."""
    public = (getattr(rl, name) for name in rl.__all__)
    found = [c for c in public if isinstance(c, type) and issubclass(c, rl.Loss)]
    return {c.__name__: c for c in found if c is not rl.Loss}


def signature(cls: type[rl.Loss]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(cls).parameters)


# Names


def test_registry_and_classes_have_the_same_names():
    assert set(classes()) == set(specs())


@over_losses
def test_classes_are_where_their_family_is(name):
    # A family may be a package of several modules.
    module = importlib.import_module(getattr(rl, name).__module__)
    assert f"{module.__name__}.".startswith(f"rustloss.{specs()[name].family}.")
    assert getattr(module, name) is getattr(rl, name)
    assert name in module.__all__


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases(alias):
    assert getattr(rl, alias) is getattr(rl, ALIASES[alias])
    assert alias in rl.__all__


def test_everything_public_is_there():
    assert len(set(rl.__all__)) == len(rl.__all__)
    for name in rl.__all__:
        assert hasattr(rl, name)
    assert issubclass(rl.Loss, _core.Loss)


# Signatures


@over_losses
def test_defaults_are_those_of_the_registry(name):
    parameters, spec = signature(getattr(rl, name)), specs()[name]
    for key, param in spec.params.items():
        assert parameters[key].default == param.default, key
        assert isinstance(parameters[key].default, bool) == isinstance(param.default, bool), key
    made = getattr(rl, name)()
    expected = {k: p.default for k, p in spec.params.items()}
    shared = {"weight": made.weight, "batch_axis": 0, "reduction": "sample", "empty": "nan"}
    if "batch_axis" not in parameters:
        del shared["batch_axis"]
    assert {k: v for k, v in made._params.items() if k in {*expected, *shared}} == {
        **expected,
        **shared,
    }


@over_losses
def test_constructor_takes_what_the_registry_has(name):
    parameters, spec = signature(getattr(rl, name)), specs()[name]
    shared = {"weight", "batch_axis", "reduction", "empty", "prefix", "params"}
    assert {*parameters} - shared == set(spec.params)
    assert shared - {*parameters} <= {"batch_axis"}


@over_gluon
def test_constructor_has_gluons_order_and_defaults(name):
    assert name in specs(), f"{name} is missing"
    positional = {
        key: parameter.default
        for key, parameter in signature(getattr(rl, name)).items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    expected = GLUON[name][0]
    assert list(positional.items()) == list(expected.items())
    assert [isinstance(v, bool) for v in positional.values()] == [
        isinstance(v, bool) for v in expected.values()
    ]
    assert getattr(rl, name)(*expected.values()) == getattr(rl, name)()


@over_gluon
def test_call_has_gluons_order(name):
    assert name in specs(), f"{name} is missing"
    inputs, spec = GLUON[name][1], specs()[name]
    assert [i.name for i in spec.inputs][: len(inputs)] == inputs
    if "sample_weight" in inputs:
        weight = next(i for i in spec.inputs if i.name == "sample_weight")
        assert (weight.domain, weight.required, weight.gradient) == ("Weight", False, "Never")


@over_gluon
def test_code_for_gluon_keeps_working(name):
    assert name in specs(), f"{name} is missing"
    loss = specs()[name].cls(prefix="loss0_", params=None)
    loss.initialize()
    loss.hybridize()
    loss.hybridize(active=False, static_alloc=True)
    assert loss == getattr(rl, name)()
    inputs = example(loss)
    positional = [inputs.get(key) for key in GLUON[name][1]]
    assert np.isfinite(loss(*positional)).all()


@over_losses
def test_first_input_has_a_gradient(name):
    spec = specs()[name]
    assert spec.inputs[0].required
    assert spec.inputs[0].gradient == "Default"
    if not spec.hess:
        loss = spec.cls()
        with pytest.raises(TypeError, match=f"{name}.*second derivative"):
            loss.grad_hess(**example(loss))


@over_losses
def test_kinks_can_be_evaluated(name):
    loss = specs()[name].cls()
    sides = _sides_of_kinks(loss, example(loss))
    assert np.isin(sides, (-1.0, 0.0, 1.0)).all()
    only_by_options = {"PoissonNLLLoss", "SigmoidBinaryCrossEntropyLoss"}
    assert (sides.size > 0) == bool(specs()[name].kinks and name not in only_by_options)


def every_reduction() -> set[str | None]:
    """Return what type checkers take for a reduction."""
    arrays, nothing = typing.get_args(_loss.ArrayReduction)
    assert nothing is type(None)
    return {*typing.get_args(arrays), *typing.get_args(_loss.NumberReduction), None}


def test_reductions_are_those_of_the_core():
    words = {_loss.REDUCTION_ALIASES.get(word, word) for word in every_reduction()}
    assert words == set(REDUCTIONS)
    with pytest.raises(ValueError, match="reduction") as caught:
        specs()["L2Loss"].cls(reduction="spam")
    listed = str(caught.value).partition("one of (")[2].partition(")")[0]
    assert {word.strip("' ") for word in listed.split(",")} >= set(specs()["L2Loss"].reductions)
    for reduction in specs()["L2Loss"].reductions:
        assert specs()["L2Loss"].cls(reduction=reduction).reduction == reduction


def test_words_of_other_libraries_are_taken():
    aliases = _loss.REDUCTION_ALIASES
    assert every_reduction() == {*REDUCTIONS, *aliases}
    for word, meaning in aliases.items():
        loss = specs()["L2Loss"].cls(reduction=word)
        assert loss == rl.L2Loss(reduction=meaning)
        assert loss.reduction == meaning
    for wrong in ("spam", 3, ["mean"]):
        with pytest.raises(rl.errors.ParameterError, match=r"got .*'batchmean'") as caught:
            specs()["L2Loss"].cls(reduction=wrong)
        assert caught.value.argument == "reduction"


def test_the_table_of_words_is_that_of_the_code():
    page = (Path(__file__).parents[1] / "docs" / "types.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \| `\"(\w+)\"` \|", page, re.MULTILINE)
    assert {ast.literal_eval(word): meaning for word, meaning in rows} == _loss.REDUCTION_ALIASES


def test_the_table_of_parameters_is_that_of_the_code():
    page = (Path(__file__).parents[1] / "docs" / "types.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| `(\w+)` \|$", page, re.MULTILINE)
    table = {name: meant for names, meant in rows for name in re.findall(r"\w+", names)}
    assert table == _loss.PARAMETER_WORDS
    assert {*table.values()} <= {name for spec in specs().values() for name in spec.params} | {
        "reduction"
    }


@over_losses
def test_replace_changes_what_it_is_told_alone(name):
    loss = specs()[name].cls(weight=2.0)
    other = loss.replace(reduction="mean", weight=0.5)
    assert type(other) is type(loss)
    assert dict(other._params) == {**loss._params, "reduction": "mean", "weight": 0.5}
    assert loss == specs()[name].cls(weight=2.0)
    with pytest.raises(rl.errors.ParameterError, match="spam"):
        loss.replace(spam=1)


# Documentation


@over_losses
def test_docstring_has_its_sections(name):
    text = inspect.getdoc(getattr(rl, name))
    assert text
    lines = text.splitlines()
    assert len(lines[0]) < 100
    assert lines[0].endswith(".")
    headings = [a for a, b in itertools.pairwise(lines) if b and set(b) == {"-"}]
    assert [h for h in headings if h in SECTIONS] == SECTIONS
    assert "Call: ``(" in text
    documented = text.partition("Parameters\n")[2].partition("References\n")[0]
    for key in (*specs()[name].params, "weight"):
        assert key in documented, key
    for entry in specs()[name].inputs:
        assert entry.name in text, entry.name


@over_losses
def test_examples_of_the_docstring_run(name):
    found = doctest.DocTestFinder(recurse=False).find(getattr(rl, name), name)
    assert sum(len(test.examples) for test in found) >= 2
    for test in found:
        failed, _ = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
        assert failed == 0


@pytest.mark.parametrize(
    "module", [m.name for m in pkgutil.iter_modules(rustloss.testing.__path__)]
)
def test_examples_of_the_test_helpers_run(module):
    found = doctest.testmod(importlib.import_module(f"rustloss.testing.{module}"))
    assert found.failed == 0


@pytest.mark.parametrize("name", rustloss.testing.__all__)
def test_test_helpers_are_documented(name):
    helper = getattr(rustloss.testing, name)
    if callable(helper):
        assert inspect.getdoc(helper)
    if inspect.isfunction(helper):
        assert "Examples\n--------" in (inspect.getdoc(helper) or "")

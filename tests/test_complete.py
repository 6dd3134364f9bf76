"""No loss passes without an oracle, accuracy cases, benchmarks and a place in the documentation."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import contenders
from contenders import Case, with_numpy, with_rustloss
from contenders.timing import agrees
from contract import over_losses
from reference.exact import FORMULAS
from reference.points import CASES
from rustloss.testing._bounds import BOUNDS
from rustloss.testing._registry import specs
from rustloss.testing.oracles import ORACLES

DOCS = Path(__file__).parents[1] / "docs"
ACCURACY = (DOCS / "accuracy.md").read_text(encoding="utf-8")
TITLES = {line.split("|")[1].strip() for line in ACCURACY.splitlines() if line.startswith("| ")}
WORDS = set(re.findall(r"\w+", (DOCS / "tutorial.md").read_text(encoding="utf-8")))
WITH_BOUNDED_HESSIAN = {case.loss for case in CASES if "hess" in case.bounds}

PLACES: dict[str, Iterable[str]] = {
    "the oracles (python/rustloss/testing/oracles)": ORACLES,
    "the bounds (python/rustloss/testing/_bounds.py)": BOUNDS,
    "the exact formulas (tests/reference/exact_*.py)": FORMULAS,
    "the accuracy cases (tests/reference/points.py)": {case.loss for case in CASES},
    "the benchmarks (benches/contenders)": {case.row.loss for case in contenders.cases()},
}
"""Where every loss of the registry has an entry, and nothing else has."""


def missing(names: Iterable[str], places: Mapping[str, Iterable[str]]) -> list[str]:
    """Say which of the names are missing where, and what is there beside them."""
    expected = set(names)
    gaps = [
        f"{name} is not among {place}"
        for place, found in places.items()
        for name in sorted(expected - set(found))
    ]
    extra = [
        f"{name} is among {place}, but not in the registry"
        for place, found in places.items()
        for name in sorted(set(found) - expected)
    ]
    return gaps + extra


def test_every_loss_is_everywhere():
    gaps = missing(specs(), PLACES)
    assert not gaps, "\n".join(gaps)


def test_what_is_missing_is_named():
    places = {"the oracles": ["FooLoss"], "the benchmarks": ["FooLoss", "BarLoss", "OldLoss"]}
    assert missing(["BarLoss", "FooLoss"], places) == [
        "BarLoss is not among the oracles",
        "OldLoss is among the benchmarks, but not in the registry",
    ]


@over_losses
def test_second_derivatives_are_bounded(name):
    is_bounded = name in WITH_BOUNDED_HESSIAN
    assert is_bounded == specs()[name].hess, f"{name} in tests/reference/points.py: {is_bounded}"


@over_losses
def test_the_tutorial_has_every_loss(name):
    is_there = name in WORDS
    assert is_there, f"{name} is not in docs/tutorial.md"


@over_losses
def test_the_table_of_errors_has_every_case(name):
    absent = [case.title for case in CASES if case.loss == name and case.title not in TITLES]
    assert not absent, f"not in docs/accuracy.md, which `make accuracy` prints: {absent}"


def test_no_row_of_the_table_of_errors_is_beyond_its_bound():
    rows = [line[2:-2].split(" | ") for line in ACCURACY.splitlines() if line.startswith("| ")]
    shares = {title: float(share) for title, *_, share in rows if share[0].isdigit()}
    assert {case.title for case in CASES} <= set(shares)
    assert {title: share for title, share in shares.items() if share > 1} == {}


def first_case(name: str) -> Case:
    """Return the smallest benchmark of a loss."""
    found = [case for case in contenders.cases() if case.row.loss == name]
    return min(found, key=lambda case: math.prod(case.shape))


def assert_benchmark_runs(name: str) -> None:
    """Run the smallest benchmark of a loss, in the types and layouts that large ones have."""
    case = first_case(name)
    row = case.row
    for dtype, layout in row.variants(row.varied[0] if row.varied else row.shapes[-1]):
        varied = replace(case, dtype=dtype, layout=layout)
        (contender,) = with_rustloss.contenders(varied)
        result = contender.fetch(contender.run())
        assert agrees(result, with_numpy.reference(varied), dtype), varied.name


@over_losses
def test_benchmarks_compute_the_loss(name):
    assert_benchmark_runs(name)


@over_losses
def test_a_loss_without_a_row_of_its_own_is_timed(name, monkeypatch):
    rows: dict[str, Any] = {k: row for k, row in contenders.ROWS.items() if row.loss != name}
    monkeypatch.setattr(contenders, "ROWS", rows)
    assert first_case(name).title == name
    assert_benchmark_runs(name)

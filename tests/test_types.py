"""Type checkers know the calls of losses, and what they know is what the registry says."""

from __future__ import annotations

import ast
import inspect
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rustloss as rl
from contract import over_losses
from rustloss.testing._registry import specs

ROOT = Path(__file__).parents[1]
LINES = (Path(__file__).parent / "typed_calls.py").read_text(encoding="utf-8").splitlines()
MARKED = {number for number, line in enumerate(LINES, 1) if line.endswith("# error")}
STUB = ast.parse((ROOT / "python/rustloss/_calls.pyi").read_text(encoding="utf-8"))
CALLS = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
#: Seconds that a type checker may take, on a machine that is busy with other things.
PATIENCE = 300


def by_mypy(path: Path) -> set[int]:
    """Return the lines in which mypy finds errors."""
    options = ["--config-file", "pyproject.toml", "--no-incremental", "--hide-error-context"]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *options, path],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    found = re.findall(rf"^{re.escape(str(path))}:(\d+): error", run.stdout, re.MULTILINE)
    return set(map(int, found))


def by_pyright(path: Path) -> set[int]:
    """Return the lines in which pyright finds errors; basedpyright is pyright with its own node."""
    config = {
        "include": [path.name],
        "extraPaths": [str(ROOT / "python")],
        "typeCheckingMode": "strict",
        "reportUnusedExpression": False,
    }
    (path.parent / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    command = ["-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    run = subprocess.run(
        [sys.executable, *command, "--project", path.parent],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"NODE_NO_WARNINGS": "1"},
    )
    found = json.loads(run.stdout)["generalDiagnostics"]
    return {d["range"]["start"]["line"] + 1 for d in found if d["severity"] == "error"}


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.parametrize("errors", [by_mypy, by_pyright])
def test_checkers_refuse_the_marked_lines_alone(
    errors: Callable[[Path], set[int]], tmp_path: Path
) -> None:
    path = tmp_path / "typed_calls.py"
    path.write_text("\n".join(LINES), encoding="utf-8")
    found = errors(path)
    assert found
    for number in sorted(found ^ MARKED):
        print(number, "found" if number in found else "missed", LINES[number - 1])
    assert found == MARKED


def declared(name: str, method: str) -> list[ast.FunctionDef]:
    """Return how the stub states a method of a loss: one function for each way to call it."""
    (base,) = (b for b in ast.parse(inspect.getsource(getattr(rl, name))).body[0].bases)  # type: ignore[attr-defined]
    body = CALLS[base.value.id].body
    return [node for node in body if isinstance(node, ast.FunctionDef) and node.name == method]


@over_losses
def test_stub_has_the_inputs_of_the_registry(name: str) -> None:
    inputs = specs()[name].inputs
    methods = ["__call__", "value_and_grad", "grad"] + ["grad_hess"] * specs()[name].hess
    for method in methods:
        ways = declared(name, method)
        assert len(ways) >= 2
        for way in ways:
            _, *positional = way.args.args
            by_name = [a.arg for a in way.args.kwonlyargs if a.arg != "wrt"]
            assert [a.arg for a in positional] + by_name == [i.name for i in inputs]
            assert by_name == [i.name for i in inputs if i.domain == "Offsets"]
            optional = [a.arg for a in positional[len(positional) - len(way.args.defaults) :]]
            assert optional + by_name == [i.name for i in inputs if not i.required]


@over_losses
def test_stub_has_the_gradients_of_the_registry(name: str) -> None:
    count = sum(i.gradient == "Default" for i in specs()[name].inputs)
    results = [ast.unparse(way.returns) for way in declared(name, "grad") if way.returns]
    for array in ("Array", "F"):
        several = f"tuple[{', '.join([array] * count)}]"
        assert (array if count == 1 else several) in results


@over_losses
def test_signatures_name_everything(name: str) -> None:
    kind: Any = getattr(rl, name)
    made = inspect.signature(kind).parameters
    for option in (*specs()[name].params, "weight", "reduction", "empty", "prefix", "params"):
        assert made[option].default is not inspect.Parameter.empty
    assert all(p.kind is not p.VAR_KEYWORD for p in made.values())
    assert made["reduction"].default == kind().reduction
    call = inspect.signature(kind()).parameters
    assert list(call) == [*(i.name for i in specs()[name].inputs), "out", "denominator"]
    for entry in specs()[name].inputs:
        assert (call[entry.name].default is inspect.Parameter.empty) == entry.required


def test_a_class_of_a_user_may_state_anything() -> None:
    class Mine(rl.HuberLoss):
        def __new__(cls, rho: NotThere = 2.0, **options: Any) -> Any:  # type: ignore[name-defined]  # noqa: F821
            return super().__new__(cls, rho, **options)

    assert [*inspect.signature(Mine).parameters][:2] == ["rho", "reduction"]
    assert Mine(reduction="mean")([4.0], [0.0]) == 3.0

    class Mean(rl.HuberLoss):
        _name = "anything"

        def __new__(cls, *, reduction: Any = "mean", **options: Any) -> Any:
            return super().__new__(cls, reduction=reduction, **options)

    assert [*inspect.signature(Mean).parameters] == ["reduction", "empty", "prefix", "params"]
    assert (repr(Mean()), repr(Mean(reduction="sum"))) == ("Mean()", "Mean(reduction='sum')")


class Renamed(rl.HuberLoss[Any]):
    """A class of a user, with the constructor of its base."""


def test_a_class_of_a_user_has_the_constructor_of_its_base() -> None:
    made: Any = Renamed(2.0, reduction="mean")
    assert repr(made) == "Renamed(rho=2.0, reduction='mean')"
    assert inspect.signature(Renamed) == inspect.signature(rl.HuberLoss)
    assert pickle.loads(pickle.dumps(made)) == made != rl.HuberLoss(2.0, reduction="mean")
    assert made.replace(rho=1.0)([4.0], [0.0]) == 3.5


def test_names_that_are_no_modules_are_not_there() -> None:
    for name in ("a.b", "__wrapped__", "spam"):
        assert not hasattr(rl, name)
    code = "import rustloss; rustloss.boosting"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "no attribute 'boosting' before `import rustloss.boosting`" in done.stderr


@pytest.mark.parametrize("method", ["value_and_grad", "grad", "grad_hess"])
def test_signatures_of_methods_name_the_options(method: str) -> None:
    call = getattr(rl.HuberLoss(), method)
    shown = inspect.signature(call).parameters.values()
    options = tuple(p.name for p in shown if p.kind is p.KEYWORD_ONLY)
    with pytest.raises(rl.errors.CallError, match=re.escape(f"by name {options}")):
        call(no_option=None)


@over_losses
def test_parameters_are_stated_and_listed(name: str) -> None:
    kind: Any = getattr(rl, name)
    stated = inspect.signature(kind).parameters
    of_all = {"weight", "batch_axis", *inspect.signature(rl.Loss).parameters}
    assert stated.keys() - of_all == specs()[name].params.keys()
    assert {*specs()[name].params, "weight", "batch_axis", "reduction", "empty"} <= {*dir(kind())}

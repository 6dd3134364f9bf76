"""Everything that the documentation shows runs, and prints what it says."""

import contextlib
import doctest
import io
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import rustloss as rl

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
#: What the losses are called elsewhere.
NAMES = tomllib.loads((ROOT / "docs" / "names.toml").read_text(encoding="utf-8"))
#: Pages about libraries that tests/frameworks has, and runs them.
OF_FRAMEWORKS = {"boosting.md", "jax.md", "mxnet.md", "pipelines.md", "tensorflow.md", "torch.md"}
#: Variables that the tests of the frameworks set, and readers do not.
OF_TESTS = {"JAX_ENABLE_X64", "XLA_FLAGS"}
EXAMPLE = re.compile(
    r"^```(?P<fence>python|py)\n(?P<code>.*?)^```$(?:\s*^```text\n(?P<expected>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
#: `make docs` makes the pages of the gallery and of each loss, and checks what leads there itself.
LINK = re.compile(r"\]\((?!\w+:|#|gallery/|losses/)([^)#]+)")
PNG = b"\x89PNG\r\n\x1a\n"

MODULES = [
    module.name
    for module in pkgutil.iter_modules(rl.__path__, "rustloss.")
    if module.name != "rustloss.__main__"
]
LOSSES = sorted(
    name
    for name, item in vars(rl).items()
    if isinstance(item, type) and issubclass(item, rl.Loss) and item is not rl.Loss
)


class Example(NamedTuple):
    """A block of Python and the output that stands below it."""

    line: int
    code: str
    expected: str | None


def examples(text: str, about: str | None = None) -> list[Example]:
    """Find the Python blocks of a page; a text block that follows directly is the output.

    Blocks called ``py`` are for frameworks: those alone count that import the one it is `about`.
    """
    return [
        Example(text.count("\n", 0, found.start()) + 1, found["code"], found["expected"])
        for found in EXAMPLE.finditer(text)
        if found["fence"] == "python" or f"import {about}\n" in found["code"]
    ]


def output(example: Example, page: str, namespace: dict[str, Any]) -> str:
    """Run an example; an exception counts as output if some output is expected."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile("\n" * example.line + example.code, page, "exec"), namespace)
        except Exception as error:
            if example.expected is None:
                raise
            print(*traceback.format_exception_only(error), end="")
    return printed.getvalue()


def missing_names(library, module):
    """Return the names of the table that a library does not have."""
    found = names_in(library)
    assert found
    return [name for name in found if not hasattr(module, name)]


def names_in(library):
    """Return the names of the table that are of a library."""
    rows = [row.get(library, []) for row in NAMES.values()]
    return [name for row in rows for name in ([row] if isinstance(row, str) else row)]


def test_examples_are_found() -> None:
    shown = "a\n```python\nx\n```\n\n```text\n1\n```\n```text\n2\n```\n"
    apart = "```python\ny\n```\nb\n```text\n3\n```\n"
    framework = "```py\nimport z\n```\n"
    found = [Example(2, "x\n", "1\n"), Example(12, "y\n", None)]
    assert examples(shown + apart + framework) == found
    assert examples(framework, "z") == [Example(1, "import z\n", None)]
    assert not examples(framework, "y")


def check_page(page: Path, about: str | None = None) -> None:
    """Run the examples of a page one after another, and compare what they print."""
    namespace: dict[str, Any] = {}
    for example in examples(page.read_text(encoding="utf-8"), about):
        printed = output(example, page.name, namespace)
        if example.expected is not None:
            assert printed == example.expected, f"{page.name}, line {example.line}"


def check_page_alone(page: Path, about: str | None = None) -> None:
    """Check a page in a process of its own, with what frameworks read as a reader has it."""
    code = "import sys, test_docs; test_docs.check_page(test_docs.Path(sys.argv[1]), *sys.argv[2:])"
    arguments = [page, about] if about else [page]
    usual = {name: value for name, value in os.environ.items() if name not in OF_TESTS}
    subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT / "tests",
        env=usual,
        check=True,
        timeout=100,
    )


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name not in OF_FRAMEWORKS], ids=lambda page: page.name
)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    check_page(page)


@pytest.mark.parametrize("name", ["README.md", "tutorial.md"])
def test_page_has_checked_output(name: str) -> None:
    (page,) = (page for page in PAGES if page.name == name)
    assert any(example.expected for example in examples(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    # Adapters need their frameworks; their examples are run beside those too.
    assert doctest.testmod(pytest.importorskip(name)).failed == 0


@pytest.mark.parametrize("name", LOSSES)
def test_loss_has_an_example(name: str) -> None:
    assert doctest.DocTestParser().get_examples(getattr(rl, name).__doc__)


@pytest.mark.parametrize(
    ("act", "pictures"),
    [("digits.py", ["training.png", "losses.png"]), ("digit_strips.py", ["alignment.png"])],
)
def test_demo(tmp_path: Path, act: str, pictures: list[str]) -> None:
    """Each act of the demo checks its own accuracy."""
    subprocess.run(
        [sys.executable, ROOT / "examples" / act],
        cwd=tmp_path,
        env=os.environ | {"PYTHONWARNINGS": "error"},
        check=True,
        timeout=100,
    )
    for name in pictures:
        assert (tmp_path / "demo-output" / name).read_bytes().startswith(PNG)

"""A page for every loss, made of the registry, its docstring and the recorded measurements."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt

import rustloss as rl
from formulas import with_math
from reference.points import CASES
from rustloss import _core

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
SPEED = DOCS.parent / "benches" / "results" / "speed.json"
LIBRARIES = {"gluon": "Gluon", "torch": "torch.nn", "optax": "optax", "keras": "Keras"}
FAMILIES = {
    "elementwise": "Element by element",
    "rowwise": "Row by row",
    "pairwise": "Batch against batch",
    "sequence": "Sequences",
}
DOMAINS = {
    "Real": "any number",
    "Sign": "-1 or 1",
    "Probability": "0 to 1",
    "NonNegative": "0 or more",
    "Positive": "above 0",
    "Variance": "0 or more",
    "Weight": "0 or more, finite",
    "Scalar": "one number",
    "Classes": "class indices",
    "ClassSets": "class indices up to the first -1",
    "SoftClasses": "weights of classes, 0 or more",
    "Distribution": "probabilities, 0 or more",
    "LogDistribution": "logarithms of probabilities",
    "Tokens": "class indices, not the blank",
    "Lengths": "whole numbers, 0 or more",
    "Offsets": "whole numbers that do not fall",
}
GRADIENTS = {"Default": "yes", "OnRequest": "with `wrt=`", "Never": "no"}
#: Two features, of which the first moves, and what stands beside them, where no default would do.
BESIDE: dict[str, tuple[dict[str, Any], str]] = {
    name: (
        {"row": [0.0, 0.0], "positive": [[-1.0, 0.0]], "negative": [[1.0, 0.0]]},
        "The anchor moves on a line; the positive is at -1 and the negative at 1.",
    )
    for name in ("TripletLoss", "TripletMarginLoss")
} | {
    "CosineEmbeddingLoss": (
        {"row": [0.0, 1.0], "input2": [[1.0, 0.0]], "label": [1.0]},
        "The vector is (x, 1), and the other one (1, 0), which it is to be like: the label is 1.",
    )
}
#: What the rows of the table of errors are, where they are not like others.
UNITS = {
    "CTCLoss": """\
Promised are absolute errors, in the order float32, float64 of the loss / float32, float64 of the
gradient. A loss in float32 is within 2e-7 of the exact one, or within 2e-7 times the loss where
that is above 1, and each number of its gradient within 2e-6. Measured errors, value / gradient, are
in ulp of the loss, or of 1 where the loss is less.
"""
}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def names() -> dict[str, dict[str, Any]]:
    """Return what each loss is called in other libraries: a name or a list of names."""
    return tomllib.loads((DOCS / "names.toml").read_text(encoding="utf-8"))


def code(known: str | list[str]) -> str:
    """Return one name or several as code."""
    return ", ".join(f"`{name}`" for name in ([known] if isinstance(known, str) else known))


def accuracy(loss: str) -> str:
    """Return the rows of the table of errors that are about a loss, without torch's columns."""
    lines = (DOCS / "accuracy.md").read_text(encoding="utf-8").splitlines()
    cells = [line.strip("|").split(" | ") for line in lines if line.startswith("| ")]
    titles = {case.title for case in CASES if case.loss == loss}
    rows = [[cell.strip() for cell in row[:4]] for row in cells if row[0].strip() in titles]
    return table(["case", "promised", "float32", "float64"], rows)


def speed(loss: str) -> str:
    """Return the measured times of a loss beside the fastest peer, or nothing."""
    record = json.loads(SPEED.read_text(encoding="utf-8"))
    rows = []
    for case in record["cases"]:
        if case["loss"] == loss and case["peers"]:
            peer = min(case["peers"], key=case["peers"].get)
            mine, theirs = case["rustloss"], case["peers"][peer]
            rows.append([case["case"], f"{mine:,.3g}", peer, f"{theirs:,.3g}"])
    if not rows:
        return ""
    head = ["case", "rustloss", "fastest peer", "its time"]
    intro = f"Microseconds for value and gradient. {record['machine']}."
    return f"\n## Speed\n\n{intro}\n\n{table(head, rows)}"


def draw(loss: str) -> bool:
    """Draw the curve of a loss, if it is a function of one number."""
    with plt.style.context(DOCS / "_ext" / "curves.mplstyle"):
        figure, ax = plt.subplots()
        try:
            rl.plot.curve(getattr(rl, loss)(), ax=ax, **BESIDE.get(loss, ({}, ""))[0])
        except TypeError:
            return False
        else:
            figure.savefig(DOCS / "losses" / f"{loss}.svg", metadata={"Date": None})
            return True
        finally:
            plt.close(figure)


def page(spec: dict[str, Any], elsewhere: dict[str, Any]) -> Iterator[str]:
    """Yield the parts of a page."""
    name = spec["name"]
    yield f"# {name}\n"
    yield f"```{{eval-rst}}\n.. autoclass:: rustloss.{name}\n   :members:\n```\n"
    if draw(name):
        yield "## Curve\n"
        yield f"![Value, gradient and, where it exists, second derivative of {name}]({name}.svg)\n"
        if name in BESIDE:
            yield BESIDE[name][1] + "\n"
    elif name == "CTCLoss":
        yield "[](../lattice.md) has a picture of its paths.\n"
    yield "## Call\n"
    rows = [
        [
            f"`{i['name']}`",
            DOMAINS[i["domain"]],
            "yes" if i["required"] else "no",
            GRADIENTS[i["gradient"]],
        ]
        for i in spec["inputs"]
    ]
    yield table(["input", "may hold", "required", "gradient"], rows)
    yield f"Kinks, where the gradient is 0 or that of one side: {spec['kinks'] or 'none'}.\n"
    yield f"Second derivative (`grad_hess`): {'yes' if spec['hess'] else 'no'}.\n"
    found = [[LIBRARIES[k], code(elsewhere[k])] for k in LIBRARIES if k in elsewhere]
    if found:
        yield "## Elsewhere\n"
        yield table(["library", "name"], found)
        yield elsewhere.get("note", "") + "\n"
    yield "## Accuracy\n"
    usual = (
        "Worst error of value / gradient / second derivative; [](../accuracy.md) has the unit.\n"
    )
    yield UNITS.get(name, usual)
    yield accuracy(name) + speed(name)


def write_pages(_: Sphinx) -> None:
    """Write all pages, their index, and the table of names."""
    (DOCS / "losses").mkdir(exist_ok=True)
    specs, elsewhere = _core.registry(), names()
    parts = ["# Losses\n"]
    for family, title in FAMILIES.items():
        members = sorted(spec["name"] for spec in specs if spec["family"] == family)
        tree = "\n".join(["```{toctree}", f":caption: {title}", *members, "```"])
        parts += [f"## {title}\n", tree + "\n"]
    write("index", parts)
    for spec in specs:
        write(spec["name"], page(spec, elsewhere[spec["name"]]))
    head = ["rustloss", *LIBRARIES.values()]
    rows = [
        [f"[{name}](losses/{name}.md)", *(code(row.get(k, [])) for k in LIBRARIES)]
        for name, row in elsewhere.items()
    ]
    notes = [f"- `{name}`: {row['note']}" for name, row in elsewhere.items() if "note" in row]
    write("_public", public_names())
    write("_names", [table(head, rows), "## Differences\n", *notes])


def public_names() -> Iterator[str]:
    """Yield the documentation of all that the package offers beside losses and modules."""
    for name in sorted(rl.__all__):
        item = getattr(rl, name)
        is_loss = isinstance(item, type) and issubclass(item, rl.Loss) and item is not rl.Loss
        if is_loss or isinstance(item, ModuleType):
            continue
        kind = "class" if isinstance(item, type) else "function"
        members = "   :members:\n" if kind == "class" else ""
        yield f"```{{eval-rst}}\n.. auto{kind}:: rustloss.{name}\n{members}```\n"


def write(name: str, parts: Iterable[str]) -> None:
    """Write a page, unless it stands there already: what has not changed is not built again."""
    path, text = DOCS / "losses" / f"{name}.md", "\n".join(parts)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def set_formulas(
    _app: Sphinx, what: str, _name: str, item: object, _options: object, lines: list[str]
) -> None:
    """Set the formulas in a loss's docstring in type."""
    if what == "class" and isinstance(item, type) and issubclass(item, rl.Loss):
        lines[:] = map(with_math, lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Write pages before Sphinx looks for them, and translate formulas before numpydoc."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", set_formulas, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

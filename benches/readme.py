"""Render what the benchmarks recorded: the tables of README and other pages, the chart.

A page marks the place with ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

import ratios
import records

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "ctc.md",
    ROOT / "docs" / "speed.md",
    ROOT / "benches" / "README.md",
]
CHART = "docs/_static/speed-{theme}.svg"
#: Elements from which a case is in the table of large cases.
LARGE = 100_000
KINDS = ("float32", "float16", "bfloat16", "F", "mixed", "axis=1")
INK = {"light": "#1f2328", "dark": "#e6edf3"}
BAR = {"light": "#b7410e", "dark": "#f2895b"}


def table(head: Iterable[str], rows: Iterable[Iterable[str]], *, numbers_from: int) -> str:
    """Return a table in Markdown, whose columns from there on are numbers."""
    titles = list(head)
    rule = ["---" if i < numbers_from else "---:" for i in range(len(titles))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [titles, rule, *rows])


def listed(versions: dict[str, str]) -> str:
    """Return names with their versions."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def invalid_ctc() -> str:
    """Return the answers to invalid calls, a column for each library."""
    record = records.load("invalid_ctc")
    answers, versions = record["answers"], record["versions"]
    rows = [
        [call, *(spelled(answers[library][call]) for library in answers)]
        for call in answers["rustloss"]
    ]
    head = ["call", *(f"{library} {versions[library]}" for library in answers)]
    return table(head, rows, numbers_from=9)


def spelled(answer: str) -> str:
    """Return an answer as the table shows it: a number, the class of an error, a crash."""
    if answer.startswith("SIG"):
        return f"**crash** ({answer})"
    return f"`{answer}`" if answer.endswith("Error") else answer


def sure_model() -> str:
    """Return loss and slope of right predictions: exactly, here, in torch."""
    record = records.load("sure_model")
    rows = [
        [row["loss"], str(row["lead"])]
        + [f"{row[who][i]:.4g}" for i in (0, 1) for who in ("exact", "rustloss", "torch")]
        for row in record["rows"]
    ]
    head = ["float32", "ahead by", "loss", "rustloss", "torch", "slope", "rustloss", "torch"]
    return f"{table(head, rows, numbers_from=1)}\n\n{listed(record['versions'])}."


def long_alignment() -> str:
    """Return time and memory of CTC over long speech."""
    record = records.load("long_alignment")
    rows = [[way, f"{it['seconds']:.0f}", f"{it['MiB']}"] for way, it in record["ways"].items()]
    size = (
        f"{record['minutes']} minutes of speech ({record['frames']:,} frames, "
        f"{record['labels']:,} labels, {record['classes']} classes, float32), "
        f"`memory_limit={record['memory_limit'] >> 20} << 20`:"
    )
    setting = (
        f"{record['machine']}, with a load of {record['load']} from other programs; "
        f"{listed(record['versions'])}."
    )
    return f"{size}\n\n{table(['', 'seconds', 'MiB'], rows, numbers_from=1)}\n\n{setting}"


def speed() -> str:
    """Return the table of all recorded times."""
    record = records.load("speed")
    cases = [case for case in record["cases"] if case["peers"]]
    peers = list(dict.fromkeys(name for case in cases for name in case["peers"]))
    rows = [
        [
            case["case"],
            *map(micros, times(case, peers)),
            "{} {:.2f}".format(*ratios.fastest(case)),
        ]
        for case in cases
    ]
    head = ["case", "rustloss", *peers, "copy", "fastest peer / rustloss"]
    workload = f"{record['machine']}; {listed(record['versions'])}."
    return f"{workload}\n\n{table(head, rows, numbers_from=1)}"


def times(case: dict[str, Any], peers: list[str]) -> list[float | None]:
    """Return the times of a case in the order of the columns."""
    return [case["rustloss"], *map(case["peers"].get, peers), case["copy"]]


def micros(time: float | None) -> str:
    if time is None:
        return ""
    return f"{time:,.3g}" if time < 1000 else f"{time:,.0f}"


def speed_summary() -> str:
    """Return the chart, what was measured, where others are ahead, and a row of each loss."""
    record = records.load("speed")
    cases = ratios.compared(record["cases"])
    behind = [case for case in cases if ratios.fastest(case)[1] < 1]
    means = "\n".join(
        f"- {family}: "
        + ", ".join(f"{ratios.mean(some):.2f} ({kind})" for kind, some in kinds.items())
        for family, kinds in ratios.by_family(cases).items()
    )
    light, dark = (CHART.format(theme=theme) for theme in INK)
    return f"""\
<picture>
  <source media="(prefers-color-scheme: dark)" srcset="{dark}">
  <img alt="How many times as long as rustloss the fastest other library takes" src="{light}">
</picture>

Value and gradient, against the fastest of the others in the same type and layout: how many times as
long it takes, so above 1 rustloss is faster. The chart has the largest case of each loss (rows x
columns; CTC: frames x samples x classes x labels) in float32 and C order.
{record["machine"]}; {listed(record["versions"])}.

Of {len(cases)} cases others are ahead in {len(behind)}. The geometric means are

{means}

Each loss, that with the worst case first:

{losses(cases)}"""


def losses(cases: list[dict[str, Any]]) -> str:
    """Return a table of the losses: the largest case in float32 and C order, and the worst."""
    largest = {title(case): case for case in largest_cases(cases)}
    worst: dict[str, dict[str, Any]] = {}
    counts: dict[str, list[int]] = {}
    for case in cases:
        worst.setdefault(title(case), case)
        counts.setdefault(title(case), []).append(ratios.fastest(case)[1] < 1)
    rows = [
        [
            name,
            beside(largest[name]),
            beside(case),
            f"{sum(counts[name])} of {len(counts[name])}",
        ]
        for name, case in worst.items()
    ]
    head = ["loss", "largest case, float32", "worst of all types, layouts and sizes", "behind in"]
    return table(head, rows, numbers_from=3)


def title(case: dict[str, Any]) -> str:
    """Return what the loss of a case is called."""
    return str(case["case"].split()[0])


def beside(case: dict[str, Any]) -> str:
    """Return the ratio of a case, its arrays and the peer."""
    peer, ratio = ratios.fastest(case)
    return f"{ratio:.2f} ({case['case'].partition(' ')[2]}, {peer})"


def largest_cases(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the longest case of each loss in float32 and C order, the worst first."""
    usual = [case for case in cases if ratios.kind(case) == "float32"]
    by_time = sorted(usual, key=lambda case: case["rustloss"])
    return ratios.compared({title(case): case for case in by_time}.values())


def large_cases() -> str:
    """Return a table of the large cases and of those where others are ahead, the worst first."""
    cases = ratios.compared(records.load("speed")["cases"])
    kinds = [kind for kind in KINDS if kind in map(ratios.kind, cases)]
    rows: dict[str, dict[str, str]] = {}
    for case in cases:
        shape = case["case"].split()[1]
        peer, ratio = ratios.fastest(case)
        if ratio < 1 or math.prod(map(int, shape.split("x"))) >= LARGE:
            rows.setdefault(f"{title(case)} {shape}", {})[ratios.kind(case)] = (
                f"{ratio:.2f} ({peer})"
            )
    cells = ([name, *(found.get(kind, "") for kind in kinds)] for name, found in rows.items())
    return table(["case", *kinds], cells, numbers_from=1)


def scaling() -> str:
    """Return the time of an element by the size of a call, and what several threads make of it."""
    record = records.load("scaling")
    rows = record["rows"]
    sizes = list(dict.fromkeys(row["elements"] for row in rows))
    cells: dict[str, dict[int, str]] = {}
    for row in rows:
        gain, _ = ratios.speedup(row, record["threads"])
        cells.setdefault(row["case"], {})[row["elements"]] = f"{row['one']:.3g} ({gain:.2f})"
    body = ([name, *(found.get(size, "") for size in sizes)] for name, found in cells.items())
    workload = f"{record['machine']}; {listed(record['versions'])}."
    return f"{workload}\n\n{table(['case', *map('{:.0e}'.format, sizes)], body, numbers_from=1)}"


def draw_chart(path: Path, ink: str, bar: str) -> None:
    """Draw the largest case of each loss in float32 and C order."""
    record = records.load("speed")
    cases = largest_cases(ratios.compared(record["cases"]))
    figure, ax = plt.subplots(figsize=(8, 0.28 * len(cases) + 1.8), layout="constrained")
    figure.suptitle("Value and gradient in float32, beside the fastest other library", color=ink)
    ax.set_title(f"{record['machine']}\n{listed(record['versions'])}", color=ink, fontsize=7)
    ax.set_xlabel(
        "time of the fastest other library / time of rustloss; above 1, rustloss is faster",
        color=ink,
    )
    for place, case in enumerate(cases):
        peer, ratio = ratios.fastest(case)
        ax.barh(place, ratio - 1, left=1, color=bar)
        ax.text(1.04 * max(ratio, 1), place, f"{peer} {ratio:.2f}", va="center", color=ink)
    ax.set_yticks(range(len(cases)), [case["case"] for case in cases])
    ax.axvline(1, color=ink, linewidth=1)
    ax.set_xscale("log")
    ax.set_xlim(0.5, 40)
    ax.set_ylim(-1, len(cases))
    ax.set_xticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    ax.minorticks_off()
    ax.tick_params(colors=ink)
    for side in ax.spines.values():
        side.set_visible(False)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    plt.close(figure)


PARTS: dict[str, Callable[[], str]] = {
    "invalid_ctc": invalid_ctc,
    "sure_model": sure_model,
    "speed": speed,
    "speed_summary": speed_summary,
    "large_cases": large_cases,
    "long_alignment": long_alignment,
    "scaling": scaling,
}


def rendered(text: str) -> str:
    """Return a page with what is recorded between its marks."""

    def part(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- begin {name} -->\n\n{PARTS[name]()}\n\n<!-- end {name} -->"

    return re.sub(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", part, text, flags=re.DOTALL)


def main() -> None:
    """Write the pages and the charts."""
    for page in PAGES:
        page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")
    plt.rcParams["svg.hashsalt"] = "rustloss"
    for theme, ink in INK.items():
        draw_chart(ROOT / CHART.format(theme=theme), ink, BAR[theme])


if __name__ == "__main__":
    main()

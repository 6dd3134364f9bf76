"""The site has a place for every loss and page, and formulas are translated as they are meant."""

import re
import runpy

import matplotlib.pyplot as plt
import numpy as np
import pytest

import formulas
import invalid_ctc
import readme
import rustloss as rl
from contract import over_losses
from rustloss.testing._registry import specs
from test_docs import NAMES, ROOT, names_in

GALLERY = sorted((ROOT / "examples" / "gallery").glob("plot_*.py"))
DOCS = ROOT / "docs"
#: Losses whose docstring says in words, or by another loss, what they are.
WITHOUT_FORMULA = {"LogisticLoss"}


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("e**2 / (2 rho)", r"\frac{{e}^{2}}{2\,\rho}"),
        ("-2 g label", r"-2\,g\,\text{label}"),
        (
            "|x - y| / 2 - mean|x_i|",
            r"\frac{\left|x - y\right|}{2} - \text{mean}\left|x_{i}\right|",
        ),
        ("-log P(label | pred)", r"-\log\,P\left(\text{label} \mid \text{pred}\right)"),
        ("g = (a + b) (x1[i] - c)", r"g = \left(a + b\right)\,\left(x_{1, i} - c\right)"),
        ("abs(v)**(p - 1)", r"{\text{abs}\left(v\right)}^{p - 1}"),
        ("log(target!)", r"\log\left(\text{target}!\right)"),
        ("(a) / (b) * (c)", r"\frac{a}{b} \cdot \left(c\right)"),
    ],
)
def test_formula(text, latex):
    assert " ".join(formulas.to_latex(text)).replace("{} ", "") == latex


def test_lines_may_end_between_terms():
    assert (
        formulas.with_math("``e = -a b + c``") == r":math:`e`\ :math:`{} = -a\,b`\ :math:`{} + c`"
    )


@pytest.mark.parametrize(
    "text",
    ["pred", "2", "", "(pred, label)", "out_of_range=x", 'reduction="none"', "a +", "(a", "a | b"],
)
def test_what_is_no_formula_is_left_alone(text):
    with pytest.raises(formulas.FormulaError):
        formulas.to_latex(text)
    assert formulas.with_math(f"``{text}``") == f"``{text}``"


@over_losses
def test_formula_of_every_loss_is_set_in_type(name):
    description = (getattr(rl, name).__doc__ or "").split("Parameters\n")[0]
    assert (":math:" in formulas.with_math(description)) != (name in WITHOUT_FORMULA)


def test_every_loss_has_its_names():
    assert NAMES.keys() == specs().keys()


@pytest.mark.parametrize(
    ("library", "module"), [("torch", "torch/nn.py"), ("keras", "keras/losses.py")]
)
def test_names_of_modules_are_in_the_table(library, module):
    """Read from the source, for the libraries may not be here."""
    source = (ROOT / "python" / "rustloss" / module).read_text(encoding="utf-8")
    listed = source.partition("__all__")[2].partition("]")[0]
    names = re.findall(r'^    "(\w+)",$', listed, re.MULTILINE)
    assert len(names) >= 15
    assert set(names) <= set(names_in(library))


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^(\w+)$", index, re.MULTILINE))
    assert {page.stem for page in DOCS.glob("*.md")} - listed == {"index"}


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.name)
def test_pages_show_what_is_recorded(page):
    text = page.read_text(encoding="utf-8")
    assert "<!-- begin" in text
    assert readme.rendered(text) == text


def test_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {rl.__version__}\n" in citation


def test_our_losses_refuse_every_invalid_call():
    valid, *invalid = invalid_ctc.CALLS
    assert np.isfinite(invalid_ctc.with_rustloss(invalid_ctc.CALLS[valid]))
    for call in invalid:
        with pytest.raises(rl.errors.ArgumentError):
            invalid_ctc.with_rustloss(invalid_ctc.CALLS[call])


# Of showing a picture without a screen.
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.parametrize("script", GALLERY, ids=lambda script: script.name)
def test_gallery(script, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    before = set(plt.get_fignums())
    runpy.run_path(str(script))
    drawn = set(plt.get_fignums()) - before
    assert drawn
    for number in drawn:
        plt.close(number)

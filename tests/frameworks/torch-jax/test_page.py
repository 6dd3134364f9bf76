"""The page about JAX runs, and prints what it says; torch and optax have the names of the table."""

import pytest

from test_docs import ROOT, check_page_alone, missing_names


def test_page() -> None:
    pytest.importorskip("flax")
    check_page_alone(ROOT / "docs" / "jax.md")


@pytest.mark.parametrize(("library", "module"), [("torch", "torch.nn"), ("optax", "optax.losses")])
def test_names(library: str, module: str) -> None:
    assert missing_names(library, pytest.importorskip(module)) == []

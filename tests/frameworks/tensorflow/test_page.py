"""The page about TensorFlow, Keras and HIPS autograd runs, and prints what it says."""

import pytest

from test_docs import ROOT, check_page, missing_names


def test_page() -> None:
    check_page(ROOT / "docs" / "tensorflow.md")


def test_names() -> None:
    assert missing_names("keras", pytest.importorskip("keras").losses) == []

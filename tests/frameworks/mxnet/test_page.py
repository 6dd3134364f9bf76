"""The page about MXNet runs, and prints what it says."""

import pytest

from test_docs import ROOT, check_page, missing_names

# Imported here, for MXNet warns of NumPy's old names when it is imported.
mx = pytest.importorskip("mxnet")


def test_page() -> None:
    check_page(ROOT / "docs" / "mxnet.md")


def test_names() -> None:
    assert missing_names("gluon", mx.gluon.loss) == []

"""The page about TensorFlow, Keras and HIPS autograd runs, and prints what it says."""

from test_docs import ROOT, check_page


def test_page() -> None:
    check_page(ROOT / "docs" / "tensorflow.md")

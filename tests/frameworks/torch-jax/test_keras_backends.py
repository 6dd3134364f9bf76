"""The tests of Keras's losses once more, on its other two backends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1] / "tensorflow" / "test_keras.py"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_losses_of_keras(backend: str) -> None:
    """Keras reads the name of its backend once in the life of a process."""
    run = [sys.executable, "-m", "pytest", "-m", "", "-q", str(TESTS)]
    subprocess.run(run, env=os.environ | {"KERAS_BACKEND": backend}, check=True)

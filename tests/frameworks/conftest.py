"""Prepare the frameworks before a test imports them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent


def pytest_configure() -> None:
    """Set what MXNet 1.9, JAX and TensorFlow read when they are imported."""
    # oneDNN's softmax and softplus are wrong by 2e-6, which gradients multiply.
    os.environ.setdefault("MXNET_MKLDNN_ENABLED", "0")
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Two devices, for programs that run on several.
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        # MXNet asks for the alias; NumPy 1.23 warns when it is read, not after this.
        np.bool = bool  # type: ignore[misc, assignment]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this directory."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.frameworks)

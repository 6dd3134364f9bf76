"""Tasks that run the tests of one loss ask for its name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USAGE_ERROR = 4
"""Pytest's exit code."""


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize("task", ["test-loss", "quick-loss"])
def test_a_task_without_a_name_builds_nothing(task: str) -> None:
    # This test may run in a task that has a name.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    command = ["make", task, "NAME="]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode
    assert ran.stdout == f"usage: make {task} NAME=HuberLoss\n"


@pytest.mark.parametrize("name", ["", "SpamLoss"])
def test_an_option_without_a_loss_runs_nothing(name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only"]
    ran = subprocess.run(
        [*command, "--loss", name, "tests/test_tasks.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == USAGE_ERROR
    assert f"--loss: expected a loss of the registry, got {name!r}" in ran.stderr

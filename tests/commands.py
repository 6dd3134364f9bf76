"""Commands of the command line, each as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

FINE, WRONG_DATA, WRONG_USE = 0, 1, 2


class Ran(subprocess.CompletedProcess[bytes]):
    """A command that has ended."""

    @property
    def text(self) -> str:
        return self.stdout.decode()

    @property
    def complaint(self) -> str:
        return self.stderr.decode()

    @property
    def data(self) -> Any:
        return json.loads(self.stdout)


def rustloss(*words: object, given: bytes = b"", code: int = FINE) -> Ran:
    """Run a command and check its exit code, and that no traceback is shown."""
    command = [sys.executable, "-m", "rustloss", *map(str, words)]
    ran = subprocess.run(
        command,
        input=given,
        capture_output=True,
        check=False,
        timeout=100,
        env=os.environ | {"PYTHONWARNINGS": "error", "COLUMNS": "100"},
    )
    assert b"Traceback" not in ran.stderr, ran.stderr.decode()
    assert ran.returncode == code, ran.stderr.decode()
    return Ran(ran.args, ran.returncode, ran.stdout, ran.stderr)

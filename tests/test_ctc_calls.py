"""CTC: calls that are refused, each in a process whose end is checked, and what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import rustloss as rl
from rustloss import errors
from utterances import random_utterances

CHILD = """
import json, sys
import numpy as np
import rustloss as rl
arguments = json.loads(sys.argv[1])
loss = rl.CTCLoss(blank=0)
pred = np.linspace(-1, 1, 60, dtype=np.float32).reshape(2, 6, 5)
found = []
for call in (loss, loss.value_and_grad, loss.posteriors, loss.align):
    try:
        call(pred, **arguments)
    except Exception as error:
        found.append([type(error).__name__, str(error), error.argument, error.index, error.value])
    else:
        found.append(None)
print(json.dumps(found))
"""
CALLS = 4
VALID: dict[str, Any] = {
    "label": [[1, 2, 3], [2, 3, 4]],
    "pred_lengths": [6, 6],
    "label_lengths": [3, 3],
}
IN_RANGE = "expected an integer with 0 <= label < 5 that is not the blank, 0"
INVALID = {
    "label of C": ("label", [0, 1], 5, IN_RANGE),
    "label of a million": ("label", [0, 1], 1_000_000, IN_RANGE),
    "label of -1 inside the length": ("label", [0, 1], -1, IN_RANGE),
    "label of -2e9": ("label", [1, 0], -2_000_000_000, IN_RANGE),
    "label of the blank": ("label", [1, 2], 0, IN_RANGE),
    "input length beyond T": ("pred_lengths", [1], 100, "expected an integer from 0 to 6"),
    "input length of -5": ("pred_lengths", [1], -5, "expected an integer from 0 to 6"),
    "target length beyond L": ("label_lengths", [1], 50, "expected an integer from 0 to 3"),
    "target length of -4": ("label_lengths", [1], -4, "expected an integer from 0 to 3"),
}


def answers(arguments: dict[str, Any]) -> list[Any]:
    """Make the calls in a process of their own, and see how it ends."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def test_valid_call() -> None:
    assert answers(VALID) == [None] * CALLS


@pytest.mark.parametrize("case", INVALID)
def test_invalid_call(case: str) -> None:
    argument, index, value, expected = INVALID[case]
    array = np.array(VALID[argument])
    array[tuple(index)] = value
    kind = "LabelError" if argument == "label" else "LengthError"
    text = f"{argument}{index}: {expected}, got {value}"
    error = [kind, text, argument, index, value]
    assert answers(VALID | {argument: array.tolist()}) == [error] * CALLS


@pytest.mark.parametrize("method", ["__call__", "value_and_grad", "posteriors", "align"])
def test_too_few_frames_may_raise(method: str) -> None:
    call = getattr(rl.CTCLoss(blank=0, infeasible="raise"), method)
    call(np.zeros((2, 3, 4)), [[1, 2, 3], [1, 1, -1]])
    text = r"pred_lengths\[1\]: .*at least 4 frames for the 3 labels of sample 1, got 3"
    with pytest.raises(errors.LengthError, match=text) as raised:
        call(np.zeros((2, 3, 4)), [[1, 2, 3], [1, 1, 2]])
    assert (raised.value.index, raised.value.value) == ((1,), 3)


@pytest.mark.parametrize("method", ["__call__", "value_and_grad", "posteriors", "align"])
def test_memory_limit_says_what_would_do(method: str) -> None:
    rng = np.random.default_rng(0)
    batch = random_utterances(rng, 1, 300, 8, 60, 1.0)
    free = getattr(rl.CTCLoss(blank=batch.blank), method)(**batch.inputs)
    with pytest.raises(
        MemoryError, match=r"memory_limit: sample 0 needs .*at least \d+ bytes"
    ) as raised:
        getattr(rl.CTCLoss(blank=batch.blank, memory_limit=1000), method)(**batch.inputs)
    least = int(str(raised.value).split()[-2])
    held = rl.CTCLoss(blank=batch.blank, memory_limit=least)
    with pytest.raises(MemoryError):
        getattr(rl.CTCLoss(blank=batch.blank, memory_limit=least - 1), method)(**batch.inputs)
    bound = getattr(held, method)(**batch.inputs)
    if method == "align":
        free, bound = free.index, bound.index
    assert_array_equal(np.concatenate(free, axis=None), np.concatenate(bound, axis=None))

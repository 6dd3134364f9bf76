"""Memory that the system refuses is a MemoryError: inputs stay, and the next call is right.

Every case runs in a child process whose address space is limited more and more loosely, so that
each allocation of a call is refused in turn until all are granted. Memory that calls keep for later
ones changes no result, is bounded and can be given back.
"""

from __future__ import annotations

import functools
import itertools
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rustloss as rl

Call = Callable[[], Any]

STEPS_KIB = [256 * 2**k for k in range(13)]
"""Room beside what the process has: from 256 KiB to 1 GiB."""


def _float32(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _elementwise(name: str, label: float, **params: Any) -> Callable[[], list[Call]]:
    def calls() -> list[Call]:
        x = np.abs(_float32(2000, 500)) / 8
        y = np.full_like(x, label)
        loss = getattr(rl, name)(**params)
        w = np.ones(x.shape, np.float32)
        out = np.empty_like(x)
        return [
            lambda: loss(x, y),
            lambda: loss.value_and_grad(x, y, w, grad_out=out),
            lambda: loss.value_and_grad(x[:, ::2], y[:, ::2], w[:, ::2]),
            lambda: loss.value_and_grad(x.T, y.astype(np.float64).T, w.T),
        ]

    return calls


def _sums() -> list[Call]:
    x = np.broadcast_to(np.float32(0.5), (2**12, 2**14))
    y = np.broadcast_to(np.float32(1), x.shape)
    weight = np.broadcast_to(np.float32(2), (2**12, 1))
    total = rl.L2Loss(reduction="sum")
    return [
        lambda: total(x, y),
        lambda: total(x, y, weight),
        lambda: rl.L2Loss(reduction="weighted_mean")(x, y, weight),
        lambda: rl.L2Loss(reduction="sample_weighted_mean")(x, y, weight),
        lambda: rl.SigmoidBCELoss(reduction="sum").value_and_grad(
            x[:100], y[:100], None, np.ones(2**14), wrt="pos_weight"
        ),
    ]


def _cross_entropy(classes: int, rows: int, **params: Any) -> Callable[[], list[Call]]:
    def calls() -> list[Call]:
        x = _float32(rows, classes)
        label = np.zeros(rows, np.int64)
        weight = np.ones(rows)
        out = np.empty_like(x)
        loss = rl.SoftmaxCELoss(**params)
        dense = rl.SoftmaxCELoss(sparse_label=False)
        return [
            lambda: loss(x, label),
            lambda: loss.value_and_grad(x, label, weight, grad_out=out),
            lambda: loss.grad_hess(x.astype(np.float16), label),
            lambda: dense.value_and_grad(x, x * 0, wrt=("pred", "label")),
        ]

    return calls


def _rows() -> list[Call]:
    x, y, z = (_float32(3000, 300, seed=seed) for seed in range(3))
    share = np.abs(y) / np.abs(y).sum(axis=1, keepdims=True)
    label = np.ones(3000)
    return [
        lambda: rl.KLDivLoss().value_and_grad(x, share),
        lambda: rl.KLDivLoss(from_logits=False).value_and_grad(x, share, wrt=("pred", "label")),
        lambda: rl.KLDivLoss(from_logits=False, reduction="none").value_and_grad(x, share),
        lambda: rl.KLDivLoss(from_logits=False).value_and_grad(x, share[0], wrt="label"),
        lambda: rl.TripletLoss().value_and_grad(x, y, z),
        lambda: rl.TripletLoss().value_and_grad(x.T, y.T, z.T),
        lambda: rl.CosineEmbeddingLoss().value_and_grad(x, y, label),
        lambda: rl.CosineEmbeddingLoss()(x[:2].repeat(20, 1), y[:2].repeat(20, 1), label[:2]),
    ]


def _pairs() -> list[Call]:
    x = _float32(700, 40)
    return [
        lambda: rl.SDMLLoss()(x, x + 1),
        lambda: rl.SDMLLoss().value_and_grad(x, x + 1),
        lambda: rl.SDMLLoss(reduction="none").value_and_grad(x, x + 1, np.ones(700)),
        lambda: rl.SDMLLoss(memory_limit=1 << 18).value_and_grad(x, x + 1),
        lambda: rl.InfoNCELoss().value_and_grad(x, x + 1),
        lambda: rl.InfoNCELoss(memory_limit=1 << 18).value_and_grad(x, x + 1, np.ones(700)),
    ]


def _ctc(**params: Any) -> Callable[[], list[Call]]:
    def calls() -> list[Call]:
        x = _float32(40, 200, 60)
        label = np.arange(40 * 30).reshape(40, 30) % 59
        flat, lengths = label.ravel(), np.full(40, 30)
        loss = rl.CTCLoss(**params)
        long, labels = _float32(1, 6000, 8), np.arange(2500)[None] % 7
        return [
            lambda: loss(x, label),
            lambda: loss.value_and_grad(x, flat, None, lengths),
            lambda: loss.value_and_grad(x.astype(np.float16), label.tolist()),
            lambda: loss.value_and_grad(x[:, :, ::2][:, :, :30], label % 29),
            lambda: loss.value_and_grad(long, labels),
            lambda: loss.posteriors(x, label),
            lambda: loss.align(x, label),
        ]

    return calls


CASES: dict[str, Callable[[], list[Call]]] = {
    "l1": _elementwise("L1Loss", 0.0),
    "l2, none": _elementwise("L2Loss", 0.0, reduction="none"),
    "huber, mean": _elementwise("HuberLoss", 0.0, reduction="mean"),
    "hinge": _elementwise("HingeLoss", 1.0),
    "logistic, sample sum": _elementwise("LogisticLoss", 1.0, reduction="sample_sum"),
    "bce": _elementwise("SigmoidBCELoss", 1.0, reduction="sample_weighted_mean"),
    "poisson": _elementwise("PoissonNLLLoss", 1.0, compute_full=True, reduction="weighted_mean"),
    "sums": _sums,
    "cross-entropy, few classes": _cross_entropy(5, 400_000),
    "cross-entropy, many classes": _cross_entropy(20_000, 60),
    "cross-entropy, smoothed": _cross_entropy(50, 20_000, label_smoothing=0.1, axis=-1),
    "cross-entropy, weighted": _cross_entropy(
        50, 20_000, class_weight=list(range(50)), reduction="weighted_mean", ignore_index=-1
    ),
    "rows": _rows,
    "pairs": _pairs,
    "ctc": _ctc(),
    "ctc, little memory": _ctc(memory_limit=1 << 25, reduction="target_mean"),
}


def _address_space_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize() // 1024


def _arrays(result: Any) -> list[Any]:
    if isinstance(result, tuple):
        return [array for part in result for array in _arrays(part)]
    if isinstance(result, rl.Alignment):
        return [result.index, result.log_prob, result.posterior]
    return [np.array(result)]


def main(name: str) -> None:
    """Run a case in this process: raises, or prints how many calls were refused."""
    calls = CASES[name]()
    expected = [_arrays(call()) for call in calls]
    refused = 0
    small = np.ones((2, 2))
    for call, results in zip(calls, expected, strict=True):
        for step in STEPS_KIB:
            limit = (_address_space_kib() + step) * 1024
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            try:
                found = _arrays(call())
            except MemoryError:
                found = None
            finally:
                unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                resource.setrlimit(resource.RLIMIT_AS, unlimited)
            assert rl.L2Loss()(small, 3 * small).tolist() == [2, 2]
            if found is None:
                refused += 1
                continue
            for array, other in zip(found, results, strict=True):
                np.testing.assert_array_equal(array, other)
            break
        else:
            raise AssertionError("the call was refused to the end")
    print("refused", refused)


@pytest.mark.skipif(sys.platform != "linux", reason="address spaces are limited on Linux")
@pytest.mark.parametrize("name", CASES)
def test_refused_memory_is_an_error(name):
    code = f"import test_memory; test_memory.main({name!r})"
    environment = {
        "PYTHONPATH": str(Path(__file__).parent),
        "OPENBLAS_NUM_THREADS": "1",
        # Whatever is large comes from the system and goes back to it.
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert child.returncode == 0, (child.returncode, child.stderr[-2000:])
    word, count = child.stdout.split()
    assert word == "refused"
    assert int(count) > 0


GIVEN_BACK = """
import resource
import numpy as np
import rustloss as rl

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize()

rng = np.random.default_rng(0)
pred, label = rng.normal(size=(8, 2000, 8)).astype(np.float32), rng.integers(0, 7, (8, 400))
vectors = rng.normal(size=(2, 1000, 64)).astype(np.float32)
CTC = rl.CTCLoss(), pred, label
PAIRS = rl.InfoNCELoss(), *vectors
loss, *arrays = {which}
for threads in (1, 2, 4, 8):
    with rl.num_threads(threads):
        loss.value_and_grad(*arrays)
before = resident()
given_back = rl.release_memory()
print(given_back, before - resident(), rl.release_memory())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("which", ["CTC", "PAIRS"])
def test_memory_that_calls_keep_is_bounded_and_given_back(which) -> None:
    script = GIVEN_BACK.format(which=which)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    kept, less, again = map(int, done.stdout.split())
    assert 0 < kept <= 64 << 20
    # The system's allocator may hold on to some of it.
    assert less >= kept / 2
    assert again == 0


def _of_pairs() -> list[Call]:
    """Return calls of the losses that keep scratch, of several sizes, types and paths."""
    random = np.random.default_rng(0)
    calls: list[Call] = []
    losses = (
        rl.SDMLLoss(),
        rl.SDMLLoss(memory_limit=20_000),
        rl.InfoNCELoss(),
        rl.InfoNCELoss(10.0, similarity="dot", symmetric=False),
        rl.InfoNCELoss(10.0, similarity="dot", memory_limit=20_000),
    )
    for (n, d), dtype in itertools.product([(5, 3), (70, 40), (150, 700)], ["f", "d"]):
        x1, x2 = random.normal(size=(2, n, d)).astype(dtype)
        # A vector of weight 0 may hold anything.
        weight, hole = np.ones(n), x2.copy()
        weight[1], hole[1] = 0, np.nan
        near = x1 + np.asarray(1e-3, dtype) * x2
        for loss in losses:
            calls += [
                functools.partial(loss.value_and_grad, x1, x2),
                functools.partial(loss.value_and_grad, np.asfortranarray(x1), near, wrt="x2"),
                functools.partial(loss.value_and_grad, hole, hole, weight),
                functools.partial(loss, x1, x2),
            ]
        pred, label = x1.reshape(1, n, d), random.integers(0, d - 1, (1, 3))
        calls.append(functools.partial(rl.CTCLoss().value_and_grad, pred, label))
    return calls


def _bytes(result: Any) -> bytes:
    results = result if isinstance(result, tuple) else (result,)
    return b"".join(_bytes(r) if isinstance(r, tuple) else r.tobytes() for r in results)


def test_what_earlier_calls_left_changes_no_result():
    calls = _of_pairs()
    fresh = []
    for call in calls:
        rl.release_memory()
        fresh.append(_bytes(call()))
    random = np.random.default_rng(1)
    for threads in (1, 2, 3):
        with rl.num_threads(threads):
            for at in random.permutation(2 * len(calls)) % len(calls):
                assert _bytes(calls[at]()) == fresh[at], (threads, calls[at])

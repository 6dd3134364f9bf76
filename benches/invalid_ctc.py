"""Ask every installed library for CTC losses of calls that are invalid, and record the answers.

Each call runs in a process of its own, for some end it. The record keeps the answers of libraries
that are not installed here, so that several environments can fill it one after another.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

import records

FRAMES, SAMPLES, CLASSES = 6, 2, 5
Integers = npt.NDArray[np.int32]


def _integers(*numbers: int) -> Integers:
    return np.array(numbers, np.int32)


@dataclass(frozen=True)
class Call:
    """Two samples whose blank is class 0; the second has one label less."""

    label: Integers
    frames: Integers
    length: Integers

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """Samples, frames, classes."""
        shape = (SAMPLES, FRAMES, CLASSES)
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def labelled(self, number: int) -> Call:
        """Replace one label of the first sample."""
        label = self.label.copy()
        label[0, 1] = number
        return replace(self, label=label)


VALID = Call(np.array([[1, 2, 3], [2, 1, 0]], np.int32), _integers(6, 6), _integers(3, 2))
CALLS = {
    "valid": VALID,
    "label = number of classes": VALID.labelled(CLASSES),
    "label 1,000,000": VALID.labelled(1_000_000),
    "label -1 within the length": VALID.labelled(-1),
    "label -2,000,000,000": VALID.labelled(-2_000_000_000),
    "label = blank": VALID.labelled(0),
    "100 frames of 6": replace(VALID, frames=_integers(6, 100)),
    "-5 frames": replace(VALID, frames=_integers(6, -5)),
    "label of length 50 in 3": replace(VALID, length=_integers(3, 50)),
    "label of length -4": replace(VALID, length=_integers(3, -4)),
}


def with_rustloss(call: Call) -> float:
    """Return the sum of both losses."""
    import rustloss as rl

    loss = rl.CTCLoss(blank="first", reduction="sum")
    return float(loss.value_and_grad(call.logits, call.label, call.frames, call.length)[0])


def with_torch(call: Call) -> float:
    """Return the sum of both losses, after a backward pass."""
    import torch

    logits = torch.tensor(call.logits, requires_grad=True)
    log_probs = logits.transpose(0, 1).log_softmax(2)
    others = (torch.tensor(array).long() for array in (call.label, call.frames, call.length))
    loss = torch.nn.functional.ctc_loss(log_probs, *others, reduction="sum")
    loss.backward()
    return float(loss)


def with_optax(call: Call) -> float:
    """Return the sum of both losses, together with the gradient."""
    import jax
    import optax

    steps, places = np.arange(FRAMES), np.arange(call.label.shape[1])
    paddings = steps >= call.frames[:, None], places >= call.length[:, None]

    def loss(logits: jax.Array) -> jax.Array:
        logit_paddings, label_paddings = (padding.astype(np.float32) for padding in paddings)
        return optax.ctc_loss(logits, logit_paddings, call.label, label_paddings).sum()

    return float(jax.value_and_grad(loss)(call.logits)[0])


def with_tensorflow(call: Call) -> float:
    """Return the sum of both losses, together with the gradient."""
    import tensorflow as tf

    logits = tf.constant(call.logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = tf.nn.ctc_loss(
            call.label, logits, call.length, call.frames, logits_time_major=False, blank_index=0
        )
    tape.gradient(losses, logits)
    return float(tf.reduce_sum(losses))


def with_mxnet(call: Call) -> float:
    """Return the sum of both losses, after a backward pass."""
    np.bool = bool  # type: ignore[misc, assignment]  # MXNet 1.9 asks NumPy for it
    from mxnet import autograd, nd

    logits = nd.array(call.logits.swapaxes(0, 1))
    logits.attach_grad()
    with autograd.record():
        losses = nd.CTCLoss(
            logits,
            nd.array(call.label),
            nd.array(call.frames),
            nd.array(call.length),
            use_data_lengths=True,
            use_label_lengths=True,
            blank_label="first",
        )
    losses.backward()
    logits.grad.wait_to_read()
    return float(losses.sum().asscalar())


LIBRARIES: dict[str, Callable[[Call], float]] = {
    "rustloss": with_rustloss,
    "torch": with_torch,
    "optax": with_optax,
    "tensorflow": with_tensorflow,
    "mxnet": with_mxnet,
}


def answer(library: str, call: str) -> str:
    """Run one call in a process of its own."""
    command = [sys.executable, __file__, "--one", library, call]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode < 0:
        return signal.Signals(-done.returncode).name
    return done.stdout.splitlines()[-1]


def main() -> None:
    """Record the answers of all libraries that are installed, or print one answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("LIBRARY", "CALL"))
    arguments = parser.parse_args()
    if arguments.one:
        library, call = arguments.one
        warnings.simplefilter("ignore")
        try:
            print(f"{LIBRARIES[library](CALLS[call]):.4g}")
        except Exception as error:  # noqa: BLE001 (which one it is, is the answer)
            print(type(error).__name__)
        return
    record = records.load("invalid_ctc") or {"versions": {}, "answers": {}}
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is not None:
            record["answers"][library] = {call: answer(library, call) for call in CALLS}
            record["versions"] |= records.versions([library])
            print(library, *record["answers"][library].values(), sep="\n  ")
    records.save("invalid_ctc", record)


if __name__ == "__main__":
    main()

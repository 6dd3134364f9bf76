"""Train a classifier of handwritten digits: NumPy for the net, rustloss for the loss.

Leaves two pictures in demo-output/ and fails if the held-out accuracy is below 95 %.
"""

import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from tqdm import trange

import rustloss as rl
from common import OUTPUT, Array, Net, split_digits

mpl.use("agg")

import matplotlib.pyplot as plt

EPOCHS = 30
BATCH = 32
HIDDEN = 64
REQUIRED_ACCURACY = 0.95


def accuracy(logits: Array, label: NDArray[np.int64]) -> float:
    """Return the share of rows whose largest logit is the label's."""
    return float((logits.argmax(axis=1) == label).mean())


def draw_history(train: list[float], held_out: list[float], path: Path) -> None:
    """Draw the mean loss after each epoch."""
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    epochs = range(1, len(train) + 1)
    ax.semilogy(epochs, train, label="training")
    ax.semilogy(epochs, held_out, label="held out")
    ax.set(title="Handwritten digits", xlabel="epoch", ylabel="softmax cross-entropy")
    ax.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Train, report, draw."""
    start = time.perf_counter()
    rng = np.random.default_rng(0)
    (image, label), (image_held_out, label_held_out) = split_digits()
    x, x_held_out = image.reshape(len(image), -1), image_held_out.reshape(len(image_held_out), -1)
    net = Net(x.shape[1], HIDDEN, 10, rng)
    loss = rl.SoftmaxCrossEntropyLoss(reduction="mean")

    train: list[float] = []
    held_out: list[float] = []
    with trange(EPOCHS, desc="training", unit="epoch") as epochs:
        for _ in epochs:
            total = 0.0
            for batch in np.split(rng.permutation(len(x)), range(BATCH, len(x), BATCH)):
                hidden, logits = net.forward(x[batch])
                value, grad = loss.value_and_grad(logits, label[batch])
                net.step(net.backward(x[batch], hidden, grad))
                total += float(value) * len(batch)
            logits = net.forward(x_held_out)[1]
            train.append(total / len(x))
            held_out.append(float(loss(logits, label_held_out)))
            score = accuracy(logits, label_held_out)
            epochs.set_postfix(loss=f"{train[-1]:.4f}", held_out=f"{score:.1%}")

    OUTPUT.mkdir(exist_ok=True)
    draw_history(train, held_out, OUTPUT / "training.png")
    gallery = rl.plot.gallery()
    gallery.savefig(OUTPUT / "losses.png", dpi=120)
    plt.close(gallery)

    print(f"held-out accuracy {score:.2%} on {len(x_held_out)} digits")
    print(f"pictures in {OUTPUT}/, {time.perf_counter() - start:.1f} s in all")
    if score < REQUIRED_ACCURACY:
        sys.exit(f"below {REQUIRED_ACCURACY:.0%}: something is wrong")


if __name__ == "__main__":
    main()

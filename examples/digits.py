"""Train a classifier of handwritten digits: NumPy for the net, rustloss for the loss.

Leaves two pictures in demo-output/ and fails if the held-out accuracy is below 95 %.
"""

import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import trange

import rustloss as rl

mpl.use("agg")

import matplotlib.pyplot as plt

Array = NDArray[np.float32]

OUTPUT = Path("demo-output")
EPOCHS = 30
BATCH = 32
HIDDEN = 64
REQUIRED_ACCURACY = 0.95


class Net:
    """Two dense layers with a ReLU between them, trained by Adam."""

    def __init__(self, inputs: int, hidden: int, outputs: int, rng: np.random.Generator) -> None:
        def dense(fan_in: int, fan_out: int) -> list[Array]:
            scale = np.sqrt(2 / fan_in)
            weight = rng.normal(scale=scale, size=(fan_in, fan_out)).astype(np.float32)
            return [weight, np.zeros(fan_out, np.float32)]

        self.params = dense(inputs, hidden) + dense(hidden, outputs)
        self.mean = [np.zeros_like(param) for param in self.params]
        self.square = [np.zeros_like(param) for param in self.params]
        self.steps = 0

    def forward(self, x: Array) -> tuple[Array, Array]:
        """Return the hidden layer and the logits."""
        w1, b1, w2, b2 = self.params
        hidden = np.maximum(x @ w1 + b1, 0)
        return hidden, hidden @ w2 + b2

    def backward(self, x: Array, hidden: Array, grad: Array) -> list[Array]:
        """Carry the gradient by the logits back to every parameter."""
        grad_hidden = (grad @ self.params[2].T) * (hidden > 0)
        return [x.T @ grad_hidden, grad_hidden.sum(0), hidden.T @ grad, grad.sum(0)]

    def step(self, grads: list[Array], rate: float = 2e-3) -> None:
        """Make one step of Adam."""
        self.steps += 1
        rate *= np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for param, grad, mean, square in zip(
            self.params, grads, self.mean, self.square, strict=True
        ):
            mean += 0.1 * (grad - mean)
            square += 0.001 * (grad * grad - square)
            param -= rate * mean / (np.sqrt(square) + 1e-8)


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
    images, digits = load_digits(return_X_y=True)
    x, x_held_out, label, label_held_out = train_test_split(
        (images / 16).astype(np.float32), digits, test_size=0.25, random_state=0, stratify=digits
    )
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

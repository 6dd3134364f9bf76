"""What the acts of the demo share: the digits, a small net, a place for pictures."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Array = NDArray[np.float32]

OUTPUT = Path("demo-output")


class Digits(NamedTuple):
    """Pictures of 8 by 8 pixels between 0 and 1, and the digits on them."""

    image: Array
    digit: NDArray[np.int64]


def split_digits() -> tuple[Digits, Digits]:
    """Return the digits to train with and those to hold out."""
    data = load_digits()
    train, held_out, digit, digit_held_out = train_test_split(
        (data.images / 16).astype(np.float32),
        data.target,
        test_size=0.25,
        random_state=0,
        stratify=data.target,
    )
    return Digits(train, digit), Digits(held_out, digit_held_out)


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

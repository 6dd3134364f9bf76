"""
Outliers, by three losses
=========================

A line through points of which some are far off. The square follows the outliers, the absolute value
and Huber's loss hardly do.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize

import rustloss as rl

rng = np.random.default_rng(0)
x = np.linspace(0, 1, 60)
y = 2 * x + 1 + rng.normal(scale=0.1, size=x.size)
y[50:] -= 4
design = np.stack([x, np.ones_like(x)], axis=1)


def fit(loss):
    """Return slope and intercept of the best line."""

    def objective(line):
        value, grad = loss.value_and_grad(design @ line, y)
        return value, design.T @ grad

    return minimize(objective, np.zeros(2), jac=True, method="BFGS").x


figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.plot(x, y, "k.", label="points")
for loss in (rl.L2Loss(reduction="mean"), rl.HuberLoss(rho=0.1, reduction="mean")):
    ax.plot(x, design @ fit(loss), label=repr(loss))
ax.legend()
plt.show()

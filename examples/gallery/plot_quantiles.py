"""
A forecast with its quantiles
=============================

`MultiQuantileLoss` fits several quantiles at once: the band is wide where the numbers scatter.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize

import rustloss as rl

rng = np.random.default_rng(0)
x = np.sort(rng.uniform(0, 1, 400))
y = np.sin(4 * x) + rng.normal(scale=0.05 + 0.4 * x)
features = np.stack([x**k for k in range(5)], axis=1)
loss = rl.MultiQuantileLoss([0.1, 0.5, 0.9], reduction="mean")


def objective(flat):
    """Return value and gradient for the coefficients of three polynomials."""
    value, grad = loss.value_and_grad(features @ flat.reshape(5, 3), y)
    return value, (features.T @ grad).ravel()


fitted = minimize(objective, np.zeros(15), jac=True, method="BFGS").x.reshape(5, 3)
low, middle, high = (features @ fitted).T
print(f"below the band {(y < low).mean():.2f}, above it {(y > high).mean():.2f}")

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.plot(x, y, "k.", markersize=3)
ax.fill_between(x, low, high, alpha=0.3, label="from the 0.1 to the 0.9 quantile")
ax.plot(x, middle, label="median")
ax.legend()
plt.show()

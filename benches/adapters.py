"""Time losses inside frameworks, beside the frameworks' own ways to compute the same.

``python benches/adapters.py [PATTERN]`` prints, for each case of the libraries that can be
imported, the microseconds of every way (the minimum) and their ratio to the first one.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import rustloss as rl
from contenders import Contender
from contenders.timing import measure
from peers import limit_threads

Run = Callable[[], Any]
Case = tuple[str, dict[str, Run]]

LARGE = (1000, 1000)
ROWS = 1_000_000
TREE_ROWS = 100_000
RANDOM = np.random.default_rng(0)


def arrays(shape: tuple[int, ...]) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield losses with a prediction and a label of them, in single precision."""
    pred = RANDOM.normal(size=shape).astype("f")
    yield "L2", rl.L2Loss, pred, RANDOM.normal(size=shape).astype("f")
    yield "BCE", rl.SigmoidBCELoss, pred, RANDOM.integers(0, 2, shape).astype("f")
    yield "CE", rl.SoftmaxCELoss, pred, RANDOM.integers(0, shape[1], shape[0])


def mean_of(loss: Any, pred: Any, label: Any) -> Any:
    """Return the mean of several values of a loss."""
    return loss(pred, label).mean()


def with_torch() -> Iterator[Case]:
    """Forward and backward: torch's own, a loss on tensors, modules; means of values."""
    import torch
    from torch.nn import functional as F

    from rustloss.torch import LossModule, nn

    own = {
        "L2": lambda x, y: F.mse_loss(x, y) / 2,
        "BCE": F.binary_cross_entropy_with_logits,
        "CE": F.cross_entropy,
    }
    modules = {"L2": nn.MSELoss(), "BCE": nn.BCEWithLogitsLoss(), "CE": nn.CrossEntropyLoss()}
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for shape in ((8, 8), LARGE):
        for name, cls, x, y in arrays(shape):
            pred, label = torch.tensor(x, requires_grad=True), torch.tensor(y)

            def step(value: Any, pred: Any = pred, label: Any = label) -> Run:
                def run() -> None:
                    pred.grad = None
                    value(pred, label).backward()

                return run

            loss = cls(reduction="mean")
            ways = {
                "torch": step(torch.nn.MSELoss() if name == "L2" else own[name]),
                "plain loss": step(loss),
                "LossModule": step(LossModule(loss)),
                "rustloss.torch.nn": step(modules[name]),
            }
            yield f"torch {name} {shape}", ways
            if shape == LARGE:
                per_value = {
                    reduction: cls(reduction=reduction) for reduction in ("sample", "none")
                }
                means = {
                    reduction: step(lambda x, y, loss=loss: loss(x, y).mean())
                    for reduction, loss in per_value.items()
                }
                yield f"torch {name} {shape} mean of values", {"mean": step(loss), **means}


def mapped(loss: Any, *given: Any) -> dict[str, Run]:
    """Return the ways to the gradients of samples: of the batch, of each by `jax.vmap`."""
    import jax

    whole = jax.jit(jax.value_and_grad(lambda x, y: loss(x, y).sum()))
    one = jax.value_and_grad(lambda x, y: loss(x[None], y[None])[0])
    each = jax.jit(jax.vmap(one))
    return {
        "batch": lambda: jax.block_until_ready(whole(*given)),
        "vmap": lambda: jax.block_until_ready(each(*given)),
    }


def with_jax() -> Iterator[Case]:
    """Value and gradient in `jax.jit`: JAX's own, ours, and ours on NumPy's arrays."""
    import jax
    import jax.numpy as jnp

    def bce(x: Any, y: Any) -> Any:
        return (jnp.maximum(x, 0) - x * y + jnp.log1p(jnp.exp(-jnp.abs(x)))).mean()

    def ce(x: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1).mean()

    own = {"L2": lambda x, y: ((x - y) ** 2).mean() / 2, "BCE": bce, "CE": ce}
    for shape in ((8, 8), LARGE):
        for name, cls, x, y in arrays(shape):
            on_jax = jnp.asarray(x), jnp.asarray(y)

            def compiled(value: Any, given: Any = on_jax) -> Run:
                step = jax.jit(jax.value_and_grad(value))
                return lambda: jax.block_until_ready(step(*given))

            loss = cls(reduction="mean")
            ways = {"jax": compiled(own[name]), "rustloss": compiled(loss)}
            ways["on NumPy"] = functools.partial(loss.value_and_grad, x, y)
            yield f"jax {name} {shape}", ways
    # Samples that are mapped over are merged into one batch.
    for name, cls, x, y in arrays(LARGE):
        yield f"jax {name} {LARGE} samples", mapped(cls(), jnp.asarray(x), jnp.asarray(y))


def with_formulas() -> Iterator[Case]:
    """Gradient and Hessian of raw scores: NumPy's formula, an objective of a booster."""
    from rustloss.boosting import xgboost

    for dtype in ("float32", "float64"):
        score = RANDOM.normal(size=ROWS).astype(dtype)
        label = RANDOM.integers(0, 2, ROWS).astype(dtype)

        def logistic(score: Any = score, label: Any = label) -> Any:
            share = 1 / (1 + np.exp(-score))
            return share - label, np.maximum(share * (1 - share), 1e-16)

        def poisson(score: Any = score, label: Any = label) -> Any:
            rate = np.exp(score)
            return rate - label, np.maximum(rate, 1e-16)

        def squared(score: Any = score, label: Any = label) -> Any:
            return score - label, np.ones_like(score)

        for formula, loss in (
            (logistic, rl.SigmoidBCELoss()),
            (poisson, rl.PoissonNLLLoss()),
            (squared, rl.L2Loss()),
        ):
            objective = xgboost(loss)
            yield (
                f"boosting {formula.__name__} {dtype}",
                {"NumPy": formula, "objective": functools.partial(objective, label, score)},
            )


def table() -> tuple[Any, Any]:
    """Return features and labels that trees have something to find in."""
    features = RANDOM.normal(size=(TREE_ROWS, 20))
    return features, (features[:, 0] * features[:, 1] + features[:, 2] > 0).astype(float)


def with_xgboost() -> Iterator[Case]:
    """Whole trainings: with the built-in logistic objective, and with ours."""
    from rustloss import boosting

    xgboost = importlib.import_module("xgboost")
    data = xgboost.DMatrix(*table())
    common = {"max_depth": 6, "base_score": 0.5, "nthread": len(os.sched_getaffinity(0))}
    own = {**common, "objective": "binary:logistic"}
    ours = boosting.xgboost(rl.SigmoidBCELoss())
    yield (
        "xgboost training",
        {
            "built in": lambda: xgboost.train(own, data, 50),
            "objective": lambda: xgboost.train({**common, "base_score": 0.0}, data, 50, obj=ours),
        },
    )


def with_lightgbm() -> Iterator[Case]:
    """Whole trainings of LightGBM: as with XGBoost."""
    from rustloss import boosting

    lightgbm = importlib.import_module("lightgbm")
    features, label = table()
    common = {"num_threads": len(os.sched_getaffinity(0)), "verbosity": -1}
    own = {**common, "objective": "binary", "boost_from_average": False}
    ours = {**common, "objective": boosting.lightgbm(rl.SigmoidBCELoss())}

    def training(params: dict[str, Any]) -> Run:
        return lambda: lightgbm.train(params, lightgbm.Dataset(features, label), 50)

    yield "lightgbm training", {"built in": training(own), "objective": training(ours)}


CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "torch": with_torch,
    "jax": with_jax,
    "numpy": with_formulas,
    "xgboost": with_xgboost,
    "lightgbm": with_lightgbm,
}


def unread(_: Any) -> Any:
    """Stand for the results of a way, which nobody looks at here."""


def main() -> None:
    """Print a line for each case."""
    pattern = re.compile(sys.argv[1] if len(sys.argv) > 1 else "")
    limit_threads(len(os.sched_getaffinity(0)))
    print(f"load {os.getloadavg()[0]:.1f}")
    for library, cases in CASES.items():
        if not importlib.util.find_spec(library):
            print(f"{library} is missing")
            continue
        for title, ways in cases():
            if not pattern.search(title):
                continue
            turns = [Contender(name, run, unread) for name, run in ways.items()]
            times = {name: timing.minimum for name, timing in measure(turns).items()}
            first = next(iter(times.values()))
            parts = (f"{name} {t * 1e6:.1f} ({t / first:.2f})" for name, t in times.items())
            print(f"{title}: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()

"""Inputs of the accuracy tests: of any scale, saturated, sure and right, next to every kink."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rng = np.random.Generator
Inputs = dict[str, Array]
Draw = Callable[[Rng, str], Inputs]

POINTS = 1500


def uniform_bits(rng: Rng, dtype: str, n: int, low: int, high: int) -> Array:
    """Return numbers of either sign with exponents from `low` up to below `high`."""
    return np.ldexp(rng.uniform(1, 2, n) * signs(rng, n), rng.integers(low, high, n)).astype(dtype)


def signs(rng: Rng, n: int) -> Array:
    return rng.choice([-1.0, 1.0], n)


def reals(rng: Rng, dtype: str, n: int) -> Array:
    """Return numbers of all kinds: usual, saturated, of any scale, subnormal, 0."""
    info = np.finfo(dtype)
    parts = [
        rng.standard_normal(n),
        10 * rng.standard_normal(n),
        signs(rng, n) * rng.uniform(20, 1000, n),
        uniform_bits(rng, dtype, n, info.minexp, info.maxexp),
        uniform_bits(rng, dtype, n, -30, 30),
        signs(rng, n) * rng.integers(0, 2**info.nmant, n) * float(info.smallest_subnormal),
        np.zeros(n),
    ]
    return one_of(rng, parts, [6, 4, 4, 3, 4, 1, 1]).astype(dtype)


def one_of(rng: Rng, parts: list[Any], shares: list[int]) -> Array:
    """Pick for every element one of the parts."""
    picked = rng.choice(len(parts), len(parts[0]), p=np.array(shares) / sum(shares))
    mixed: Array = np.choose(picked, parts)
    return mixed


def around(rng: Rng, x: Array, steps: int = 2) -> Array:
    """Move numbers by a few ulp."""
    with np.errstate(over="ignore"):
        moved = x + rng.integers(-steps, steps, x.shape, endpoint=True) * np.spacing(x)
    return np.where(np.isfinite(moved), moved, x).astype(x.dtype)


def regression(rho: float = 0.0) -> Draw:
    """Draw labels of any distance, near the prediction, and at distance `rho`."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        label = reals(rng, dtype, POINTS)
        near = around(rng, label)
        off = (label + signs(rng, POINTS) * rng.choice([1, 1e-3, 1e-6], POINTS)).astype(dtype)
        kink = around(rng, (label + rho * signs(rng, POINTS)).astype(dtype))
        pred = one_of(rng, [reals(rng, dtype, POINTS), near, off, kink], [5, 1, 1, 2])
        return {"pred": pred, "label": label}

    return draw


def badly_rounded(rng: Rng, dtype: str) -> Inputs:
    """Draw distances whose square makes the most of a relative error, on an ulp of its own."""
    distance = np.ldexp(rng.uniform(1.38, 1.4142, POINTS), rng.integers(-6, 0, POINTS))
    label = rng.uniform(-1, 1, POINTS).astype(dtype)
    return {"pred": (label + distance).astype(dtype), "label": label}


def signed(margin: float) -> Draw:
    def draw(rng: Rng, dtype: str) -> Inputs:
        label = signs(rng, POINTS).astype(dtype)
        kink = around(rng, margin * label)
        return {"pred": one_of(rng, [reals(rng, dtype, POINTS), kink], [4, 1]), "label": label}

    return draw


def distances(margin: float) -> Draw:
    """Draw numbers of all kinds, many of them next to the margin, that are to be small or large."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        kink = around(rng, np.full(POINTS, margin, dtype))
        pred = one_of(rng, [reals(rng, dtype, POINTS), kink], [4, 1])
        return {"pred": pred, "label": signs(rng, POINTS).astype(dtype)}

    return draw


def normal(epsilon: float) -> Draw:
    """Draw means as `regression` does, and variances of any scale, some of them below `epsilon`."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        mean = {k: v.clip(-1e15, 1e15) for k, v in regression()(rng, dtype).items()}
        parts = [
            rng.uniform(0.1, 4, POINTS),
            np.abs(uniform_bits(rng, dtype, POINTS, -20, 20)),
            np.full(POINTS, epsilon) * rng.choice([0.0, 0.5, 2.0], POINTS),
            # Where the logarithm is all cancellation.
            1 + rng.standard_normal(POINTS) * 1e-4,
        ]
        var = one_of(rng, parts, [4, 3, 1, 1]).astype(dtype)
        return {"pred": mean["pred"], "target": mean["label"], "var": var}

    return draw


def ranked(margin: float) -> Draw:
    """Draw scores, many of which differ by just the margin."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        first, label = reals(rng, dtype, POINTS), signs(rng, POINTS)
        near = around(rng, (first - margin * label).astype(dtype))
        second = one_of(rng, [reals(rng, dtype, POINTS), near, first], [4, 1, 1]).astype(dtype)
        return {"input1": first, "input2": second, "label": label.astype(dtype)}

    return draw


def logits(rng: Rng, dtype: str, side: Array) -> Array:
    """Draw numbers of all kinds, among them sure ones of a given side."""
    sure = side * rng.uniform(20, 80, len(side))
    usual = side * rng.uniform(-3, 20, len(side))
    return one_of(rng, [reals(rng, dtype, len(side)), sure, usual], [2, 1, 1]).astype(dtype)


def binary(low: float) -> Draw:
    """Draw labels `low` and 1."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        side = signs(rng, POINTS)
        label = np.where(side < 0, low, 1.0).astype(dtype)
        return {"pred": logits(rng, dtype, side), "label": label}

    return draw


def soft(low: float) -> Draw:
    """Draw labels between `low` and 1, many near the ends."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        z = rng.uniform(0, 1, POINTS)
        tiny = np.ldexp(z, rng.integers(-60, 0, POINTS))
        z = one_of(rng, [z, tiny, 1 - tiny, np.full(POINTS, 0.5), z.round()], [4, 2, 2, 1, 1])
        label = (low + (1 - low) * z).astype(dtype)
        pred = logits(rng, dtype, np.sign(z - 0.5))
        # Where the label is what the model says, the gradient is all cancellation.
        with np.errstate(divide="ignore"):
            match = np.clip(np.log(z) - np.log1p(-z), -700, 700).astype(dtype)
        return {"pred": one_of(rng, [pred, around(rng, match)], [3, 1]), "label": label}

    return draw


def with_positive_weight(draw: Draw) -> Draw:
    """Add weights of the positive term: of any scale, 1, and 0."""

    def weighted(rng: Rng, dtype: str) -> Inputs:
        inputs = draw(rng, dtype)
        any_scale = np.abs(uniform_bits(rng, dtype, POINTS, -20, 20))
        parts = [rng.uniform(0, 5, POINTS), any_scale, np.ones(POINTS), np.zeros(POINTS)]
        return {**inputs, "pos_weight": one_of(rng, parts, [4, 2, 1, 1]).astype(dtype)}

    return weighted


def probabilities(*, soft: bool, wrong: bool = False) -> Draw:
    """Draw probabilities, many near the ends or at the label; certain and wrong ones if wanted."""

    def near_the_ends(rng: Rng) -> Array:
        p = rng.uniform(0, 1, POINTS)
        tiny = np.ldexp(p, rng.integers(-60, 0, POINTS))
        return one_of(rng, [p, tiny, 1 - tiny, p.round()], [4, 2, 2, 1])

    def draw(rng: Rng, dtype: str) -> Inputs:
        label = near_the_ends(rng).astype(dtype)
        label = label if soft else label.round()
        match = np.clip(around(rng, label), 0, 1)
        pred = one_of(rng, [near_the_ends(rng).astype(dtype), match], [3, 1])
        is_certain = (pred == 0) | (pred == 1)
        if not wrong:
            pred = np.where(is_certain & (pred != label), pred.dtype.type(0.5), pred)
        return {"pred": pred, "label": label}

    return draw


def counts(*, rates: bool = False) -> Draw:
    """Draw Poisson targets, and rates or their logarithms."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        most = 85.0 if dtype == "float32" else 700.0
        poisson = rng.poisson(np.exp(rng.uniform(-2, 8, POINTS))).astype(np.float64)
        fractions = np.exp(rng.uniform(-20, 8, POINTS))
        target = one_of(rng, [poisson, fractions, np.zeros(POINTS)], [4, 2, 1]).astype(dtype)
        usual, any_scale = rng.normal(0, 2, POINTS), rng.uniform(-most, most, POINTS)
        match = np.log(np.maximum(target, 1e-3))
        log = one_of(rng, [usual, any_scale, match, np.zeros(POINTS)], [3, 2, 2, 1]).astype(dtype)
        pred = around(rng, np.exp(log) if rates else log)
        return {"pred": pred, "target": target}

    return draw


def rows(rng: Rng, dtype: str, n: int, classes: int) -> Array:
    """Draw rows of logits: sure, of several scales, with ties and near ties, shifted, subnormal."""
    x = rng.standard_normal((n, classes)).astype(dtype)
    # Where there are few rows, other seeds have the other kinds.
    kinds = np.arange(n) % 8 if n >= 8 else np.append(0, rng.integers(1, 8, n - 1))
    for i, (row, kind) in enumerate(zip(x, kinds, strict=True)):
        top = row.argmax()
        some = rng.integers(0, classes, 1 + classes // 4)
        match kind:
            case 0 | 2:
                row[top] += rng.uniform(20, 80)
            case 1:
                row *= rng.choice([10.0, 30.0])
            case 3:
                row *= rng.choice([0.1, 1.0, 3.0])
            case 4:
                row[some] = around(rng, np.full(len(some), row[top]))
            case 5:
                row[some] = row[top]
            case 6:
                row += rng.choice([-1000, 100, 1e4])
            case 7:
                row *= float(np.finfo(dtype).tiny) if i % 16 == 7 else 300
    return x


def sparse(n: int, classes: int) -> Draw:
    """Draw class labels, two of three the most likely class."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        x = rows(rng, dtype, n, classes)
        right = np.arange(n) % 3 != 2
        label = np.where(right, x.argmax(1), rng.integers(0, classes, n))
        return {"pred": x, "label": label}

    return draw


def level(n: int, classes: int) -> Draw:
    """Draw rows of a few equal largest logits and equal others, whose sums all round one way."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        largest = np.arange(classes) < rng.integers(1, classes, (n, 1))
        x = np.where(largest, 0.0, -rng.uniform(0.01, 0.5, (n, 1))).astype(dtype)
        return {"pred": x, "label": rng.integers(0, classes, n)}

    return draw


def hinged(n: int, classes: int, margin: float) -> Draw:
    """Draw class labels, some of a score that is next to the best other one and the margin."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        inputs = sparse(n, classes)(rng, dtype)
        x, label = inputs["pred"], inputs["label"]
        every = np.arange(n)
        others = x.copy()
        others[every, label] = -np.inf
        kink = around(rng, (others.max(1) + margin).astype(dtype))
        x[every, label] = np.where(every % 4 == 1, kink, x[every, label])
        return inputs

    return draw


def class_sets(n: int, classes: int) -> Draw:
    """Draw sets of classes, some of a score that is next to another one and the margin."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        x = rows(rng, dtype, n, classes)
        label = np.full((n, classes), -1)
        for i in range(n):
            chosen = rng.permutation(classes)[: rng.integers(0, min(classes, 6))]
            label[i, : len(chosen)] = chosen
            if i % 4 == 1 and len(chosen):
                other = np.setdiff1d(np.arange(classes), chosen)[0]
                x[i, chosen[0]] = around(rng, x[i, other : other + 1] + np.ones(1, dtype))[0]
        return {"pred": x, "label": label}

    return draw


def many_labels(n: int, classes: int) -> Draw:
    """Draw rows of logits and a label from 0 to 1 for each of them."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        label = np.resize(soft(0.0)(rng, dtype)["label"], (n, classes))
        return {"pred": rows(rng, dtype, n, classes), "label": label}

    return draw


def distributions(rng: Rng, dtype: str, x: Array) -> Array:
    """Draw distributions: smooth, peaked, one-hot, that of the logits, unnormalised, with zeros."""
    y = np.empty(x.shape)
    for i in range(len(x)):
        z = rng.standard_normal(x.shape[1:])
        match (i // 8) % 6:
            case 0:
                pass
            case 1:
                z *= 8
            case 2:
                z[x[i].argmax() if i % 2 else 0] += 1000
            case 3:
                z = x[i].astype(np.float64)
            case 4:
                z *= 3
            case 5:
                z[z < 0] = -1000
        y[i] = np.exp(z - z.max())
        y[i] /= y[i].sum() * (1 if (i // 8) % 6 != 4 else 0.3)
    return y.astype(dtype)


def dense(n: int, classes: int) -> Draw:
    def draw(rng: Rng, dtype: str) -> Inputs:
        x = rows(rng, dtype, n, classes)
        return {"pred": x, "label": distributions(rng, dtype, x)}

    return draw


def log_probabilities(n: int, classes: int) -> Draw:
    def draw(rng: Rng, dtype: str) -> Inputs:
        x = rows(rng, dtype, n, classes).astype(np.float64)
        y = distributions(rng, dtype, x)
        x -= x.max(1, keepdims=True)
        return {"pred": (x - np.log(np.exp(x).sum(1, keepdims=True))).astype(dtype), "label": y}

    return draw


def sparse_log_probabilities(n: int, classes: int) -> Draw:
    def draw(rng: Rng, dtype: str) -> Inputs:
        inputs = log_probabilities(n, classes)(rng, dtype)
        return {**inputs, "label": rng.integers(0, classes, n)}

    return draw


def log_targets(draw: Draw) -> Draw:
    """Take the logarithms of labels, none of them infinite."""

    def logs(rng: Rng, dtype: str) -> Inputs:
        inputs = draw(rng, dtype)
        with np.errstate(divide="ignore"):
            label = np.maximum(np.log(inputs["label"].astype(np.float64)), -80.0)
        return {**inputs, "label": label.astype(dtype)}

    return logs


def vectors(rng: Rng, dtype: str, n: int, width: int, *, any_scale: bool) -> Array:
    scale = np.ldexp(1.0, rng.integers(-20, 20, (n, 1)) * (rng.random((n, 1)) < 0.3 * any_scale))
    return (rng.standard_normal((n, width)) * scale).astype(dtype)


def triplets(n: int, width: int) -> Draw:
    """Draw triplets, some with the positive or negative near the anchor, some near each other."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        x, p, q = (vectors(rng, dtype, n, width, any_scale=True) for _ in range(3))
        kind = np.arange(n)[:, None] % 4
        positive = np.where(kind == 1, x + 1e-3 * p, p).astype(dtype)
        negative = np.where(kind == 0, x + 1e-3 * q, q).astype(dtype)
        negative = np.where(kind == 2, around(rng, positive), negative)
        return {"pred": x, "positive": positive, "negative": negative}

    return draw


def pairs(n: int, width: int) -> Draw:
    """Draw pairs at any angle, (nearly) parallel, opposite and at a right angle; of any length."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        info = np.finfo(dtype)
        u, v = (rng.standard_normal((n, width)) for _ in range(2))
        for i in range(n):
            match i % 6:
                case 1:
                    v[i] = rng.uniform(0.1, 10) * u[i]
                case 2:
                    v[i] = u[i] + v[i] * rng.choice([1e-2, 1e-4, 1e-7])
                case 3:
                    v[i] = -u[i] + v[i] * 1e-3
                case 4:
                    v[i] -= u[i] * (u[i] @ v[i]) / (u[i] @ u[i])
        low, high = info.minexp - info.nmant // 2, info.maxexp - 10
        scales = np.ldexp(1.0, rng.integers(low, high, (2, n, 1)) // rng.choice([1, 64], (2, n, 1)))
        label = rng.choice([-1, 1], n)
        return {
            "input1": (u * scales[0]).astype(dtype),
            "input2": (v * scales[1]).astype(dtype),
            "label": label.astype(dtype),
        }

    return draw


def forecasts(n: int, width: int) -> Draw:
    """Draw vectors and a number for each: of any scale, with ties, equal to a member, outside."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        x = rng.standard_normal((n, width)).astype(dtype)
        label = rng.standard_normal(n).astype(dtype)
        members = rng.integers(0, width, n)
        for i, member in enumerate(members):
            match i % 6:
                case 1:
                    x[i] = uniform_bits(rng, dtype, width, -30, 30)
                case 2:
                    x[i], label[i] = np.round(4 * x[i]) / 4, np.round(4 * label[i]) / 4
                case 3:
                    label[i] = x[i, member]
                case 4:
                    x[i] = around(rng, np.full_like(x[i], x[i, member]))
                    label[i] = around(rng, x[i, :1])[0]
                case 5:
                    label[i] *= rng.choice([1e-3, 1e4])
        return {"pred": x, "label": label}

    return draw


def neighbours(n: int, width: int, apart: float) -> Draw:
    """Draw two batches of the same things, or two narrow ones at a distance from each other."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        scale = (0.5 / apart if apart else rng.choice([0.3, 1.0, 3.0])) / width**0.5
        x1 = scale * rng.standard_normal((n, width))
        x2 = x1 + rng.choice([0.1, 1.0]) * scale * rng.standard_normal((n, width))
        return {"x1": x1.astype(dtype), "x2": (x2 + apart / width**0.5).astype(dtype)}

    return draw


def transcriptions(n: int, frames: int, classes: int, longest: int) -> Draw:
    """Draw utterances of several scales, the label among them likely or not, with repeats."""

    def draw(rng: Rng, dtype: str) -> Inputs:
        pred = rng.standard_normal((n, frames, classes)) * rng.choice([0.3, 1, 5, 30], (n, 1, 1))
        label = np.full((n, longest), -1)
        for i in range(n):
            # Two frames for each token are enough for any repeats.
            length = rng.integers(0, min(longest, (frames - 1) // 2) + 1)
            label[i, :length] = rng.integers(0, classes - 1, length)
            if i % 3 == 0:
                spoken = np.full(frames, classes - 1)
                spoken[1 : 2 * length : 2] = label[i, :length]
                pred[i, np.arange(frames), spoken] += rng.uniform(2, 40)
        return {"pred": pred.astype(dtype), "label": label}

    return draw

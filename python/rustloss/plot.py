"""Pictures of losses: value, gradient and second derivative against the prediction.

Needs matplotlib, which the extra ``plot`` brings and which is imported when something is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import rustloss
from rustloss import _core

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    from rustloss._loss import Loss

__all__ = ["curve", "gallery", "sample"]

_BESIDE: dict[str, dict[str, Any]] = {
    "elementwise": {
        "Real": 0.0,
        "Sign": 1.0,
        "Probability": 1.0,
        "Positive": 1.0,
        "NonNegative": 1.0,
        "Variance": 1.0,
    },
    "rowwise": {
        "Classes": [0],
        "ClassSets": [[0, -1]],
        "Probability": [[1.0, 0.0]],
        "SoftClasses": [[0.75, 0.25]],
        "Distribution": [[0.75, 0.25]],
        "Real PerVector": [0.0],
    },
}
"""What stands beside the moving prediction unless the caller says so, by domain, perhaps shape."""


def sample(
    loss: Loss,
    *inputs: Any,
    row: ArrayLike | None = None,
    index: int = 0,
    low: float = -4.0,
    high: float = 4.0,
    points: int = 401,
    **named: Any,
) -> dict[str, NDArray[np.float64]]:
    """Return a loss and its derivatives at points of the prediction: what `curve` draws.

    The prediction is one number that moves, or one entry of a row that otherwise stands still.

    Parameters
    ----------
    loss : Loss
        An elementwise or rowwise loss. Its reduction plays no part: there is one sample.
    *inputs, **named
        What the loss is called with after the prediction: ``label=1``, ``pos_weight=3``. By default
        labels are 0 if they may be any number, else 1; class labels are 0.
    row : array_like, optional
        The prediction of a rowwise loss; ``[0, 0]`` by default.
    index : int, default 0
        The entry of `row` that moves.
    low, high : float, default -4 and 4
        From where to where.
    points : int, default 401
        In how many points.

    Returns
    -------
    dict
        ``"x"``, ``"value"``, ``"gradient"`` and, if the loss has one, ``"second derivative"``.

    Raises
    ------
    TypeError
        If the loss has no such curve (it compares samples or aligns sequences), or if an input has
        no default.

    Examples
    --------
    >>> import rustloss as rl
    >>> points = rl.plot.sample(rl.HuberLoss(), low=-2, high=2, points=5)
    >>> print(points["x"], points["value"])
    [-2. -1.  0.  1.  2.] [1.5 0.5 0.  0.5 1.5]
    """
    spec = _spec(type(loss).__name__)
    if spec["family"] not in _BESIDE:
        raise TypeError(f"{spec['name']} is not a function of one prediction: nothing to draw")
    first, *others = loss._inputs
    for other in others[len(inputs) :]:
        if other["required"] and other["name"] not in named:
            named[other["name"]] = _beside(spec, other)

    pred = np.zeros(() if spec["family"] == "elementwise" else (1, 2))
    if row is not None:
        pred = np.array(row, dtype=np.float64, ndmin=2)
    moving = pred.reshape(-1)[index : index + 1 or None]
    x = np.linspace(low, high, points)
    names = ["value", "gradient"] + ["second derivative"] * spec["hess"]
    lines = np.full((len(names), points), np.nan)
    for i, at in enumerate(x):
        moving[:] = at
        value, grad = loss.value_and_grad(pred, *inputs, wrt=first["name"], **named)
        lines[:2, i] = np.sum(value), np.ravel(grad)[index]
        if spec["hess"]:
            lines[2, i] = np.ravel(loss.grad_hess(pred, *inputs, **named)[1])[index]
    return {"x": x, **dict(zip(names, lines, strict=True))}


def curve(loss: Loss, *inputs: Any, ax: Axes | None = None, **named: Any) -> Axes:
    """Draw a loss and its derivatives against the prediction.

    Parameters
    ----------
    loss : Loss
        An elementwise or rowwise loss.
    *inputs, **named
        What `sample` takes: the other inputs, `row`, `index`, `low`, `high` and `points`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the current axes by default.

    Returns
    -------
    matplotlib.axes.Axes
        `ax`, with a line for each of value, gradient and, if the loss has one, second derivative.

    Raises
    ------
    TypeError
        If the loss has no such curve, as `sample` says.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import rustloss as rl
    >>> ax = rl.plot.curve(rl.HuberLoss(rho=2), label=0, ax=plt.figure().add_subplot())
    >>> [line.get_label() for line in ax.lines]
    ['value', 'gradient', 'second derivative']
    """
    lines = sample(loss, *inputs, **named)
    x = lines.pop("x")
    if ax is None:
        ax = _pyplot().gca()
    for (name, line), style in zip(lines.items(), ("-", "--", ":"), strict=False):
        ax.plot(x, line, style, label=name)
    ax.set(title=repr(loss), xlabel=loss._inputs[0]["name"])
    ax.legend()
    return ax


def gallery(columns: int = 3) -> Figure:
    """Draw the curves of all losses that are a function of one real prediction.

    Parameters
    ----------
    columns : int, default 3
        How many to put side by side.

    Returns
    -------
    matplotlib.figure.Figure
        One picture per loss, with default parameters and labels as `curve` takes them.
    """
    losses = [getattr(rustloss, spec["name"])() for spec in _core.registry()]
    losses = [loss for loss in losses if _has_defaults(loss)]
    rows = -(-len(losses) // columns)
    figure: Figure = _pyplot().figure(figsize=(4.5 * columns, 3.5 * rows), layout="constrained")
    for place, loss in enumerate(losses, start=1):
        curve(loss, ax=figure.add_subplot(rows, columns, place))
    return figure


def _spec(name: str) -> dict[str, Any]:
    """Return what the registry says of a loss."""
    return next(spec for spec in _core.registry() if spec["name"] == name)


def _default(family: str, other: dict[str, Any]) -> Any:
    """Return the default of an input other than the prediction, None if it has none."""
    defaults, domain = _BESIDE.get(family, {}), other["domain"]
    return defaults.get(domain, defaults.get(f"{domain} {other['shape']}"))


def _beside(spec: dict[str, Any], other: dict[str, Any]) -> Any:
    """Return the default of an input other than the prediction."""
    default = _default(spec["family"], other)
    if default is None:
        raise TypeError(f"{other['name']}: no default for a curve of {spec['name']}")
    return default


def _has_defaults(loss: Loss) -> bool:
    """Tell whether a curve needs nothing but the loss."""
    family = _spec(type(loss).__name__)["family"]
    first, *others = loss._inputs
    required = [other for other in others if other["required"]]
    return first["domain"] == "Real" and all(
        _default(family, other) is not None for other in required
    )


def _pyplot() -> ModuleType:
    """Import matplotlib, or say how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("rustloss.plot needs matplotlib: pip install 'rustloss[plot]'") from error
    return plt

"""Measure the worst error of the vector math and of every loss, beside PyTorch's where it is.

Errors are in ulp of the sum of the absolute terms, against mpmath and over the points of the
accuracy tests: value, gradient, and the second derivative where there is one (PyTorch's is not
measured). S is the largest logit of a row minus the smallest.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rustloss import _core

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from reference import math_mpmath
from reference.points import CASES, DTYPES, Case, run

HAS_TORCH = importlib.util.find_spec("torch") is not None
if HAS_TORCH:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(1)

Array = npt.NDArray[Any]

FUNCTION_POINTS = 4000
FUNCTION_BOUNDS = dict.fromkeys(math_mpmath.FUNCTIONS, 2) | {"log_factorial": 4}

LEGEND = (
    "Worst error in ulp of the sum of the absolute terms: value / gradient / second derivative."
)
COLUMNS = ["", "bound", *DTYPES, *(f"torch {dtype}" for dtype in DTYPES), "of the bound"]
WIDTHS = [62, 30, *[22] * 2, *[20] * 2, 12]


def _torch_bce(params: Any, x: Any, z: Any, pos_weight: Any = None) -> Any:
    if not params.get("from_sigmoid"):
        return F.binary_cross_entropy_with_logits(x, z, pos_weight=pos_weight, reduction="none")
    epsilon = params.get("epsilon", 0.0)
    if pos_weight is None and not epsilon and not params.get("clamp"):
        return F.binary_cross_entropy(x, z, reduction="none")
    positive = z if pos_weight is None else pos_weight * z
    if params.get("clamp"):
        hit, miss = (torch.log(p).clamp(min=-100) for p in (x, 1 - x))
        return -positive * hit - (1 - z) * miss
    return -positive * torch.log(x + epsilon) - (1 - z) * torch.log(1 - x + epsilon)


def _torch_logistic(params: Any, x: Any, y: Any) -> Any:
    return _torch_bce({}, x, y if params.get("label_format") == "binary" else (y + 1) / 2)


def _torch_poisson(params: Any, x: Any, t: Any) -> Any:
    full, log = params.get("compute_full", False), params.get("from_logits", True)
    stirling = full == "stirling"
    value = F.poisson_nll_loss(x, t, log_input=log, full=stirling, reduction="none")
    return value + torch.lgamma(t + 1) if full is True else value


def _torch_ce(params: Any, x: Any, y: Any) -> Any:
    if params.get("from_logits"):
        is_sparse = params.get("sparse_label", True)
        return F.nll_loss(x, y, reduction="none") if is_sparse else -(y * x).sum(1)
    weight = params.get("class_weight")
    value = F.cross_entropy(
        x,
        y,
        weight=None if weight is None else torch.tensor(weight, dtype=x.dtype),
        label_smoothing=params.get("label_smoothing", 0.0),
        reduction="none",
    )
    z_loss = params.get("z_loss")
    return value + z_loss * torch.logsumexp(x, 1).square() if z_loss else value


def _torch_of_label(weights: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Return -log p of the label, and the weight of its class."""
    costs = torch.tensor([1.0] * x.shape[1] if weights is None else weights, dtype=x.dtype)
    return F.cross_entropy(x, y, reduction="none"), costs[y]


def _torch_focal(params: Any, x: Any, y: Any) -> Any:
    nll, weight = _torch_of_label(params.get("alpha"), x, y)
    return weight * (1 - torch.exp(-nll)) ** params["gamma"] * nll


def _torch_poly(params: Any, x: Any, y: Any) -> Any:
    nll, weight = _torch_of_label(params.get("class_weight"), x, y)
    return weight * (nll + params["epsilon"] * (1 - torch.exp(-nll)))


def _torch_categorical_hinge(params: Any, x: Any, y: Any) -> Any:
    others = x.scatter(1, y[:, None], -torch.inf).max(1).values
    return F.relu(params["margin"] + others - x.gather(1, y[:, None])[:, 0])


def _torch_quantiles(params: Any, x: Any, y: Any) -> Any:
    count = x.shape[1]
    q = torch.tensor(params.get("quantiles", (np.arange(count) + 0.5) / count), dtype=x.dtype)
    error = y[:, None] - x
    return torch.maximum(q * error, (q - 1) * error).mean(1)


def _torch_crps(params: Any, x: Any, y: Any) -> Any:
    members = x.shape[1]
    pairs = members * (members - 1) if params.get("fair") and members > 1 else members**2
    apart = (x[:, :, None] - x[:, None, :]).abs().sum((1, 2))
    return (x - y[:, None]).abs().mean(1) - apart / (2 * pairs)


def _torch_kl(params: Any, x: Any, y: Any) -> Any:
    heat, epsilon = params.get("temperature", 1.0), params.get("epsilon", 0.0)
    log_prob = x if params.get("from_logits", True) else F.log_softmax(x / heat, 1)
    if epsilon:
        return y * (torch.log(y + epsilon) - log_prob)
    log_target = params.get("log_target", False)
    return heat**2 * F.kl_div(log_prob, y, reduction="none", log_target=log_target)


def _torch_triplet(params: Any, x: Any, p: Any, n: Any) -> Any:
    return F.relu(params["margin"] + ((p - x).square() - (n - x).square()).sum(1))


def _torch_multi_margin(params: Any, x: Any, y: Any) -> Any:
    weight = params.get("class_weight")
    costs = None if weight is None else torch.tensor(weight, dtype=x.dtype)
    how = {"p": params["p"], "margin": params["margin"], "weight": costs}
    return F.multi_margin_loss(x, y, reduction="none", **how)


def _torch_multilabel_soft_margin(params: Any, x: Any, y: Any) -> Any:
    weight = params.get("class_weight")
    costs = None if weight is None else torch.tensor(weight, dtype=x.dtype)
    return F.multilabel_soft_margin_loss(x, y, weight=costs, reduction="none")


def _torch_triplet_margin(params: Any, x: Any, p: Any, n: Any) -> Any:
    how = {"margin": params["margin"], "p": params["p"], "eps": params["epsilon"]}
    return F.triplet_margin_loss(x, p, n, swap=params.get("swap", False), reduction="none", **how)


def _torch_sdml(params: Any, x1: Any, x2: Any) -> Any:
    n, smoothing = len(x1), params["smoothing_parameter"]
    target = torch.full((n, n), smoothing / (n - 1), dtype=x1.dtype).fill_diagonal_(1 - smoothing)
    distances = (x1[:, None] - x2[None]).square().sum(2)
    return F.kl_div(F.log_softmax(-distances, 1), target, reduction="none")


def _torch_info_nce(params: Any, x1: Any, x2: Any) -> Any:
    if params["similarity"] == "cosine":
        x1, x2 = F.normalize(x1), F.normalize(x2)
    logits, own = x1 @ x2.T / params["temperature"], torch.arange(len(x1))
    value = F.cross_entropy(logits, own, reduction="none")
    if not params["symmetric"]:
        return value
    return (value + F.cross_entropy(logits.T, own, reduction="none")) / 2


def _torch_ctc(_: Any, x: Any, label: Any) -> Any:
    samples, frames, classes = x.shape
    return F.ctc_loss(
        F.log_softmax(x, 2).transpose(0, 1),
        label.clamp(min=0),
        torch.full((samples,), frames),
        (label >= 0).sum(1),
        classes - 1,
        reduction="none",
    )


TORCH: dict[str, Callable[..., Any]] = {
    "L1Loss": lambda _, x, y: F.l1_loss(x, y, reduction="none"),
    "L2Loss": lambda _, x, y: 0.5 * F.mse_loss(x, y, reduction="none"),
    "HuberLoss": lambda p, x, y: F.smooth_l1_loss(x, y, beta=p["rho"], reduction="none"),
    "HingeLoss": lambda p, x, y: F.relu(p["margin"] - x * y),
    "SquaredHingeLoss": lambda p, x, y: F.relu(p["margin"] - x * y).square(),
    "LogisticLoss": _torch_logistic,
    "SigmoidBinaryCrossEntropyLoss": _torch_bce,
    "PoissonNLLLoss": _torch_poisson,
    "SoftmaxCrossEntropyLoss": _torch_ce,
    "SoftmaxFocalLoss": _torch_focal,
    "PolyLoss": _torch_poly,
    "CategoricalHingeLoss": _torch_categorical_hinge,
    "MultiQuantileLoss": _torch_quantiles,
    "CRPSLoss": _torch_crps,
    "KLDivLoss": _torch_kl,
    "TripletLoss": _torch_triplet,
    "CosineEmbeddingLoss": lambda p, u, v, y: F.cosine_embedding_loss(
        u, v, y, margin=p["margin"], reduction="none"
    ),
    "GaussianNLLLoss": lambda p, x, t, v: F.gaussian_nll_loss(
        x, t, v, full=p.get("full", False), eps=p["epsilon"], reduction="none"
    ),
    "MarginRankingLoss": lambda p, a, b, y: F.margin_ranking_loss(
        a, b, y, margin=p["margin"], reduction="none"
    ),
    "HingeEmbeddingLoss": lambda p, x, y: F.hinge_embedding_loss(
        x, y, margin=p["margin"], reduction="none"
    ),
    "MultiMarginLoss": _torch_multi_margin,
    "MultiLabelMarginLoss": lambda _, x, y: F.multilabel_margin_loss(x, y, reduction="none"),
    "MultiLabelSoftMarginLoss": _torch_multilabel_soft_margin,
    "TripletMarginLoss": _torch_triplet_margin,
    "SDMLLoss": _torch_sdml,
    "InfoNCELoss": _torch_info_nce,
    "CTCLoss": _torch_ctc,
}
"""The unreduced losses: PyTorch's own where it has one, else as its users write them."""

TORCH_FUNCTIONS: dict[str, Callable[[Any], Any]] = (
    {name: getattr(torch, name) for name in ("exp", "expm1", "log", "log1p", "sigmoid")}
    | {"softplus": F.softplus, "log_sigmoid": F.logsigmoid}
    if HAS_TORCH
    else {}
)


def torch_run(case: Case, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Let PyTorch compute the unreduced value and the gradients."""
    tensors = {name: torch.tensor(x) for name, x in inputs.items()}
    wanted = [tensors[name].requires_grad_() for name in case.wrt]
    value = TORCH[case.loss](case.params, *tensors.values())
    grads = torch.autograd.grad(value.sum(), wanted, materialize_grads=True)
    results = {"value": value, **dict(zip(case.wrt, grads, strict=True))}
    return {name: x.detach().numpy() for name, x in results.items()}


def number(error: float) -> str:
    return f"{error:.2f}" if error < 100 else f"{error:.1e}"


def parts(of: Mapping[str, Any], largest: Callable[[list[Any]], Any]) -> list[Any]:
    """Return what there is of the value, of all gradients, of the second derivative."""
    gradients = largest([x for name, x in of.items() if name not in {"value", "hess"}])
    return [of["value"], gradients, *([of["hess"]] if "hess" in of else [])]


def worst(errors: Mapping[str, tuple[Array, Array]]) -> str:
    """Return the largest errors."""
    largest = {name: float(error.max()) for name, (error, _) in errors.items()}
    return " / ".join(map(number, parts(largest, max)))


def torch_cell(case: Case, inputs: dict[str, Array], exact: Any) -> str:
    """Return PyTorch's largest errors, if it has the loss and its derivatives."""
    if not HAS_TORCH or case.loss not in TORCH:
        return "missing"
    try:
        found = torch_run(case, inputs)
    except RuntimeError as error:
        if "not differentiable" not in str(error):
            raise
        return "missing"
    return worst(case.errors(inputs, exact, found))


def loss_row(case: Case) -> list[str]:
    """Return the cells of one loss."""
    cells, torch_cells, share = [], [], 0.0
    for dtype in DTYPES:
        inputs = case.inputs(dtype, 0)
        exact = case.truth(inputs)
        errors = case.errors(inputs, exact, run(case.job(inputs)))
        cells.append(worst(errors))
        share = max(share, *(float(shares.max()) for _, shares in errors.values()))
        torch_cells.append(torch_cell(case, inputs, exact))
    bound = " / ".join(map(str, parts(case.bounds, lambda bounds: max(bounds, key=lambda b: b[0]))))
    return [case.title, bound, *cells, *torch_cells, number(share)]


def arguments(name: str, dtype: str) -> Array:
    """Return numbers of a function's domain: usual, large, around 1, of any size."""
    rng = np.random.default_rng([FUNCTION_POINTS, *name.encode()])
    info = np.finfo(dtype)
    n = FUNCTION_POINTS
    exponents = rng.integers(info.minexp, info.maxexp, n)
    x = np.concatenate(
        [
            3 * rng.standard_normal(n),
            rng.uniform(-100, 100, n),
            1 + 0.1 * rng.standard_normal(n),
            np.ldexp(rng.uniform(-1, 1, n), exponents),
        ]
    ).astype(dtype)
    match name:
        case "exp_nonpositive":
            x = -abs(x)
        case "log" | "log_factorial":
            x = abs(x[x != 0])
        case "log1p":
            x = x[x > -1]
    return x


def function_row(name: str) -> list[str]:
    """Return the cells of one function of the vector math."""
    cells, torch_cells, share = [], [], 0.0
    for dtype in DTYPES:
        x = arguments(name, dtype)
        exact = math_mpmath.exact(name, x)
        error = float(math_mpmath.ulp_error(_core.vector_math(name, x), exact).max())
        cells.append(number(error))
        share = max(share, error / FUNCTION_BOUNDS[name])
        torch_cells.append("missing")
        if name in TORCH_FUNCTIONS:
            y = TORCH_FUNCTIONS[name](torch.tensor(x)).numpy()
            torch_cells[-1] = number(float(math_mpmath.ulp_error(y, exact).max()))
    return [name, str(FUNCTION_BOUNDS[name]), *cells, *torch_cells, f"{share:.2f}"]


def table(pattern: str) -> Iterator[list[str]]:
    """Yield every row as it is done."""
    for name in math_mpmath.FUNCTIONS:
        if re.search(pattern, name):
            yield function_row(name)
    for case in CASES:
        if re.search(pattern, case.title):
            yield loss_row(case)


def line(cells: list[str], *, markdown: bool) -> str:
    """Return one line of the table."""
    if markdown:
        return f"| {' | '.join(cells)} |"
    padded = [cell.rjust(width) for cell, width in zip(cells[1:], WIDTHS[1:], strict=True)]
    return " ".join([cells[0].ljust(WIDTHS[0]), *padded])


def versions() -> str:
    """Return what took part."""
    config = _core.config()
    found = [f"Python {platform.python_version()}", f"rustloss {config['version']}"]
    for name in ("numpy", "mpmath", "torch"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} missing")
    return f"{', '.join(found)}; instruction set {config['isa']}"


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="", metavar="PATTERN", help="regular expression")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args()
    print(versions())
    print(f"{LEGEND}\n")
    print(line(COLUMNS, markdown=options.markdown))
    if options.markdown:
        print(line(["---", *["---:"] * (len(COLUMNS) - 1)], markdown=True))
    for cells in table(options.cases):
        print(line(cells, markdown=options.markdown), flush=True)


if __name__ == "__main__":
    main()

"""Numbers recorded from MXNet, checked against the oracle and then against the library.

The records are MXNet's own outputs and gradients (`golden/gluon_mxnet.json`). Where 1.9.1 and 2.0
scale a loss differently, 2.0's convention is ours and is derived from 1.9.1's numbers. Where
upstream is wrong or we decided otherwise, `golden/exceptions.py` says so; nothing else may differ.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import rustloss as rl
from golden.exceptions import EXCEPTIONS
from rustloss.testing.oracles import evaluate

GOLDEN = Path(__file__).parent / "golden"

FLOAT64 = 1e-12
FLOAT64_WITH_EPSILON = 1e-10
"""Upstream adds 1e-12 inside a logarithm where we add nothing."""
CENTRAL_DIFFERENCE = 1e-7
FLOAT32 = 5e-6
FLOAT32_CTC_LOSS = 2e-7
FLOAT32_CTC_GRADIENT = 2e-6


class Subject(NamedTuple):
    """What is tested: None is the oracle, otherwise the library in this dtype."""

    dtype: type[np.floating[Any]] | None

    def run(
        self, loss: str, params: dict[str, Any], args: dict[str, Any], wrt: tuple[str, ...]
    ) -> tuple[Any, dict[str, Any]]:
        """Return value and gradients, the library being called by position as Gluon is."""
        if self.dtype is None:
            named = {key: value for key, value in args.items() if value is not None}
            value, grads, _ = evaluate(loss, params, **named)
            return value, {key: grads[key] for key in wrt}
        arrays = [None if x is None else np.asarray(x, dtype=self.dtype) for x in args.values()]
        call = getattr(rl, loss)(**params)
        value, grads = call.value_and_grad(*arrays, wrt=wrt)
        np.testing.assert_array_equal(call(*arrays), value, strict=True)
        assert {np.asarray(x).dtype for x in (value, *grads)} == {np.dtype(self.dtype)}
        return value, dict(zip(wrt, grads, strict=True))

    def tolerance(self, own: float) -> float:
        return FLOAT32 if self.dtype is np.float32 else own


SUBJECTS = [
    pytest.param(Subject(None), id="oracle"),
    pytest.param(Subject(np.float64), id="float64"),
    pytest.param(Subject(np.float32), id="float32"),
]
over_subjects = pytest.mark.parametrize("subject", SUBJECTS)

CASES = {
    case["id"]: case for case in json.loads((GOLDEN / "gluon_mxnet.json").read_text())["cases"]
}
VECTORS = json.loads((GOLDEN / "ctc_vectors.json").read_text())["ctc"]
BUILDS = (
    "mxnet_1_9_1_float64",
    "mxnet_1_9_1_float32",
    "mxnet_1_9_1_float32_onednn_off",
    "mxnet_2_0_0b1_float32",
    "reference_float64",
)
RECORDS = [
    pytest.param(name, build, id=f"{case['loss']}-{name}-{build}")
    for name, case in CASES.items()
    for build in BUILDS
    if isinstance(case[build], dict)
]

SCALE_OF_1_9_1 = {"KLDivLoss": "sample_sum", "SDMLLoss": "sample_sum", "PoissonNLLLoss": "mean"}
"""The reduction with which 2.0's losses have 1.9.1's scale."""


KINKS = {
    ("huber_kinks", "pred"): [1, 5],
    ("hinge_kinks", "pred"): [4],
    ("hinge_kinks", "label"): [4],
}
"""Elements where a central difference straddles a kink."""


def over(*names: str) -> pytest.MarkDecorator:
    """Parametrize by names of records, each under its loss."""
    named = [pytest.param(name, id=f"{CASES[name]['loss']}-{name}") for name in names]
    return pytest.mark.parametrize("name", named)


def numbers(nested: Any) -> Any:
    return np.array(nested, dtype=np.float64)


def call_args(case: dict[str, Any]) -> dict[str, Any]:
    return {
        a["name"]: None if a["value"] is None else numbers(a["value"]) for a in case["call_args"]
    }


def recorded(record: dict[str, Any]) -> dict[str, Any]:
    """Return all numbers of a record by field: the output and each gradient."""
    grads = record.get("grads") or record.get("grads_central_difference") or {}
    return {key: numbers(value) for key, value in {"output": record["output"], **grads}.items()}


def to_2_0(case: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Turn 1.9.1's numbers into 2.0's convention."""
    args = list(call_args(case).values())
    if case["loss"] == "KLDivLoss":
        return {key: value / args[0][0].size for key, value in fields.items()}
    if case["loss"] == "SDMLLoss":
        return {key: value / len(args[0]) for key, value in fields.items()}
    if case["loss"] == "CosineEmbeddingLoss":
        return {**fields, "output": fields["output"].reshape(-1)}
    if case["loss"] == "PoissonNLLLoss":
        grads = {key: value * len(args[0]) for key, value in fields.items() if key != "output"}
        return {"output": poisson_by_formula(case), **grads}
    return fields


def poisson_by_formula(case: dict[str, Any]) -> Any:
    """Return 2.0's per-sample Poisson loss, which 1.9.1's single number does not determine."""
    pred, target = call_args(case).values()
    params = case["ctor"]
    if params.get("compute_full"):
        return np.full(len(pred), math.nan)
    logits = params.get("from_logits", True)
    elements = np.exp(pred) - target * pred if logits else pred - target * np.log(pred + 1e-8)
    return elements.mean(axis=1)


def record_tolerance(case: dict[str, Any], build: str) -> float:
    if build.endswith(("float32", "onednn_off")):
        return FLOAT32
    adds_epsilon = case["loss"] in ("KLDivLoss", "SDMLLoss") or case["ctor"].get("from_sigmoid")
    return FLOAT64_WITH_EPSILON if adds_epsilon else FLOAT64


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def run_case(subject: Subject, name: str, **options: Any) -> dict[str, Any]:
    """Run a recorded call and return its numbers by field."""
    case = CASES[name]
    fields = recorded(case["mxnet_1_9_1_float32"])
    wrt: tuple[str, ...] = (case["call_args"][0]["name"],)
    if len(fields) > 1:
        wrt = tuple(key for key in fields if key != "output")
    value, by_input = subject.run(case["loss"], {**case["ctor"], **options}, call_args(case), wrt)
    return {"output": value, **by_input}


@over_subjects
@pytest.mark.parametrize(("name", "build"), RECORDS)
def test_record(subject: Subject, name: str, build: str) -> None:
    case, exception = CASES[name], EXCEPTIONS.get(name)
    if exception is not None and exception.raises:
        error = rl.errors.LabelError if exception.raises == "LabelError" else ValueError
        with pytest.raises(ValueError if subject.dtype is None else error):
            run_case(subject, name)
        return
    fields = recorded(case[build])
    if build != "mxnet_2_0_0b1_float32":
        fields = to_2_0(case, fields)
    ours = run_case(subject, name)
    for key, expected in fields.items():
        actual = np.array(ours[key])
        assert actual.shape == expected.shape, key
        central = key != "output" and build == "reference_float64"
        tolerance = CENTRAL_DIFFERENCE if central else record_tolerance(case, build)
        compared = np.ones(expected.size, dtype=bool)
        compared[list(exception.upstream.get(key, {})) if exception else []] = False
        if central:
            compared[KINKS.get((name, key), [])] = False
            compared &= ~np.isnan(expected).ravel()
        assert_close(
            actual.ravel()[compared], expected.ravel()[compared], subject.tolerance(tolerance)
        )


@over_subjects
@over(*EXCEPTIONS)
def test_exception(subject: Subject, name: str) -> None:
    case, exception = CASES[name], EXCEPTIONS[name]
    truth = case["mxnet_1_9_1_float64"] or case["reference_float64"]
    fields = recorded(truth)
    if name == "cos_zero_vector":
        fields = recorded(case["mxnet_1_9_1_float32"])
    scaled = to_2_0(case, fields)
    for key, elements in exception.upstream.items():
        for index, value in elements.items():
            # the table quotes upstream truly, and we really differ
            assert_close(fields[key].flat[index], value, FLOAT64)
            if not exception.raises:
                ours = exception.ours[key][index]
                assert not np.isclose(ours, scaled[key].flat[index], rtol=FLOAT32, atol=FLOAT32)
    if exception.raises:
        return
    actual = run_case(subject, name)
    for key, elements in exception.ours.items():
        for index, value in elements.items():
            own = record_tolerance(case, "mxnet_1_9_1_float64")
            assert_close(np.array(actual[key]).flat[index], value, subject.tolerance(own))


@over_subjects
@over(*(name for name, e in EXCEPTIONS.items() if e.option))
def test_option_gives_upstreams_number(subject: Subject, name: str) -> None:
    case = CASES[name]
    fields = recorded(case["mxnet_1_9_1_float64"] or case["reference_float64"])
    options = dict(EXCEPTIONS[name].option or {})
    if case["loss"] in SCALE_OF_1_9_1:
        options["reduction"] = SCALE_OF_1_9_1[case["loss"]]
    actual = run_case(subject, name, **options)
    for key, expected in fields.items():
        # with the epsilon in place there is nothing left to forgive
        assert_close(actual[key], expected, subject.tolerance(FLOAT64))


@pytest.mark.loss("CTCLoss")
def test_infeasible_gradient_is_zero() -> None:
    for subject in (Subject(None), Subject(np.float64), Subject(np.float32)):
        for infeasible in ("inf", "zero"):
            case = CASES["ctc_infeasible"]
            _, grads = subject.run(
                "CTCLoss", {"infeasible": infeasible}, call_args(case), ("pred",)
            )
            assert not grads["pred"][1].any()
            assert grads["pred"][0].any()


@over_subjects
@over(*(n for n, c in CASES.items() if c["loss"] in SCALE_OF_1_9_1 and n not in EXCEPTIONS))
def test_reduction_gives_the_scale_of_1_9_1(subject: Subject, name: str) -> None:
    case = CASES[name]
    fields = recorded(case["mxnet_1_9_1_float64"] or case["reference_float64"])
    truth_is_central = case["mxnet_1_9_1_float64"] is None
    actual = run_case(subject, name, reduction=SCALE_OF_1_9_1[case["loss"]])
    for key, expected in fields.items():
        central = truth_is_central and key != "output"
        own = CENTRAL_DIFFERENCE if central else FLOAT64_WITH_EPSILON
        assert_close(np.ravel(actual[key]), np.ravel(expected), subject.tolerance(own))


@over("logistic_signed", "logistic_binary", "bce_zero_logit", "bce_pos_weight_zero_logit")
def test_central_differences_side_with_us_at_logit_zero(name: str) -> None:
    central = recorded(CASES[name]["reference_float64"])["pred"]
    for index, value in EXCEPTIONS[name].ours["pred"].items():
        assert abs(central.flat[index] - value) < CENTRAL_DIFFERENCE


@pytest.mark.parametrize(
    ("name", "key"), [pytest.param(*kink, id=f"{CASES[kink[0]]['loss']}-{kink}") for kink in KINKS]
)
def test_kink_is_a_kink(name: str, key: str) -> None:
    fields = recorded(CASES[name]["mxnet_1_9_1_float64"])
    central = recorded(CASES[name]["reference_float64"])
    for index in KINKS[name, key]:
        assert abs(central[key].flat[index] - fields[key].flat[index]) > CENTRAL_DIFFERENCE


def test_only_the_losses_that_changed_are_rescaled() -> None:
    changed = {c["loss"] for c in CASES.values() if "value_or_shape_differs_in_2.0" in c["flags"]}
    assert changed == {*SCALE_OF_1_9_1, "CosineEmbeddingLoss"}


class Worked(NamedTuple):
    """A call whose result upstream's documentation of record prints, to the digits printed."""

    loss: str
    params: dict[str, Any]
    args: dict[str, Any]
    output: list[float]
    grad: list[float] | None = None


RAMP = [-3, -1, -0.5, 0, 0.5, 1, 1.25, 3]
SIDE = [-2, -1, 0, 0.5, 1, 2]
PRINTED = 1e-6
WORKED = {
    "l1_sw_elem": Worked(
        "L1Loss",
        {},
        {
            "pred": [[1, 2, 3], [4, 5, 6]],
            "label": [[1.5, 2, 2], [0, 5, 8]],
            "sample_weight": [[1, 2, 3], [1, 0, 1]],
        },
        [1.1666667, 2],
        [-1 / 3, 0, 1, 1 / 3, 0, -1 / 3],
    ),
    "huber_rho2": Worked(
        "HuberLoss",
        {"rho": 2},
        {"pred": RAMP, "label": [0] * 8},
        [2, 0.25, 0.0625, 0, 0.0625, 0.25, 0.390625, 2],
        [-1, -0.5, -0.25, 0, 0.25, 0.5, 0.625, 1],
    ),
    "sqhinge_kinks": Worked(
        "SquaredHingeLoss",
        {},
        {"pred": SIDE, "label": [1] * 6},
        [9, 4, 1, 0.25, 0, 0],
        [-6, -4, -2, -1, 0, 0],
    ),
    "logistic_large": Worked(
        "LogisticLoss",
        {},
        {"pred": [-1000, -100, -20, 20, 100, 1000], "label": [1] * 6},
        [1000, 100, 20, 2.061154e-9, 3.72e-44, 0],
        [-1, -1, -1, -2.06e-9, 0, 0],
    ),
    "kl_dist3": Worked(
        "KLDivLoss",
        {},
        {"pred": np.log([[0.2, 0.5, 0.2, 0.1]]), "label": [[0.1, 0.1, 0.1, 0.7]]},
        [0.2656410],
        [-0.025, -0.025, -0.025, -0.175],
    ),
    "cos_margin": Worked(
        "CosineEmbeddingLoss",
        {"margin": 0.5},
        {
            "input1": [[1, 0], [1, 1], [1, 2]],
            "input2": [[1, 1], [1, 0], [2, 1]],
            "label": [1, -1, -1],
        },
        [0.2928932, 0.2071068, 0.3],
    ),
    "poisson_full": Worked(
        "PoissonNLLLoss",
        {"from_logits": False, "compute_full": "stirling"},
        {"pred": [[1, 0.5], [2, 3]], "target": [[1, 2], [3, 4]]},
        [1.769050, 1.723727],
    ),
    "poisson_stirling_target0": Worked(
        "PoissonNLLLoss",
        {"compute_full": "stirling"},
        {"pred": [[0, 1]], "target": [[0, 3]]},
        [(1 + math.e - 3 + 3 * math.log(3) - 3 + math.log(6 * math.pi) / 2) / 2],
    ),
    "ctc_tight": Worked(
        "CTCLoss",
        {},
        {
            "pred": call_args(CASES["ctc_random"])["pred"][:, :5],
            "label": [[0, 1, -1], [2, 2, 2]],
        },
        [3.576917, 11.88776],
    ),
}


@over_subjects
@pytest.mark.parametrize(
    "name", [pytest.param(name, id=f"{case.loss}-{name}") for name, case in WORKED.items()]
)
def test_worked_example(subject: Subject, name: str) -> None:
    case = WORKED[name]
    args = {key: numbers(value) for key, value in case.args.items()}
    first = next(iter(args))
    value, grads = subject.run(case.loss, case.params, args, (first,))
    assert_close(value, case.output, subject.tolerance(PRINTED))
    if case.grad is not None:
        assert_close(np.ravel(grads[first]), case.grad, subject.tolerance(PRINTED))


def vector_logits(vector: dict[str, Any]) -> Any:
    """Return the (T, N, C) logits of a CTC vector, written out or by their recipe."""
    if "logits" in vector:
        return numbers(vector["logits"])
    if "probs" in vector:
        frames = np.log(numbers(vector["probs"]))
        return np.concatenate([frames, np.full((2, *frames.shape[1:]), math.nan)])
    if "shape" not in vector:
        return np.ones((20, 2, 4))
    t, n, c = np.ogrid[tuple(slice(size) for size in vector["shape"])]
    return np.sin((t * 7 + n * 13 + c * 3).astype(np.float32) * np.float32(0.1)).astype(np.float64)


@pytest.mark.loss("CTCLoss")
@over_subjects
@pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in VECTORS])
def test_ctc_vector(subject: Subject, vector: dict[str, Any]) -> None:
    labels, width = vector["labels"], max(map(len, vector["labels"]))
    logits = vector_logits(vector)
    args = {
        "pred": logits,
        "label": numbers([row + [-1] * (width - len(row)) for row in labels]),
        "pred_lengths": numbers(vector["input_lengths"]),
        "label_lengths": numbers([len(row) for row in labels]),
    }
    params = {"layout": "TNC", "blank": vector["blank"]}
    value, grads = subject.run("CTCLoss", params, args, ("pred",))

    assert (value >= 0).all()
    digits = vector["expected_decimals_atol"]
    if vector["name"] == "optax_1771_confident":
        digits = 1e-14
    np.testing.assert_allclose(value, numbers(vector["expected_loss_per_sample"]), atol=digits)
    exact = numbers(vector["float64_loss_recomputed"])
    tight = FLOAT32_CTC_LOSS if subject.dtype is np.float32 else FLOAT64
    finite = np.isfinite(exact)
    np.testing.assert_array_equal(np.isfinite(value), finite)
    errors = np.abs(value[finite] - exact[finite])
    assert (errors <= tight * np.maximum(1, exact[finite])).all()
    if "expected_grad_logits" in vector:
        expected = numbers(vector["expected_grad_logits"]).ravel()
        frames = grads["pred"].ravel()
        np.testing.assert_allclose(frames[: expected.size], expected, atol=digits)
        assert not frames[expected.size :].any()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@over(*(n for n in CASES if not getattr(EXCEPTIONS.get(n), "raises", 0)))
def test_library_is_the_oracle(name: str, dtype: type[np.floating[Any]]) -> None:
    """The recorded calls once more, on inputs rounded to the dtype for both."""
    case = CASES[name]
    args = {k: None if v is None else v.astype(dtype) for k, v in call_args(case).items()}
    wrt = (next(iter(args)),)
    expected, slopes = Subject(None).run(case["loss"], case["ctor"], args, wrt)
    actual, grads = Subject(dtype).run(case["loss"], case["ctor"], args, wrt)
    tolerance = FLOAT64 if dtype is np.float64 else FLOAT32_CTC_GRADIENT
    assert_close(actual, expected, tolerance)
    assert_close(grads[wrt[0]], slopes[wrt[0]], tolerance)

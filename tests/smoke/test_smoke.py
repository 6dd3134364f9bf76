"""What an installed wheel must do: a short suite without any of the project's other files.

`make wheel` runs it in fresh environments that hold the wheel, one version of NumPy and pytest.
"""

import importlib.metadata
import pickle
import subprocess
import sys

import numpy as np
import pytest

import rustloss as rl
from rustloss import _core

NAMES = [row["name"] for row in _core.registry()]
#: Central differences of float64: truncation and rounding together.
DIFFERENCES = 1e-6


def test_version_and_metadata():
    meta = importlib.metadata.metadata("rustloss")
    assert meta["Version"] == rl.__version__
    files = {str(path) for path in importlib.metadata.files("rustloss") or []}
    assert any(".dist-info/licenses/LICENSE" in path for path in files)
    assert any(".dist-info/licenses/THIRD-PARTY" in path for path in files)
    assert any(".dist-info/sboms/" in path for path in files)


def test_frameworks_are_not_imported():
    code = (
        "import rustloss, sys; print(*{'torch', 'jax', 'tensorflow', 'mxnet'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert printed.split() == []


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_made_and_pickled(name):
    loss = getattr(rl, name)()
    assert pickle.loads(pickle.dumps(loss)) == loss


def differences(value, x, step=1e-6):
    """Return the gradient of a function by central differences."""
    grad = np.empty_like(x)
    for place in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[place] = step
        grad[place] = (value(x + shift) - value(x - shift)) / (2 * step)
    return grad


@pytest.mark.parametrize(
    ("loss", "label"),
    [
        (rl.L2Loss(), np.zeros((3, 5))),
        (rl.SigmoidBCELoss(), np.eye(3, 5)),
        (rl.SoftmaxCELoss(), np.array([0, 4, 2])),
        (rl.KLDivLoss(from_logits=False), np.full((3, 5), 0.2)),
        (rl.CTCLoss("TC"), np.array([1, 1])),
    ],
    ids=lambda item: type(item).__name__,
)
def test_gradients(loss, label):
    pred = np.random.default_rng(0).normal(size=(3, 5))
    value, grad = loss.value_and_grad(pred, label)
    np.testing.assert_allclose(loss(pred, label), value)
    expected = differences(lambda x: np.sum(loss(x, label)), pred)
    np.testing.assert_allclose(grad, expected, atol=DIFFERENCES)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_types_layouts_and_threads(dtype, order):
    pred = np.random.default_rng(0).normal(size=(400, 300)).astype(dtype, order=order)
    loss = rl.HuberLoss(reduction="mean")
    with rl.num_threads(1):
        one = loss.value_and_grad(pred, np.zeros_like(pred))
    with rl.num_threads(2):
        two = loss.value_and_grad(pred, np.zeros_like(pred))
    assert one[0] == two[0]
    np.testing.assert_array_equal(one[1], two[1])
    assert one[1].dtype == dtype


@pytest.mark.parametrize("isa", rl.show_config()["isa_available"])
def test_instruction_sets(isa, monkeypatch):
    monkeypatch.setenv("RUSTLOSS_ISA", isa)
    code = "import rustloss as rl; print(rl.show_config()['isa'], rl.L1Loss()([1.0], [3.0])[0])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout.split() == [isa, "2.0"]


def test_errors_say_where():
    with pytest.raises(rl.errors.LabelError, match=r"label\[1\].*got 2"):
        rl.SoftmaxCELoss()(np.zeros((2, 2)), np.array([0, 2]))

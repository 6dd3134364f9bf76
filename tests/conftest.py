"""Hypothesis profiles: a few examples by default, many under `-m slow`; tests of one loss alone.

Both profiles are derandomised, so that a failure is the same everywhere. Fresh results are
poisoned, so that one that is not written is wrong and not by chance what was there before.
"""

import re

import pytest
from hypothesis import HealthCheck, Phase, settings

import rustloss
from rustloss import _core

settings.register_profile(
    "fast",
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("slow", settings.get_profile("fast"), max_examples=1000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--loss", metavar="NAME", help="run the tests about this loss alone")


def is_about(item: pytest.Item, loss: str) -> bool:
    """Whether a test's id has the name of the loss as a word, or its mark `loss` has it."""
    marked = (name for mark in item.iter_markers("loss") for name in mark.args)
    return loss in marked or re.search(rf"\b{loss}\b", item.name) is not None


def is_slow_run(config: pytest.Config) -> bool:
    expression = config.getoption("markexpr")
    return "slow" in expression and "not slow" not in expression


def pytest_configure(config: pytest.Config) -> None:
    _core.poison(0xA5)
    settings.load_profile("slow" if is_slow_run(config) else "fast")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let a slow run repeat every property with many more examples; keep the tests of one loss."""
    if is_slow_run(config):
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker(pytest.mark.slow)
    wanted = config.getoption("--loss")
    if wanted is not None:
        # Two classes have a short name as well.
        loss = getattr(rustloss, wanted, None)
        name = loss.__name__ if isinstance(loss, type) else wanted
        if name not in {row["name"] for row in _core.registry()}:
            raise pytest.UsageError(f"--loss: expected a loss of the registry, got {wanted!r}")
        about = [item for item in items if is_about(item, name)]
        config.hook.pytest_deselected(items=[item for item in items if item not in about])
        items[:] = about

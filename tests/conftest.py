"""Hypothesis profiles: a few examples by default, many under `-m slow`.

Both are derandomised, so that a failure is the same everywhere. Fresh results are poisoned, so that
one that is not written is wrong and not by chance what was there before.
"""

import pytest
from hypothesis import HealthCheck, Phase, settings

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


def is_slow_run(config: pytest.Config) -> bool:
    expression = config.getoption("markexpr")
    return "slow" in expression and "not slow" not in expression


def pytest_configure(config: pytest.Config) -> None:
    _core.poison(0xA5)
    settings.load_profile("slow" if is_slow_run(config) else "fast")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let a slow run repeat every property with many more examples."""
    if is_slow_run(config):
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker(pytest.mark.slow)

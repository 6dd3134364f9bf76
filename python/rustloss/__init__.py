"""Training losses: value, gradient and second derivative, fast and exact on the CPU."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from rustloss import _core, elementwise, errors, pairwise, plot, rowwise, sequence
from rustloss._loss import ArraySpec, Loss, Signature
from rustloss._mean import Mean
from rustloss.elementwise import *  # noqa: F403
from rustloss.pairwise import *  # noqa: F403
from rustloss.rowwise.distances import *  # noqa: F403
from rustloss.rowwise.forecasts import *  # noqa: F403
from rustloss.rowwise.margins import *  # noqa: F403
from rustloss.rowwise.softmax import *  # noqa: F403
from rustloss.sequence import *  # noqa: F403
from rustloss.threads import get_num_threads, num_threads, set_num_threads

if TYPE_CHECKING:
    from rustloss import testing as testing
else:

    def __getattr__(name: str) -> Any:
        # What only tests need is imported when it is asked for. Type checkers are not shown this,
        # for they would take any name then.
        if name == "testing":
            return importlib.import_module("rustloss.testing")
        text = f"module 'rustloss' has no attribute {name!r}"
        is_public = name.isidentifier() and not name.startswith("_")
        if is_public and importlib.util.find_spec(f"rustloss.{name}"):
            text += f" before `import rustloss.{name}`"
        raise AttributeError(text, name=name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__version__: str = _core.config()["version"]

__all__ = [
    "ArraySpec",
    "Loss",
    "Mean",
    "Signature",
    "errors",
    "get_num_threads",
    "num_threads",
    "plot",
    "release_memory",
    "set_num_threads",
    "show_config",
    "testing",
]
__all__ += elementwise.__all__
__all__ += pairwise.__all__
__all__ += rowwise.distances.__all__
__all__ += rowwise.forecasts.__all__
__all__ += rowwise.margins.__all__
__all__ += rowwise.softmax.__all__
__all__ += sequence.__all__


def release_memory() -> int:
    """Give back the memory that calls have left for later ones.

    To get memory from the system takes time, and so `CTCLoss`, `SDMLLoss` and `InfoNCELoss` keep up
    to 64 MiB of scratch for the next calls: in the whole process, not for each thread.

    Returns
    -------
    int
        How many bytes that were.

    Examples
    --------
    >>> import rustloss as rl
    >>> rl.CTCLoss()([[[0.0, 1.0]]], [[0]])
    array([1.31326169])
    >>> rl.release_memory() > 0, rl.release_memory()
    (True, 0)
    """
    return _core.release_memory()


def show_config() -> dict[str, Any]:
    """Return what the library runs on.

    Returns
    -------
    dict
        ``version``; ``isa``, the instruction-set level in use; ``isa_available``, the levels of
        this CPU (the environment variable ``RUSTLOSS_ISA`` forces one); ``isa_untested``, levels
        that the project's tests have never run on; ``num_threads``.
    """
    return {**_core.config(), "num_threads": get_num_threads()}

"""How many threads a call may use."""

from __future__ import annotations

import operator
import threading
from contextlib import ContextDecorator
from typing import SupportsIndex

from rustloss import _core
from rustloss.errors import ParameterError

__all__ = ["get_num_threads", "num_threads", "set_num_threads"]


def get_num_threads() -> int:
    """
    Return how many threads a call from this Python thread may use.

    The first of these that was given decides: the innermost `num_threads` block of this Python
    thread, `set_num_threads`, the environment variables ``RUSTLOSS_NUM_THREADS``,
    ``RAYON_NUM_THREADS`` and ``OMP_NUM_THREADS`` (of a list, the first entry), the number of CPUs
    available to the process. The environment is read once, at first use; a count in it that is not
    a positive integer is skipped, and one above the limit of `set_num_threads` stands for that
    limit, each with a warning.

    Returns
    -------
    int
        The number of threads, the calling one among them.
    """
    return _core.get_num_threads()


def set_num_threads(n: SupportsIndex) -> None:
    """
    Set how many threads a call may use, for the whole process.

    Results do not depend on it: they have the same bits for any number of threads. The threads are
    started by the first call that is long enough to share, and are kept. A forked child starts its
    own.

    Parameters
    ----------
    n : int
        The number of threads, the calling one among them; 1 starts none. It may exceed the number
        of CPUs, up to 4 threads for each, and up to 64 on small machines.

    See Also
    --------
    num_threads : The same for one block of code and one Python thread.
    """
    _core.set_num_threads(_checked(n))


class num_threads(ContextDecorator):  # noqa: N801 (reads as a function)
    """
    Limit the threads of calls inside a ``with`` block or a decorated function.

    It holds for the Python thread that runs the block; calls from other threads are not affected.

    Parameters
    ----------
    n : int
        The number of threads, the calling one among them; 1 starts none. The limit is that of
        `set_num_threads`.

    Examples
    --------
    >>> import rustloss as rl
    >>> with rl.num_threads(2):
    ...     rl.get_num_threads()
    2
    """

    def __init__(self, n: SupportsIndex) -> None:
        self._n = _checked(n)
        self._thread = threading.local()

    def __repr__(self) -> str:
        return f"num_threads({self._n})"

    def __enter__(self) -> None:
        # A stack, since the object may be entered again inside its own block.
        self._thread.__dict__.setdefault("outer", []).append(_core.exchange_num_threads(self._n))

    def __exit__(self, *_: object) -> None:
        _core.exchange_num_threads(self._thread.outer.pop())


def _checked(n: SupportsIndex) -> int:
    """Return `n` as an int if it is a possible number of threads."""
    try:
        count = operator.index(n)
    except TypeError:
        count = None
    if count is None or isinstance(n, bool):
        raise TypeError(f"n: expected an integer, got {n!r}")
    most = _core.max_num_threads()
    if not 1 <= count <= most:
        raise ParameterError(f"n: expected an integer from 1 to {most}, got {n!r}", "n")
    return count

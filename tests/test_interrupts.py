"""Panics become exceptions, signals end long calls, and the next call works."""

import contextlib
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import rustloss as rl
from rustloss import _core
from rustloss.errors import InternalError

# Five times what is promised, since other programs may keep the CPUs from this one.
LATEST_SECONDS = 1.0
SIGNALS = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")


@pytest.fixture(autouse=True)
def _restored_thread_count():
    before = rl.get_num_threads()
    yield
    rl.set_num_threads(before)


def computed():
    """Return the bits of a loss and its gradient that take threads some tenths of a millisecond."""
    pred = np.linspace(-3, 3, 512 * 1000, dtype="f4").reshape(512, 1000)
    value, grad = rl.SoftmaxCELoss().value_and_grad(pred, np.arange(512))
    return value.tobytes(), grad.tobytes()


def ones(rows):
    """Return a large array that takes little memory."""
    return np.broadcast_to(np.ones(1000, "f4"), (rows, 1000))


def long_call():
    """Run a loss that takes far longer than any signal here is away."""
    return rl.L2Loss(reduction="sum")(ones(100_000_000), ones(100_000_000))


# Panics


@pytest.mark.parametrize("place", ["caller", "worker"])
def test_a_panic_is_an_internal_error_and_the_next_call_works(place):
    rl.set_num_threads(2)
    expected = computed()

    def panic():
        _core.fail_next(place)
        # On a busy system the caller may be through before a worker comes.
        while True:
            assert computed() == expected

    for _ in range(3):
        with pytest.raises(InternalError, match=rf"(?i)told to fail in the {place}"):
            panic()
        assert computed() == expected


def test_a_panic_of_a_call_without_threads():
    _core.fail_next("caller")
    with pytest.raises(InternalError, match=r"(?i)told to fail in the caller"):
        rl.L2Loss()([1.0], [0.0])
    assert rl.L2Loss()([1.0], [0.0]) == [0.5]


# Signals


@contextlib.contextmanager
def alarm(handler, seconds=0.1):
    """Have `handler` called once, after some time."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Stop(BaseException):
    """Raised by a handler."""


@SIGNALS
@pytest.mark.parametrize("n", [1, 2])
def test_what_a_signal_handler_raises_ends_the_call(n):
    rl.set_num_threads(n)
    expected = computed()
    raised = Stop("by the handler")

    def handler(*_):
        # A handler may make calls itself.
        assert computed() == expected
        raise raised

    with pytest.raises(Stop) as caught, alarm(handler):
        long_call()
    assert caught.value is raised
    assert computed() == expected


@SIGNALS
def test_a_signal_handler_that_returns_changes_nothing():
    x, zero = ones(2_000_000), np.broadcast_to(np.zeros(1000, "f4"), (2_000_000, 1000))
    loss = rl.L2Loss(reduction="mean")
    inside: list[bool] = []
    while not any(inside):
        running = True
        with alarm(lambda *_: inside.append(running), 0.05):  # noqa: B023
            assert loss(x, zero) == 0.5
            running = False


@SIGNALS
def test_only_the_main_thread_is_interrupted():
    expected, stop = computed(), threading.Event()

    def work():
        results = set()
        while not stop.is_set():
            results.add(computed())
            results.add(rl.L2Loss(reduction="sum")(ones(200_000), ones(200_000)))
        return results

    with ThreadPoolExecutor(2) as others:
        busy = [others.submit(work) for _ in range(2)]
        try:
            for _ in range(3):
                with pytest.raises(KeyboardInterrupt), alarm(signal.default_int_handler):
                    long_call()
        finally:
            stop.set()
        assert [one.result() for one in busy] == [{expected, 0.0}] * 2


@SIGNALS
def test_interrupts_of_long_calls():
    script = Path(__file__).with_name("interrupts.py")
    done = subprocess.run(
        [sys.executable, script, "--rounds", "1", "--latest", str(LATEST_SECONDS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

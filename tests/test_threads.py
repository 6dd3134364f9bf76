"""Threads change nothing but time: same bits, no hangs, no thread that was not asked for."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import rustloss as rl
from rustloss.errors import ParameterError

THREADS = (1, 2, 3, 8)
CHILDREN = 20
CHILD_SECONDS = 5
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
# CPython warns of every fork of a process with threads; that such a fork works is what is tested.
FORK = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def elementwise(rng, rows):
    shape = (rows, 1021)
    return rng.normal(size=shape).astype("f4"), rng.normal(size=shape).astype("f4")


def signed(rng, rows):
    pred, _ = elementwise(rng, rows)
    return pred, np.where(rng.random(pred.shape) < 0.5, -1, 1).astype("f4")


def probabilities(rng, rows):
    pred, _ = elementwise(rng, rows)
    return pred, rng.random(pred.shape).astype("f4")


def distributions(rng, rows):
    pred, label = probabilities(rng, rows)
    return pred, label / label.sum(axis=1, keepdims=True)


def classes(rng, rows):
    pred, _ = elementwise(rng, rows)
    return pred, rng.integers(0, pred.shape[1], rows)


def triplets(rng, rows):
    return (*elementwise(rng, rows), elementwise(rng, rows)[0])


def pairs(rng, rows):
    return (*elementwise(rng, rows), np.where(rng.random(rows) < 0.5, -1, 1))


def frames(rng, rows):
    return rng.normal(size=(rows, 60, 30)).astype("f4"), rng.integers(0, 29, (rows, 12))


INPUTS = {
    "L1Loss": elementwise,
    "L2Loss": elementwise,
    "HuberLoss": elementwise,
    "HingeLoss": signed,
    "SquaredHingeLoss": signed,
    "LogisticLoss": signed,
    "SigmoidBinaryCrossEntropyLoss": probabilities,
    "PoissonNLLLoss": probabilities,
    "SoftmaxCrossEntropyLoss": classes,
    "KLDivLoss": distributions,
    "TripletLoss": triplets,
    "CosineEmbeddingLoss": pairs,
    "SDMLLoss": elementwise,
    "InfoNCELoss": elementwise,
    "CTCLoss": frames,
}
LOSSES = [name for name in INPUTS if name in rl.__all__]
# A row of pairs depends on all others.
PAIRWISE = ["SDMLLoss", "InfoNCELoss"]
SPLITTABLE = [name for name in LOSSES if name not in PAIRWISE]
FEW = ["L2Loss", "SoftmaxCrossEntropyLoss"]


def inputs(name, rows=512):
    if name in PAIRWISE:
        rows = min(rows, 96)
    return INPUTS[name](np.random.default_rng(7), rows)


def arrays(result):
    """List the arrays of a result, in which tuples may be nested."""
    return [a for r in result for a in arrays(r)] if isinstance(result, tuple) else [result]


def digest(result):
    """Return what two results share only if they have the same types, shapes and bits."""
    state = hashlib.sha256()
    for array in arrays(result):
        state.update(repr((array.dtype.str, array.shape)).encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.digest()


def computed(name, **options):
    return digest(getattr(rl, name)(**options).value_and_grad(*inputs(name)))


@pytest.fixture(autouse=True)
def _restored_thread_count():
    before = rl.get_num_threads()
    yield
    rl.set_num_threads(before)


def forked(work, seconds=CHILD_SECONDS):
    """Return the bytes that `work` returns in a forked child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, work())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    try:
        ended, _, _ = select.select([reader], [], [], seconds)
        if not ended:
            os.kill(child, signal.SIGKILL)
        answer = os.read(reader, 1 << 16)
    finally:
        os.close(reader)
        _, status = os.waitpid(child, 0)
    assert ended, "the child hangs"
    assert status == 0, "the child failed"
    return answer


def child_process(code, **environment):
    """Return what `code`, run by a new interpreter, prints as JSON."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name not in {"RUSTLOSS_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS"}
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=own | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Bits


@pytest.mark.parametrize("reduction", ["sample", "none", "sum", "mean"])
@pytest.mark.parametrize("name", LOSSES)
def test_same_bits_for_any_thread_count(name, reduction):
    found = {}
    for n in THREADS:
        with rl.num_threads(n):
            found[n] = computed(name, reduction=reduction)
    assert set(found.values()) == {found[1]}, found


@pytest.mark.parametrize("rows", [19, 300])
@pytest.mark.parametrize("reduction", ["sample", "none"])
@pytest.mark.parametrize("name", SPLITTABLE)
def test_same_bits_for_any_split_of_the_batch(name, reduction, rows):
    loss, batch = getattr(rl, name)(reduction=reduction), inputs(name, rows)
    whole = digest(loss.value_and_grad(*batch))
    for cuts in ([1], [rows - 1], [rows // 2], [rows // 3, rows // 3 + 1], [5, 7, 18]):
        borders = [0, *cuts, rows]
        parts = []
        for n, start, stop in zip((3, 1, 2, 8), borders, borders[1:], strict=False):
            with rl.num_threads(n):
                parts.append(arrays(loss.value_and_grad(*(a[start:stop] for a in batch))))
        joined = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
        assert digest(joined) == whole, cuts


@pytest.mark.parametrize("width", [1, 3, 17])
@pytest.mark.parametrize("name", ["L1Loss", "L2Loss", "SoftmaxCrossEntropyLoss"])
def test_same_bits_for_any_split_of_short_rows(name, width):
    rng, rows = np.random.default_rng(3), 40_000
    pred = rng.normal(size=(rows, width)).astype("f4")
    sparse = name == "SoftmaxCrossEntropyLoss"
    label = rng.integers(0, width, rows) if sparse else rng.normal(size=pred.shape).astype("f4")
    loss = getattr(rl, name)()
    whole = digest(loss.value_and_grad(pred, label))
    for cut in (1, 2, 5, 13, 20_001):
        first = loss.value_and_grad(pred[:cut], label[:cut])
        second = loss.value_and_grad(pred[cut:], label[cut:])
        assert digest(tuple(map(np.concatenate, zip(first, second, strict=True)))) == whole, cut


# Several callers


@pytest.mark.parametrize("name", FEW)
def test_python_threads_share_inputs(name):
    expected = computed(name)
    shared, loss = inputs(name), getattr(rl, name)()
    start = threading.Barrier(8)

    def call(caller):
        start.wait()
        with rl.num_threads(1 + caller % 4):
            return {digest(loss.value_and_grad(*shared)) for _ in range(5)}

    with ThreadPoolExecutor(8) as callers:
        assert set().union(*callers.map(call, range(8))) == {expected}


def test_thread_count_holds_for_one_python_thread():
    rl.set_num_threads(5)
    inside, done = threading.Event(), threading.Event()
    seen = {}

    def other():
        with rl.num_threads(2):
            inside.set()
            done.wait(CHILD_SECONDS)
            seen["other"] = rl.get_num_threads()
        seen["after"] = rl.get_num_threads()

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(CHILD_SECONDS)
    assert rl.get_num_threads() == 5
    with rl.num_threads(3):
        assert rl.get_num_threads() == 3
        rl.set_num_threads(6)
        assert rl.get_num_threads() == 3
        done.set()
        thread.join()
    assert seen == {"other": 2, "after": 6}
    assert rl.get_num_threads() == 6


def test_blocks_nest_and_survive_exceptions():
    rl.set_num_threads(5)
    block = rl.num_threads(2)
    with block:
        with rl.num_threads(7), block:
            assert rl.get_num_threads() == 2
        assert rl.get_num_threads() == 2
        with contextlib.suppress(KeyError), rl.num_threads(4), block:
            raise KeyError
        assert rl.get_num_threads() == 2
    assert rl.get_num_threads() == 5


def test_one_block_serves_several_python_threads():
    rl.set_num_threads(5)
    block, meeting = rl.num_threads(2), threading.Barrier(4)

    def use(_):
        with block:
            meeting.wait()
            inside = rl.get_num_threads()
            meeting.wait()
        return inside, rl.get_num_threads()

    with ThreadPoolExecutor(4) as callers:
        assert set(callers.map(use, range(4))) == {(2, 5)}


def test_block_decorates():
    rl.set_num_threads(5)
    assert rl.num_threads(2)(rl.get_num_threads)() == 2
    assert rl.get_num_threads() == 5


MOST_THREADS = max(
    64, 4 * len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0])
)


def test_more_threads_than_cpus():
    rl.set_num_threads(np.int64(MOST_THREADS))
    assert rl.get_num_threads() == MOST_THREADS
    assert computed("L2Loss", reduction="sum") == rl.num_threads(1)(computed)(
        "L2Loss", reduction="sum"
    )


@pytest.mark.parametrize("n", [2.0, "2", None, True, np.True_, [2]])
@pytest.mark.parametrize("function", [rl.set_num_threads, rl.num_threads])
def test_thread_count_of_a_wrong_type(function, n):
    before = rl.get_num_threads()
    with pytest.raises(TypeError, match=r"^n: expected an integer, got "):
        function(n)
    assert rl.get_num_threads() == before


@pytest.mark.parametrize("n", [0, -1, MOST_THREADS + 1, 10**30, np.int8(-3)])
@pytest.mark.parametrize("function", [rl.set_num_threads, rl.num_threads])
def test_thread_count_out_of_range(function, n):
    before = rl.get_num_threads()
    text = f"^n: expected an integer from 1 to {MOST_THREADS}, got "
    with pytest.raises(ParameterError, match=text) as caught:
        function(n)
    assert caught.value.argument == "n"
    assert rl.get_num_threads() == before


# Processes


class TestFork:
    pytestmark = FORK

    @pytest.mark.parametrize("name", FEW)
    def test_children_after_the_pool_was_used(self, name):
        rl.set_num_threads(3)
        expected = computed(name)
        for _ in range(CHILDREN):
            assert forked(lambda: computed(name)) == expected
        assert computed(name) == expected

    def test_child_starts_threads_and_has_children(self):
        rl.set_num_threads(3)
        expected = computed("L2Loss")

        def grandchild():
            assert computed("L2Loss") == expected
            return forked(lambda: computed("L2Loss"))

        assert forked(grandchild, 2 * CHILD_SECONDS) == expected

    def test_children_while_another_thread_is_inside_a_call(self):
        rl.set_num_threads(3)
        expected = computed("L2Loss")
        batch, stop = inputs("L2Loss", 4096), threading.Event()

        def work():
            calls = 0
            while not stop.is_set():
                rl.L2Loss().value_and_grad(*batch)
                calls += 1
            return calls

        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(work)
            try:
                for _ in range(CHILDREN):
                    assert forked(lambda: computed("L2Loss")) == expected
            finally:
                stop.set()
            assert busy.result() > 0

    @pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
    def test_multiprocessing_with_pickled_losses(self, method):
        rl.set_num_threads(2)
        expected = {name: computed(name) for name in LOSSES}
        with multiprocessing.get_context(method).Pool(2) as workers:
            results = {
                name: workers.apply_async(getattr(rl, name)().value_and_grad, inputs(name))
                for name in LOSSES
            }
            found = {name: digest(result.get(60)) for name, result in results.items()}
        assert found == expected


REPORT = """
import json, warnings
import numpy as np
import rustloss as rl

x = np.ones((2, 3))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    {first}
    rl.L2Loss()(x, x)
    n = [rl.get_num_threads(), rl.get_num_threads()]
print(json.dumps([n, [[w.category.__name__, str(w.message)] for w in caught]]))
"""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RUSTLOSS_NUM_THREADS": "3", "RAYON_NUM_THREADS": "4", "OMP_NUM_THREADS": "5"}, 3),
        ({"RAYON_NUM_THREADS": " 4 ", "OMP_NUM_THREADS": "5"}, 4),
        ({"OMP_NUM_THREADS": "5,2,x"}, 5),
        ({"RUSTLOSS_NUM_THREADS": "64"}, 64),
        ({"RUSTLOSS_NUM_THREADS": "7", "RAYON_NUM_THREADS": "never looked at"}, 7),
    ],
)
def test_environment(environment, expected):
    assert child_process(REPORT.format(first=""), **environment) == [[expected] * 2, []]


@pytest.mark.parametrize("first", ["rl.L2Loss()(x, x)", "rl.get_num_threads()"])
@pytest.mark.parametrize(
    ("environment", "skipped", "expected"),
    [
        ({"RUSTLOSS_NUM_THREADS": "0", "OMP_NUM_THREADS": "6"}, ["RUSTLOSS"], 6),
        ({"RUSTLOSS_NUM_THREADS": "2.5", "RAYON_NUM_THREADS": "-1", "OMP_NUM_THREADS": "6"},
         ["RUSTLOSS", "RAYON"], 6),
        ({"OMP_NUM_THREADS": "many,6"}, ["OMP"], None),
    ],
)  # fmt: skip
def test_bad_environment_warns_once(environment, skipped, expected, first):
    counts, caught = child_process(REPORT.format(first=first), **environment)
    cpus = child_process(REPORT.format(first=""))[0][0]
    assert counts == [expected or cpus] * 2
    assert [category for category, _ in caught] == ["RuntimeWarning"] * len(skipped)
    for name, (_, text) in zip(skipped, caught, strict=True):
        assert text.startswith(f"{name}_NUM_THREADS: expected a positive integer, got ")
        assert repr(environment[f"{name}_NUM_THREADS"])[1:-1] in text


@pytest.mark.parametrize("value", [str(MOST_THREADS + 1), "100000", "9" * 30])
@pytest.mark.parametrize("name", ["RUSTLOSS_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS"])
def test_counts_of_the_environment_are_capped(name, value):
    counts, [[category, text]] = child_process(REPORT.format(first=""), **{name: value})
    assert counts == [MOST_THREADS] * 2
    assert category == "RuntimeWarning"
    assert text == f'{name}: "{value}" is more than {MOST_THREADS}, which is used'


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="CPUs cannot be chosen")
def test_default_is_the_number_of_available_cpus():
    one = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    assert child_process(one + REPORT.format(first=""))[0] == [1, 1]


COUNT = """
import json, os, resource, time
import numpy as np

def threads():
    return len(os.listdir("/proc/self/task")) - before

before = 0
before = threads()
import rustloss as rl
x = np.ones((512, 4096), "f4")
counts = [threads()]
rl.L2Loss().value_and_grad(x[:1], x[:1])
counts.append(threads())
{large_work}
print(json.dumps(counts))
"""


def counted(large_work, n):
    code = COUNT.replace("{large_work}", large_work)
    return child_process(code, RUSTLOSS_NUM_THREADS=str(n))


@LINUX
@pytest.mark.parametrize("n", [1, 2, 3])
def test_threads_are_started_by_large_work_only(n):
    assert counted("rl.L2Loss()(x, x); counts.append(threads())", n) == [0, 0, n - 1]


@LINUX
def test_pool_grows_and_is_kept():
    large_work = """
for n in (2, 8, 2, 1, 3):
    with rl.num_threads(n):
        rl.L2Loss()(x, x)
    # The smaller pool ends by itself.
    time.sleep(0.2)
    counts.append(threads())
"""
    assert counted(large_work, 1) == [0, 0, 1, 7, 7, 7, 7]


@LINUX
def test_serial_where_the_system_refuses_threads():
    large_work = """
expected = rl.num_threads(1)(rl.L2Loss())(x, x)
with open("/proc/self/statm") as sizes:
    size = int(sizes.read().split()[0]) * resource.getpagesize()
# Less than the stack of one thread.
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 20), resource.RLIM_INFINITY))
found = rl.L2Loss()(x, x)
counts.append(threads())
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
counts.append(found.tobytes() == expected.tobytes())
"""
    assert counted(large_work, 3) == [0, 0, 0, True]

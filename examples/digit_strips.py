"""Train a reader of strips of handwritten digits by CTC: nothing says where on a strip a digit is.

Leaves a picture of a strip and its alignment in demo-output/ and fails if the held-out label error
rate is 10 % or more.
"""

import sys
import time
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import trange

import rustloss as rl
from common import OUTPUT, Array, Digits, Net, split_digits

mpl.use("agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

Integers = NDArray[np.int64]

SIZE = 8  # pixels, both ways, of a digit
FEWEST, MOST = 3, 7  # digits on a strip
OVERLAP, GAP = 3, 5  # at most, in columns, between neighbours
WINDOW = 11  # columns that the net sees at once
HIDDEN = 96
CLASSES = 11
BLANK = CLASSES - 1

EPOCHS = 30
BATCHES = 40
BATCH = 32
HELD_OUT = 200
ALLOWED_ERROR_RATE = 0.1


class Strips(NamedTuple):
    """Strips padded to one width, their own widths, and the digits on each."""

    image: Array
    width: Integers
    label: list[Integers]


def paste(digits: Digits, count: int, rng: np.random.Generator) -> Strips:
    """Make strips of random digits with random gaps and overlaps."""
    image = np.zeros((count, SIZE, OVERLAP + MOST * (SIZE + GAP)), np.float32)
    width = np.zeros(count, np.int64)
    label = []
    for n, strip in enumerate(image):
        chosen = rng.integers(len(digits.image), size=rng.integers(FEWEST, MOST + 1))
        shift = SIZE + rng.integers(-OVERLAP, GAP + 1, size=len(chosen))
        ends = OVERLAP + np.cumsum(shift)
        for digit, end in zip(digits.image[chosen], ends, strict=True):
            place = strip[:, end - SIZE : end]
            np.maximum(place, digit, out=place)
        width[n] = ends[-1]
        label.append(digits.digit[chosen])
    return Strips(image[:, :, : width.max()], width, label)


def windows(image: Array) -> Array:
    """Return one row for each column of each strip: the pixels around it."""
    padded = np.pad(image, ((0, 0), (0, 0), (WINDOW // 2, WINDOW // 2)))
    return sliding_window_view(padded, WINDOW, axis=2).swapaxes(1, 2).reshape(-1, SIZE * WINDOW)


def read(logits: Array, width: Integers) -> list[Integers]:
    """Take the best class of each frame, merge repetitions, drop blanks."""
    best = logits.argmax(axis=2)
    starts = np.diff(best, axis=1, prepend=BLANK) != 0
    inside = np.arange(best.shape[1]) < width[:, np.newaxis]
    keep = starts & inside & (best != BLANK)
    return [row[kept] for row, kept in zip(best, keep, strict=True)]


def edit_distance(a: Integers, b: Integers) -> int:
    """Count the insertions, deletions and substitutions that make `b` of `a`."""
    row = list(range(len(b) + 1))
    for x in a:
        diagonal, row[0] = row[0], row[0] + 1
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def error_rate(texts: list[Integers], labels: list[Integers]) -> float:
    """Return the edit distance per digit."""
    errors = sum(edit_distance(text, label) for text, label in zip(texts, labels, strict=True))
    return errors / sum(len(label) for label in labels)


def draw_alignment(
    strip: Array, label: Integers, spans: list[rl.Span], posteriors: Array
) -> Figure:
    """Draw a strip with the frames that its best path gives to each digit, and the posteriors."""
    figure, (top, bottom) = plt.subplots(
        2, sharex=True, figsize=(10, 3.8), height_ratios=(2, 3), layout="compressed"
    )
    colours = mpl.color_sequences["tab10"]
    top.imshow(strip, cmap="gray_r", vmax=1.5)  # pale ink lets the colours show
    top.set_title("A held-out strip, its best alignment, and the posterior of each digit", pad=26)
    top.set_yticks([])
    for span in spans:
        colour, last = colours[span.index], span.end - 1
        top.axvspan(span.start - 0.5, last + 0.5, color=colour, alpha=0.5, linewidth=0)
        top.annotate(
            str(label[span.index]),
            ((span.start + last) / 2, -0.5),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            color=colour,
            size="xx-large",
            weight="bold",
        )
    edges = np.arange(len(posteriors) + 1) - 0.5
    below = np.zeros(len(posteriors))
    for colour, posterior in zip(colours, posteriors.T, strict=False):
        above = below + posterior
        bottom.stairs(above, edges, baseline=below, fill=True, color=colour, alpha=0.7)
        below = above
    bottom.set(xlabel="frame (column of the strip)", ylabel="posterior (grey: blank)", ylim=(0, 1))
    bottom.set_facecolor("0.93")
    return figure


def main() -> None:
    """Train, report, draw."""
    start = time.perf_counter()
    rng = np.random.default_rng(0)
    digits, digits_held_out = split_digits()
    held_out = paste(digits_held_out, HELD_OUT, rng)
    x_held_out = windows(held_out.image)
    net = Net(x_held_out.shape[1], HIDDEN, CLASSES, rng)
    loss = rl.CTCLoss(reduction="target_mean")

    # Products this small gain nothing from a second thread and would wait for it on a busy machine.
    with threadpool_limits(1), trange(EPOCHS, desc="training", unit="epoch") as epochs:
        for _ in epochs:
            total = 0.0
            for _ in range(BATCHES):
                strips = paste(digits, BATCH, rng)
                x = windows(strips.image)
                hidden, logits = net.forward(x)
                pred = logits.reshape(BATCH, -1, CLASSES)
                value, grad = loss.value_and_grad(pred, strips.label, strips.width)
                net.step(net.backward(x, hidden, grad.reshape(logits.shape)))
                total += float(value)
            pred = net.forward(x_held_out)[1].reshape(HELD_OUT, -1, CLASSES)
            texts = read(pred, held_out.width)
            errors = error_rate(texts, held_out.label)
            epochs.set_postfix(loss=f"{total / BATCHES:.4f}", held_out_errors=f"{errors:.1%}")

    alignment = loss.align(pred, held_out.label, held_out.width)
    posteriors = loss.posteriors(pred, held_out.label, held_out.width)
    # Of the strips that were read right, the one whose digits are least sure of their place.
    right = [np.array_equal(*pair) for pair in zip(texts, held_out.label, strict=True)]
    doubt = (posteriors * (1 - posteriors)).sum(axis=(1, 2))
    n = np.where(right, doubt, 0).argmax()
    width, label = held_out.width[n], held_out.label[n]
    figure = draw_alignment(
        held_out.image[n, :, :width],
        label,
        alignment.spans()[n],
        posteriors[n, :width, : len(label)],
    )
    OUTPUT.mkdir(exist_ok=True)
    figure.savefig(OUTPUT / "alignment.png", dpi=120)
    plt.close(figure)

    print(f"held-out label error rate {errors:.2%} on {HELD_OUT} strips")
    print(f"picture in {OUTPUT}/, {time.perf_counter() - start:.1f} s in all")
    if errors >= ALLOWED_ERROR_RATE:
        sys.exit(f"not below {ALLOWED_ERROR_RATE:.0%}: something is wrong")


if __name__ == "__main__":
    main()

"""
The lattice of CTC
==================

The states of the word *cat*, a blank (␣) before, between and behind the letters, over seven frames.
A column is a frame and a row a state, from the first at the top to the last. The darker a cell, the
more of the probability passes through the state at that frame; the line is the most probable path.
"""

import matplotlib.pyplot as plt
import numpy as np

import rustloss as rl

frames, blank = 7, 3
states = np.array([blank, 0, blank, 1, blank, 2, blank])
scores = np.random.default_rng(3).normal(scale=1.2, size=(frames, 4))
emission = (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True))[:, states]


def forward(emission):
    """Return the probability of all beginnings that are in each state at each frame."""
    alpha = np.zeros_like(emission)
    alpha[0, :2] = emission[0, :2]
    for t in range(1, frames):
        before = np.pad(alpha[t - 1], (2, 0))
        # From the state itself, from the one before, and over a blank between two letters.
        alpha[t] = before[2:] + before[1:-1] + before[:-2] * (states != blank)
        alpha[t] *= emission[t]
    return alpha


alpha = forward(emission)
beta = forward(emission[::-1, ::-1])[::-1, ::-1] / emission
probability = alpha[-1, -2:].sum()
occupancy = alpha * beta / probability

# The same numbers as the library's: the loss, and softmax less occupancy as the gradient.
loss = rl.CTCLoss("TC")
value, grad = loss.value_and_grad(scores, [0, 1, 2])
by_class = np.stack([occupancy[:, states == k].sum(axis=1) for k in range(4)], axis=1)
softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
np.testing.assert_allclose(value, -np.log(probability), rtol=1e-12)
np.testing.assert_allclose(grad, softmax - by_class, atol=1e-12)

# The path: a frame of a letter is in the letter's state, one of a blank in the blank behind the
# last letter so far.
index = loss.align(scores, [0, 1, 2]).index
letters_so_far = np.maximum.accumulate(index) + 1
path = np.where(index >= 0, 2 * index + 1, 2 * letters_so_far)

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
image = ax.imshow(occupancy.T, cmap="Blues", vmin=0, vmax=1, aspect="auto")
figure.colorbar(image, label="probability of the state at the frame")
ax.plot(path, "o-", color="C1", label="most probable path")
ax.set(xlabel="frame", ylabel="state (␣ is the blank)")
ax.set(yticks=range(7), yticklabels=list("␣c␣a␣t␣"))
ax.legend(loc="lower left")
plt.show()

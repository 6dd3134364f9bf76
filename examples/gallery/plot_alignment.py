"""
Where CTC hears each letter
===========================

A model that has learned the word *cat* gives scores for each frame. `CTCLoss.posteriors` says how
probable each letter is at each frame, given the word, and `CTCLoss.align` finds the best path.
"""

import matplotlib.pyplot as plt
import numpy as np

import rustloss as rl

letters = "cat"
rng = np.random.default_rng(0)
heard = [3, 0, 0, 3, 3, 1, 1, 1, 3, 2, 2, 3]  # 3 is the blank
scores = rng.normal(size=(1, len(heard), 4))
scores[0, range(len(heard)), heard] += 3

loss = rl.CTCLoss()
posteriors = loss.posteriors(scores, [[0, 1, 2]])[0]
spans = loss.align(scores, [[0, 1, 2]]).spans()[0]

figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for place, letter in enumerate(letters):
    ax.plot(posteriors[:, place], marker="o", label=letter)
for span in spans:
    ax.axvspan(span.start - 0.5, span.end - 0.5, alpha=0.15, color=f"C{span.index}")
ax.set(xlabel="frame", ylabel="probability", title="Posteriors, and the spans of the best path")
ax.legend()
plt.show()

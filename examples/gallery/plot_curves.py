"""
The curves of all losses
========================

Value, gradient and second derivative of every loss that is a function of one prediction, with the
parameters that it has by default.
"""

import matplotlib.pyplot as plt

import rustloss as rl

figure = rl.plot.gallery()
plt.show()

"""Losses for Keras 3, on each of its backends."""

from rustloss.keras import losses

__all__ = ["losses"]

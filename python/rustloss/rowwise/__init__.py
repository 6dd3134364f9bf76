"""Losses that look at one vector at a time; see `rustloss.Loss` for options and reductions."""

"""Losses that look at one vector at a time; see `rustloss.Loss` for options and reductions."""

from rustloss.rowwise import distances, forecasts, margins, softmax
from rustloss.rowwise.distances import *  # noqa: F403
from rustloss.rowwise.forecasts import *  # noqa: F403
from rustloss.rowwise.margins import *  # noqa: F403
from rustloss.rowwise.softmax import *  # noqa: F403

__all__: list[str] = []
__all__ += distances.__all__
__all__ += forecasts.__all__
__all__ += margins.__all__
__all__ += softmax.__all__

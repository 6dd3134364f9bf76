"""What results are compared with: exact terms of every loss, and where accuracy is measured.

The plain float64 oracles are those of ``rustloss.testing.oracles``.
"""

from . import exact_elementwise, exact_margins, exact_pairwise, exact_rowwise, exact_sequence

__all__ = [
    "exact_elementwise",
    "exact_margins",
    "exact_pairwise",
    "exact_rowwise",
    "exact_sequence",
]

"""Weights that columns without information may get, by the shape of the tail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

NULLS: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "normal": lambda rng, n: 0.15 * rng.standard_normal(n),
    "exponential": lambda rng, n: 0.12 * rng.exponential(size=n),
    "Student, 4 degrees": lambda rng, n: 0.1 * rng.standard_t(4.0, n),
    "two scales": lambda rng, n: np.where(rng.uniform(size=n) < 0.05, 0.3, 0.1) * rng.standard_normal(n),
}
"""Logarithms of weights."""
PLANTED = (0.5, 0.8, 1.0, 1.5, 2.0)
"""Logarithms of the weights of columns that carry information, from doubtful to clear."""

"""Standardisation per fold, from that fold's training rows only.

Shapes: T bars, A instruments, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLIP = 5.0
"""Standardised features are clipped to +-CLIP standard deviations."""
COLUMNS_AT_ONCE = 16
"""Columns whose statistics are computed at once: what is in float64 at a time, one cache line of a row."""


@dataclass(frozen=True, eq=False)
class Scaler:
    """mean (F,), std (F,) float32; both NaN for a column that is missing throughout the fold."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    @classmethod
    def fit(cls, rows: NDArray[np.float32]) -> Scaler:
        """Statistics of training rows (T, A, F) or (T, F), instruments pooled, missing values left out.

        A column that is constant or empty in these rows gets NaN: transformed, it is missing everywhere.
        """
        flat = rows.reshape(-1, rows.shape[-1])
        parts = [
            _moments(flat[:, start : start + COLUMNS_AT_ONCE]) for start in range(0, flat.shape[1], COLUMNS_AT_ONCE)
        ]
        mean, std = (np.concatenate(part) for part in zip(*parts, strict=True)) if parts else np.empty((2, 0))
        # Rounding leaves a constant column a spread of about 1e-8 of its level, never an exact zero.
        unusable = ~(std > 1e-6 * np.abs(mean)) | ~(std > 0.0)
        mean[unusable] = np.nan
        std[unusable] = np.nan
        return cls(mean.astype(np.float32), std.astype(np.float32))

    def transform(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., F) -> (..., F): (x - mean) / std clipped to +-CLIP; missing stays NaN."""
        scaled: NDArray[np.float32] = np.clip((features - self.mean) / self.std, -CLIP, CLIP).astype(np.float32)
        return scaled


def _moments(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and population standard deviation by column, missing values left out; NaN for an empty column."""
    flat = rows.astype(np.float64)
    present = np.isfinite(flat)
    count = present.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(present, flat, 0.0).sum(axis=0) / count
        deviation = np.where(present, flat - mean, 0.0)
        return mean, np.sqrt((deviation**2).sum(axis=0) / count)

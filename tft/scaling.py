"""Standardisation of features with the mean and standard deviation of a fold's training rows.

Shapes: T bars, A instruments, F features, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLIP = 5.0
"""Standardised features are clipped to +-CLIP standard deviations"""
CHUNK_COLUMNS = 16
"""Columns converted to float64 at a time, which bounds memory; 16 float32 values are one cache line"""


@dataclass(frozen=True, eq=False)
class Scaler:
    """Mean and standard deviation by column; both NaN for a column that is unusable in the fold."""

    mean: NDArray[np.float32]
    """(F,)"""
    std: NDArray[np.float32]
    """(F,)"""

    @classmethod
    def fit(cls, rows: NDArray[np.float32]) -> Scaler:
        """Compute the statistics of training rows (T, A, F) or (T, F), pooled over instruments, without missing values.

        A column that is constant or empty in these rows gets NaN, so that its transformed values are all missing.
        """
        flat = rows.reshape(-1, rows.shape[-1])
        parts = [_moments(flat[:, start : start + CHUNK_COLUMNS]) for start in range(0, flat.shape[1], CHUNK_COLUMNS)]
        mean, std = (np.concatenate(part) for part in zip(*parts, strict=True)) if parts else np.empty((2, 0))
        # Rounding leaves a constant column a spread of about 1e-8 of its level, never an exact zero.
        unusable = ~(std > 1e-6 * np.abs(mean)) | ~(std > 0.0)
        mean[unusable] = np.nan
        std[unusable] = np.nan
        return cls(mean.astype(np.float32), std.astype(np.float32))

    def transform(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Standardise features (..., F): (x - mean) / std, clipped to +-CLIP; missing values stay NaN."""
        scaled: NDArray[np.float32] = np.clip((features - self.mean) / self.std, -CLIP, CLIP).astype(np.float32)
        return scaled


def _moments(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and population standard deviation (F,) of rows (R, F), without missing values; NaN for an empty column."""
    flat = rows.astype(np.float64)
    present = np.isfinite(flat)
    count = present.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(present, flat, 0.0).sum(axis=0) / count
        deviation = np.where(present, flat - mean, 0.0)
        return mean, np.sqrt((deviation**2).sum(axis=0) / count)

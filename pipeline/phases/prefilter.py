"""Phase 1: columns that cannot carry information are dropped, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config.sections import PrefilterConfig
from tft.panel import Panel

_BLOCK = 64
"""Columns correlated at once."""


@dataclass(frozen=True)
class Dropped:
    """A column that does not go on, and why."""

    feature: str
    reason: str


@dataclass(frozen=True)
class Prefiltered:
    """Result of prefilter."""

    n_initial: int
    kept: tuple[str, ...]
    dropped: tuple[Dropped, ...]


def prefilter(
    panel: Panel, config: PrefilterConfig, *, on_columns: Callable[[int], None] = lambda n: None
) -> Prefiltered:
    """Drop constant, mostly missing, and collinear columns, in that order. Raises ValueError if none is left.

    on_columns: so many more columns are judged.
    """
    names, features = panel.feature_names, panel.features
    reasons: dict[int, str] = {}
    present = np.isfinite(features)  # (T, A, F)
    missing = 1.0 - present.mean(axis=0)  # (A, F)
    for column in range(len(names)):
        values = features[:, :, column][present[:, :, column]]
        least_missing = float(missing[:, column].min())
        if len(values) == 0 or (values == values[0]).all():
            reasons[column] = "constant" if len(values) else "empty"
        elif least_missing > config.max_nan_fraction:
            reasons[column] = (
                f"missing in {least_missing:.0%} of the bars of the instrument that has most of it, "
                f"the limit is {config.max_nan_fraction:.0%}"
            )
    on_columns(len(reasons))
    survivors = [column for column in range(len(names)) if column not in reasons]
    for column, (other, correlation) in collinear(
        features.reshape(-1, len(names)), survivors, config.max_correlation, on_columns
    ).items():
        reasons[column] = f"collinear with {names[other]} (correlation {correlation:+.7f})"
    kept = tuple(name for column, name in enumerate(names) if column not in reasons)
    if not kept:
        sparse = any(reason.startswith("missing") for reason in reasons.values())
        raise ValueError(
            f"prefilter leaves none of the {len(names)} columns ({names[0]} is {reasons[0]}): check the table"
            + (", or raise prefilter.max_nan_fraction" if sparse else "")
        )
    dropped = tuple(Dropped(names[column], reasons[column]) for column in sorted(reasons))
    return Prefiltered(len(names), kept, dropped)


def collinear(
    rows: NDArray[np.float32],
    candidates: list[int],
    max_correlation: float,
    on_columns: Callable[[int], None] = lambda n: None,
) -> dict[int, tuple[int, float]]:
    """Columns of rows (R, F) to drop, each with the column it repeats and their correlation.

    Pearson correlation over the rows in which both are present, at least 3. Of a pair the one with more data stays,
    of equals the first; a column already dropped drops no other.
    """
    present = np.isfinite(rows[:, candidates])
    count = present.sum(axis=0)
    order = sorted(range(len(candidates)), key=lambda i: (-count[i], i))  # who may stay is decided in this order
    values = np.where(present, rows[:, candidates], 0.0).astype(np.float64)
    # Standardised first, so that the sums below do not cancel.
    mean = values.sum(axis=0) / np.maximum(count, 1)
    values = np.where(present, values - mean, 0.0)
    values /= np.sqrt((values**2).sum(axis=0) / np.maximum(count, 1))
    values, mask = values[:, order], present[:, order].astype(np.float64)
    n_columns = len(order)
    dropped: dict[int, tuple[int, float]] = {}
    gone = np.zeros(n_columns, dtype=bool)
    for start in range(0, n_columns, _BLOCK):
        own, own_mask = values[:, start : start + _BLOCK], mask[:, start : start + _BLOCK]
        together = own_mask.T @ mask  # (block, F) rows that both have
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_own, mean_all = (own.T @ mask) / together, (own_mask.T @ values) / together
            covariance = (own.T @ values) / together - mean_own * mean_all
            variance_own = ((own**2).T @ mask) / together - mean_own**2
            variance_all = (own_mask.T @ values**2) / together - mean_all**2
            correlation = covariance / np.sqrt(variance_own * variance_all)
        usable = (together >= 3) & (variance_own > 1e-12) & (variance_all > 1e-12)
        close = usable & (np.abs(correlation) > max_correlation)
        for row in range(own.shape[1]):
            column = start + row
            earlier = np.flatnonzero(close[row, :column] & ~gone[:column])
            if len(earlier):
                gone[column] = True
                keeper = int(earlier[0])
                dropped[candidates[order[column]]] = (candidates[order[keeper]], float(correlation[row, keeper]))
        on_columns(own.shape[1])
    return dropped

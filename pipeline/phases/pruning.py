"""Phase 3, without training: keep the columns whose selection weight is high, stable and above what probes get."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.config.sections import PruningConfig
from pipeline.phases.exploration import Explored
from tft.panel import group_of

PROBE_QUANTILE = 0.95
"""A column has to exceed this quantile of the probes' mean relative weights."""


@dataclass(frozen=True)
class Ranked:
    """A column with its place in the ranking."""

    rank: int
    feature: str
    group: str
    mean_weight: float
    """Mean over folds of the VSN weight."""
    relative_weight: float
    """Mean over folds of the weight relative to uniform."""
    stability: float
    """Share of folds in which the relative weight reaches the threshold."""
    selected: bool
    weights: tuple[float, ...]
    """VSN weight by fold."""


@dataclass(frozen=True)
class Pruned:
    """Result of pruning."""

    ranked: tuple[Ranked, ...]
    """Best first."""
    fold_indices: tuple[int, ...]
    validation_end: tuple[str, ...]
    probe_relative_weight: tuple[float, ...]
    """Mean relative weight of each probe."""
    probe_stability: tuple[float, ...]
    threshold: float
    """Mean relative weight that a column needed: the configured one, or the probes' 95th percentile if higher."""
    fold_correlation: float
    """Mean pairwise correlation between folds of the columns' relative weights; NaN with a single fold."""
    warning: str

    @property
    def selected(self) -> tuple[str, ...]:
        return tuple(row.feature for row in self.ranked if row.selected)


def prune(explored: Explored, config: PruningConfig) -> Pruned:
    """Rank and select. Weights missing from a fold are left out of a column's mean and stability."""
    relative, weight = np.array(explored.relative), np.array(explored.weight)  # (folds, F)
    mean_relative, stability = _summary(relative, config.weight_threshold)
    mean_weight, _ = _summary(weight, 0.0)
    probes = np.array(explored.probe_relative).reshape(len(relative), -1)
    probe_relative, probe_stability = _summary(probes, config.weight_threshold)
    known_probes = probe_relative[np.isfinite(probe_relative)]
    of_probes = float(np.quantile(known_probes, PROBE_QUANTILE)) if len(known_probes) else -np.inf
    threshold = max(config.weight_threshold, of_probes)

    order = np.argsort(-np.nan_to_num(mean_relative, nan=-1.0), kind="stable")
    passed = (
        (mean_relative >= config.weight_threshold) & (mean_relative > of_probes) & (stability >= config.min_stability)
    )
    chosen = [column for column in order if passed[column]][: config.max_features]
    warning = ""
    if not np.isfinite(mean_relative).any():
        raise ValueError(
            "no column is present in the validation rows of any exploration fold: start the table later, or widen "
            "walk_forward.validation_window"
        )
    if not chosen:
        chosen = [column for column in order if np.isfinite(mean_relative[column])][: config.max_features]
        warning = (
            f"no column has a mean relative weight of at least {threshold:.3f} and a stability of at least "
            f"{config.min_stability}: the best {len(chosen)} by mean weight are kept, which is no evidence that any "
            f"of them matters"
        )
    ranked = tuple(
        Ranked(
            rank=rank,
            feature=explored.features[column],
            group=group_of(explored.features[column]),
            mean_weight=float(mean_weight[column]),
            relative_weight=float(mean_relative[column]),
            stability=float(stability[column]),
            selected=column in set(chosen),
            weights=tuple(weight[:, column].tolist()),
        )
        for rank, column in enumerate(order.tolist(), start=1)
    )
    return Pruned(
        ranked=ranked,
        fold_indices=explored.fold_indices,
        validation_end=explored.validation_end,
        probe_relative_weight=tuple(probe_relative.tolist()),
        probe_stability=tuple(probe_stability.tolist()),
        threshold=threshold,
        fold_correlation=_fold_correlation(relative),
        warning=warning,
    )


Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def _summary(values: Array, threshold: float) -> tuple[Array, Array]:
    """Mean over folds of (folds, columns), and share of folds at or above the threshold."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    filled = np.where(known, values, -np.inf)
    mean = np.where(known, values, 0.0).sum(axis=0) / np.where(count > 0, count, np.nan)
    return mean, (filled >= threshold).sum(axis=0) / np.where(count > 0, count, np.nan)


def _fold_correlation(relative: Array) -> float:
    complete = relative[:, np.isfinite(relative).all(axis=0)]
    if len(complete) < 2 or complete.shape[1] < 3:
        return float("nan")
    centred = complete - complete.mean(axis=1, keepdims=True)
    scale = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    if (scale <= 0.0).any():
        return float("nan")
    correlation = (centred / scale) @ (centred / scale).T
    return float(correlation[np.triu_indices(len(correlation), k=1)].mean())

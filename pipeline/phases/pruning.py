"""Phase 3, without training: keep the columns whose selection weight is high, stable and beyond what probes get."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.config.sections import PruningConfig
from pipeline.phases.exploration import Explored
from pipeline.statistics.false_discovery import ProbeNull, benjamini_hochberg
from pipeline.statistics.pooled_null import PooledNull, pooled_null
from tft.panel import group_of

Null = ProbeNull | PooledNull


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
    p_value: float
    """How often a column without information has at least this relative weight; NaN without probes."""
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
    n_censored: int | None
    """Heaviest columns that the null leaves out, where it is fitted to probes and columns; None if to probes alone."""
    threshold: float
    """Mean relative weight that a column needed: the configured one, or what the probes ask for if that is higher."""
    false_discovery_rate: float
    """The share of the kept columns that may be false, on average."""
    n_passed: int
    """Columns that passed; with more than `max_features` the best are kept, with none the best by mean."""
    n_expected_false: float | None
    """At most so many of the kept columns are expected to be false; all of them where no column passed, None without
    probes."""
    fold_correlation: float
    """Mean pairwise correlation between folds of the columns' relative weights; NaN with a single fold."""
    warning: str

    @property
    def null(self) -> Null | None:
        """What the p-values come from; None without probes."""
        if not np.isfinite(self.probe_relative_weight).any():
            return None
        if self.n_censored is None:
            return ProbeNull.of(self.probe_relative_weight)
        columns = np.array([row.relative_weight for row in self.ranked])
        return PooledNull.fit(_known([*columns[self.n_censored :], *self.probe_relative_weight]), self.n_censored)

    @property
    def selected(self) -> tuple[str, ...]:
        return tuple(row.feature for row in self.ranked if row.selected)

    @property
    def summary(self) -> str:
        """How many columns were kept, and how many of them are expected to be false, in one sentence."""
        n = len(self.selected)
        kept = f"{n} of {len(self.ranked)} columns kept"
        if not self.n_passed:
            return f"{kept}, expected false: all"
        if self.n_expected_false is None:
            return f"{kept}; how many of them are false is not known without probes"
        return f"{kept}, at most {self.n_expected_false:.1f} of them expected to be false"


def prune(explored: Explored, config: PruningConfig) -> Pruned:
    """Rank and select. Weights missing from a fold are left out of a column's mean and stability."""
    relative, weight = np.array(explored.relative), np.array(explored.weight)  # (folds, F)
    mean_relative, stability = _summary(relative, config.weight_threshold)
    mean_weight, _ = _summary(weight, 0.0)
    probes = np.array(explored.probe_relative).reshape(len(relative), -1)
    probe_relative, probe_stability = _summary(probes, config.weight_threshold)
    known = np.isfinite(mean_relative)
    if not known.any():
        raise ValueError(
            "no column is present in the validation rows of any exploration fold: start the table later, or widen "
            "walk_forward.validation_window"
        )

    order = np.argsort(-np.nan_to_num(mean_relative, nan=-1.0), kind="stable")
    good = known & (mean_relative >= config.weight_threshold) & (stability >= config.min_stability)
    rate = config.false_discovery_rate
    p_value, passed, needed, n_censored, remark = np.full(len(order), np.nan), good, 0.0, None, ""
    if np.isfinite(probe_relative).any():
        null, discovered, limit = _discover(mean_relative[known], probe_relative, good[known], rate)
        p_value, passed = null.p_values(mean_relative), good.copy()
        passed[known] &= discovered
        needed, remark = null.weight_at(limit), null.remark
        n_censored = null.n_censored if isinstance(null, PooledNull) else None
    threshold = max(config.weight_threshold, needed)
    chosen = [column for column in order if passed[column]][: config.max_features]
    n_passed = int(passed.sum())
    with_probes = np.isfinite(probe_relative).any()
    expected_false = rate * n_passed if with_probes else None
    if with_probes and n_passed > len(chosen) > 0:  # of noise columns, so many get a p-value like the last one's
        expected_false = min(float(known.sum() * p_value[chosen[-1]]), float(len(chosen)))
    warnings = [remark] if remark else []
    if not chosen:
        chosen = [column for column in order if known[column]][: config.max_features]
        expected_false = float(len(chosen))
        beyond = f" beyond what probes give at a false discovery rate of {rate}" if with_probes else ""
        asked = f"at least {threshold:.3f}" if math.isfinite(threshold) else f"at least {config.weight_threshold}"
        warnings.append(
            f"no column has a mean relative weight of {asked} and a stability of at least {config.min_stability}"
            f"{beyond}: the best {len(chosen)} by mean weight are kept, which is no evidence that any of them matters "
            f"(expected false: all)"
        )
    selected = set(chosen)
    ranked = tuple(
        Ranked(
            rank=rank,
            feature=explored.features[column],
            group=group_of(explored.features[column]),
            mean_weight=float(mean_weight[column]),
            relative_weight=float(mean_relative[column]),
            stability=float(stability[column]),
            p_value=float(p_value[column]),
            selected=column in selected,
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
        n_censored=n_censored,
        threshold=threshold,
        false_discovery_rate=rate,
        n_passed=n_passed,
        n_expected_false=expected_false,
        fold_correlation=_fold_correlation(relative),
        warning="; ".join(warnings),
    )


Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def _discover(
    weights: Array, probes: Array, good: NDArray[np.bool_], rate: float
) -> tuple[Null, NDArray[np.bool_], float]:
    """The null, what is discovered by it, and the p-value up to which a column is; see benjamini_hochberg.

    There are two nulls, probes alone and probes with the other columns, and the one by which more is discovered is
    taken: the first finds more where many columns carry information, the second where few do. A column that is light
    or unstable cannot pass: with a p-value of 1 it counts as one that was tested.
    """
    nulls: list[Null] = [ProbeNull.of(probes)]
    if pooled := pooled_null(weights, _known(probes), good, rate):
        nulls.append(pooled)
    found = [(null, *benjamini_hochberg(np.where(good, null.p_values(weights), 1.0), rate)) for null in nulls]
    return max(found, key=lambda each: int(each[1].sum()))


def _known(values: ArrayLike) -> Array:
    given = np.asarray(values, dtype=np.float64)
    return given[np.isfinite(given)]


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

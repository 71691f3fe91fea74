"""Phase 3, without training: keep the columns whose selection weight is high, stable and above what probes get."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np

from pipeline.config.sections import PruningConfig
from pipeline.job import Job
from pipeline.phases import exploration
from pipeline.phases.exploration import Explored
from pipeline.reporting import figures as plots
from pipeline.tracking.runs import Run
from tft.panel import group_of

PROBE_QUANTILE = 0.95


@dataclass(frozen=True)
class Ranked:
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


def run(job: Job) -> Pruned:
    """The columns that tuning and production use."""
    explored = exploration.run(job)

    def log(run: Run, result: Pruned) -> None:
        _log(run, result)
        if result.warning:
            job.reporter.say(f"pruning: {result.warning}")

    return job.run_phase(
        "pruning",
        Pruned,
        settings={"pruning": asdict(job.config.pruning)},
        upstream=("exploration",),
        compute=lambda run: prune(explored, job.config.pruning),
        log=log,
    )


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


def _log(run: Run, result: Pruned) -> None:
    run.metrics({"n_features_selected": len(result.selected), "vsn_fold_correlation": result.fold_correlation})
    run.metrics({"vsn_threshold": result.threshold})
    log_vsn_tables(run, result)
    run.figure("vsn_heatmap.png", plots.vsn_heatmap(result.ranked, result.fold_indices))
    run.figure(
        "stability_against_weight.png",
        plots.stability_against_weight(
            result.ranked, result.probe_relative_weight, result.probe_stability, result.threshold
        ),
    )
    if result.warning:
        run.tags({"warning": result.warning})


def log_vsn_tables(run: Run, result: Pruned) -> None:
    """`vsn_weights.json` and `feature_groups.json`."""
    rows = result.ranked
    columns = ("rank", "feature", "group", "mean_weight", "relative_weight", "stability", "selected")
    run.table(
        "vsn_weights.json",
        {name: [getattr(row, name) for row in rows] for name in columns}
        | {f"fold_{fold}": [row.weights[i] for row in rows] for i, fold in enumerate(result.fold_indices)},
    )
    total = Counter(row.group for row in rows)
    selected = Counter(row.group for row in rows if row.selected)
    weight = {
        group: sum(row.mean_weight for row in rows if row.group == group and np.isfinite(row.mean_weight))
        for group in total
    }
    groups = sorted(total, key=lambda group: (-selected[group], -weight[group]))
    run.table(
        "feature_groups.json",
        {
            "group": groups,
            "n_features": [total[group] for group in groups],
            "n_selected": [selected[group] for group in groups],
            "weight": [weight[group] for group in groups],
        },
    )
    run.metrics({f"n_selected_{re.sub('[^A-Za-z0-9_.-]', '_', group)}": selected[group] for group in groups})

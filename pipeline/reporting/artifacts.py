"""The metrics, tables and figures that each phase leaves in its run, made from the phase's result alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import optuna
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.data.findings import SEVERITIES, Finding
from pipeline.phases.exploration import Explored
from pipeline.phases.prefilter import Prefiltered
from pipeline.phases.pruning import Pruned
from pipeline.phases.tuning import Tuned
from pipeline.reporting import figures, search_figures, selection_figures
from pipeline.statistics.calibration import ESTIMATES, Calibration, CalibrationRow
from pipeline.tracking.sink import Sink
from tft.backtest import FoldRow
from tft.panel import group_of

FOLD_METRICS = {
    "fold_val_sharpe": "val_sharpe",
    "fold_val_sharpe_best_epoch": "val_sharpe_best_epoch",
    "fold_oos_sharpe": "oos_sharpe",
    "fold_val_oos_gap": "val_oos_gap",
}


def findings(sink: Sink, found: Sequence[Finding]) -> None:
    """Log `findings.json`."""
    columns = ("severity", "check", "where", "message")
    sink.table("findings.json", {name: [getattr(finding, name) for finding in found] for name in columns})


def findings_counts(sink: Sink, found: Sequence[Finding]) -> None:
    """Log the number of findings of each severity.

    Apart from the table, since the UI compares two runs by the metric that was logged first, and a production run's is
    to be its Sharpe.
    """
    sink.metrics({f"n_findings_{s}": sum(finding.severity == s for finding in found) for s in SEVERITIES})


def prefilter(sink: Sink, result: Prefiltered) -> None:
    """Log `dropped.json` and `kept.json`."""
    sink.metrics({"n_features_initial": result.n_initial, "n_features_prefiltered": len(result.kept)})
    sink.table(
        "dropped.json",
        {"feature": [d.feature for d in result.dropped], "reason": [d.reason for d in result.dropped]},
    )
    sink.table("kept.json", {"feature": list(result.kept), "group": [group_of(name) for name in result.kept]})


def exploration(sink: Sink, result: Explored) -> None:
    """Log the fold table, `vsn_weights_by_fold.json`, `probes.json` and the training curves."""
    folds(sink, result.folds)
    sink.metrics({"n_features_prefiltered": len(result.features), "oos_sharpe_development": result.oos_sharpe})
    relative = _mean_over_folds(result.relative)
    with np.errstate(invalid="ignore"):
        order = np.argsort(-np.nan_to_num(relative, nan=-1.0), kind="stable")
    sink.table(
        "vsn_weights_by_fold.json",
        {
            "feature": [result.features[i] for i in order],
            "group": [group_of(result.features[i]) for i in order],
            "mean_weight": _mean_over_folds(result.weight)[order].tolist(),
            "relative_weight": relative[order].tolist(),
        }
        | {
            f"fold_{fold}": np.array(result.weight[row])[order].tolist() for row, fold in enumerate(result.fold_indices)
        },
    )
    if result.probes:
        sink.table(
            "probes.json",
            {
                "probe": list(result.probes),
                "relative_weight": _mean_over_folds(result.probe_relative).tolist(),
            },
        )
    epochs(sink, result.train_loss, result.validation_score)
    sink.figure(
        "training_curves.png",
        partial(figures.training_curves, result.fold_indices, result.train_loss, result.validation_score),
    )
    sink.figure("validation_vs_oos.png", partial(figures.validation_against_oos, result.folds))


def pruning(sink: Sink, result: Pruned) -> None:
    """Log the ranked columns, as tables and figures."""
    sink.metrics({"n_features_selected": len(result.selected), "vsn_fold_correlation": result.fold_correlation})
    sink.metrics({"vsn_threshold": result.threshold, "n_features_expected_false": result.n_expected_false})
    vsn_tables(sink, result)
    for name, draw in pruning_figures(result).items():
        sink.figure(name, draw)
    if result.warning:
        sink.tags({"warning": result.warning})


def pruning_figures(result: Pruned) -> dict[str, partial[Figure]]:
    """How each figure of the ranked columns is drawn, by file name."""
    drawn = {
        "vsn_heatmap.png": partial(selection_figures.vsn_heatmap, result.ranked, result.fold_indices),
        "stability_against_weight.png": partial(
            selection_figures.stability_against_weight,
            result.ranked,
            result.probe_relative_weight,
            result.probe_stability,
            result.threshold,
        ),
    }
    if null := result.null:
        drawn["probe_null.png"] = partial(
            selection_figures.probe_null,
            result.ranked,
            result.probe_relative_weight,
            null,
            result.threshold,
            result.false_discovery_rate,
        )
    return drawn


def tuning(sink: Sink, result: Tuned) -> None:
    """Log the trials, and the parameters of the best one."""
    trials(sink, result)
    scores: dict[int, float | None] = {trial.number: trial.oos_sharpe for trial in result.trials}
    sink.metric_steps({"trial_oos_sharpe": scores})
    best = next(trial for trial in result.trials if trial.number == result.best_trial)
    sink.metrics({"oos_sharpe_development": best.oos_sharpe, "n_trials": len(result.trials)})
    sink.params({f"best.{name}": value for name, value in result.best.items()})
    sink.tags({"study": result.study})


def study(sink: Sink, study: optuna.Study) -> None:
    """Log Optuna's own figures."""
    for name, figure in search_figures.optuna_figures(study).items():
        sink.figure(f"optuna/{name}.png", figure)


def trial(sink: Sink, trial: optuna.trial.FrozenTrial) -> None:
    """Log one trial as a run of its own, so that trials can be compared in the UI."""
    outcome = f"Sharpe {trial.value:.2f}" if trial.state.name == "COMPLETE" else trial.state.name.lower()
    with sink.child(f"trial {trial.number} · {outcome}") as child:
        child.tags({"phase": "trial", "trial_state": trial.state.name})
        child.params(trial.params)
        child.metric_steps({"oos_sharpe_so_far": dict(trial.intermediate_values)})
        child.metrics({"oos_sharpe_development": trial.value})


def folds(sink: Sink, rows: Sequence[FoldRow], more: Mapping[str, Sequence[float | None]] | None = None) -> None:
    """Log `folds.json`, and its Sharpes as metrics with the fold as step. `more` holds further columns, also logged as
    metrics."""
    more = more or {}
    sink.metric_steps(
        {name: {row.fold: getattr(row, key) for row in rows} for name, key in FOLD_METRICS.items()}
        | {
            f"fold_{name}": {row.fold: value for row, value in zip(rows, values, strict=True)}
            for name, values in more.items()
        }
    )
    gaps = [row.val_oos_gap for row in rows if row.val_oos_gap is not None]
    sink.metrics({"val_oos_gap_mean": sum(gaps) / len(gaps) if gaps else None})
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(FoldRow)}
    sink.table("folds.json", {**columns, **more})


def epochs(sink: Sink, train_loss: Sequence[Sequence[float]], validation_score: Sequence[Sequence[float]]) -> None:
    """Log the training's course with the epoch as step, each the mean over the folds that trained so long."""
    courses = {"epochs/train_loss": train_loss, "epochs/validation_score": validation_score}
    sink.metric_steps(
        {
            name: {
                epoch: float(np.mean([fold[epoch] for fold in by_fold if epoch < len(fold)]))
                for epoch in range(max(map(len, by_fold), default=0))
            }
            for name, by_fold in courses.items()
        }
    )


def vsn_tables(sink: Sink, result: Pruned) -> None:
    """Log the ranking, and how many columns of each group were selected."""
    ranking(sink, result)
    selected_by_group(sink, result)


def selected_by_group(sink: Sink, result: Pruned) -> None:
    """Log how many columns of each group were selected."""
    selected = Counter(row.group for row in result.ranked if row.selected)
    groups = dict.fromkeys(row.group for row in result.ranked)
    sink.metrics({f"n_selected_{re.sub('[^A-Za-z0-9_.-]', '_', group)}": selected[group] for group in groups})


def ranking(sink: Sink, result: Pruned) -> None:
    """Log `vsn_weights.json`, `feature_groups.json`, and with probes `vsn_p_values.json`."""
    rows = result.ranked
    columns: tuple[str, ...] = ("rank", "feature", "group", "mean_weight", "relative_weight", "stability", "selected")
    sink.table(
        "vsn_weights.json",
        {name: [getattr(row, name) for row in rows] for name in columns}
        | {f"fold_{fold}": [row.weights[i] for row in rows] for i, fold in enumerate(result.fold_indices)},
    )
    if np.isfinite(result.probe_relative_weight).any():
        columns = ("rank", "feature", "relative_weight", "p_value", "selected")
        sink.table("vsn_p_values.json", {name: [getattr(row, name) for row in rows] for name in columns})
    total = Counter(row.group for row in rows)
    selected = Counter(row.group for row in rows if row.selected)
    weight = {
        group: sum(row.mean_weight for row in rows if row.group == group and np.isfinite(row.mean_weight))
        for group in total
    }
    groups = sorted(total, key=lambda group: (-selected[group], -weight[group]))
    sink.table(
        "feature_groups.json",
        {
            "group": groups,
            "n_features": [total[group] for group in groups],
            "n_selected": [selected[group] for group in groups],
            "weight": [weight[group] for group in groups],
        },
    )


def trials(sink: Sink, result: Tuned) -> None:
    """Log `trials.json`."""
    names = sorted({name for trial in result.trials for name in trial.parameters})
    columns: dict[str, list[Any]] = {
        "trial": [trial.number for trial in result.trials],
        "state": [trial.state for trial in result.trials],
        "best": [trial.number == result.best_trial for trial in result.trials],
        "oos_sharpe": [trial.oos_sharpe for trial in result.trials],
        "n_folds": [trial.n_folds for trial in result.trials],
        "seconds": [trial.seconds for trial in result.trials],
    }
    columns |= {name: [trial.parameters.get(name) for trial in result.trials] for name in names}
    sink.table("trials.json", columns)


def calibration(sink: Sink, one: Calibration) -> None:
    """Log `calibration.json`: a row for each fold, then development and holdout. Beside an estimate stands its standard
    error (`_se`), and beside a gain how many of them it is (`_t`)."""
    columns: dict[str, list[Any]] = {}
    for field in fields(CalibrationRow):
        values = [getattr(row, field.name) for row in one.rows]
        if field.name in ESTIMATES:
            columns[field.name] = [None if value is None else value.value for value in values]
            columns[f"{field.name}_se"] = [None if value is None else value.standard_error for value in values]
            if field.name.endswith("_gain"):
                columns[f"{field.name}_t"] = [None if value is None else value.t for value in values]
        else:
            columns[field.name] = values
    sink.table("calibration.json", columns)


def _mean_over_folds(values: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Mean (columns,) of values (folds, columns), missing folds left out; NaN for a column missing from all."""
    each = np.array(values)
    known = np.isfinite(each)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, each, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)

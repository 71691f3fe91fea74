"""The headline of a production run, and what it leaves in MLflow: metrics, tables, figures, the record, the page."""

from __future__ import annotations

import html
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.data.findings import Finding
from pipeline.phases.production import Choice, Walked
from pipeline.reporting import (
    artifacts,
    calibration_figure,
    figures,
    frictions_figure,
    links,
    luck_figures,
    origins,
    page,
)
from pipeline.statistics import baseline_comparison
from pipeline.statistics import comparable as comparing
from pipeline.statistics.baseline_comparison import BaselineRow
from pipeline.statistics.baselines import Baseline
from pipeline.statistics.comparable import MODEL, Comparable
from pipeline.statistics.frictions import COSTS_BPS, DELAYS_BARS
from pipeline.statistics.inference import Inference, metrics
from pipeline.tracking.ledger import Look
from pipeline.tracking.runs import Run
from pipeline.tracking.sink import Sink
from tft.backtest import FoldOutcome, FoldRow
from tft.metrics import Performance

JOB_METRICS = (
    "oos_sharpe",
    "oos_sharpe_se",
    "oos_sharpe_low",
    "oos_sharpe_high",
    "oos_sharpe_gross",
    "oos_sharpe_development",
    "oos_drift",
    "oos_skill",
    "oos_skill_se",
    "oos_sharpe_neutral",
    "oos_sharpe_neutral_se",
    "oos_verdict_p_value",
    "oos_p_value",
    "oos_p_value_deflated",
    "oos_psr",
    "oos_dsr",
    "detectable_sharpe",
    "baseline_long_only_sharpe",
    "baseline_long_only_difference",
    "calibration_log_score_gain_t",
    "seed_sharpe_spread",
    "val_oos_gap_mean",
    "holdout_n_bars",
    "n_looks",
    "n_configurations_looked",
    "n_features_initial",
    "n_features_prefiltered",
    "n_features_selected",
)
"""What the job's own run shows beside the folds' Sharpes and the findings: the headline, and what the verdict rests on.
All other metrics are in the run of the phase. The first is what the UI compares two runs by until told otherwise."""


IN_DESCRIPTION = {"equity.png": "Cumulative return", "validation_vs_oos.png": "Validation and test Sharpe by fold"}
"""The figures that descriptions show, by file name."""

RECORD = "oos_record.parquet"


class Page(str):
    """The HTML of a whole page, which a notebook shows in a frame of its own: neither's style reaches the other."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<a page of {len(self)} characters>"

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self)}" style="width: 100%; height: 80vh; border: 0"></iframe>'


@dataclass(frozen=True)
class Produced:
    """Headline of a production run."""

    features: tuple[str, ...]
    selection: str
    """How many columns pruning kept, and how many of them are expected to be false."""
    folds: tuple[FoldRow, ...]
    development: Performance | None
    holdout: Performance | None
    inference: Inference
    """The inference that stands beside each of these numbers, and the verdict."""
    comparable: tuple[Comparable, ...]
    """The model by segment, and each simple rule on the holdout, at one volatility and against costs and delays."""
    looks: tuple[Look, ...]
    """Looks at an overlapping holdout, this one last."""
    seed_sharpes: tuple[float, ...]
    """Net Sharpe of each seed alone, on the holdout or else on development: the noise floor of any comparison."""
    checkpoint: str
    """Folder of the checkpoint."""
    model_name: str
    model_version: str
    """Empty if it could not be registered."""
    promoted: bool
    promotion_reason: str
    trouble: tuple[str, ...]
    """What failed after the training was finished: the command then ends with a non-zero exit code."""
    run_id: str = ""
    """The MLflow run of the whole job, which holds the page and the record."""

    @property
    def record(self) -> pl.DataFrame:
        """The walk-forward record: a row for each bar of decision and instrument."""
        return pl.read_parquet(Run(self.run_id).read_bytes(RECORD))

    def report(self) -> Page:
        """The report, as a notebook shows it; as text it is the HTML of a page that needs no other file."""
        return Page(Run(self.run_id).read_text(page.REPORT))


def production(
    phase: Sink,
    own: Sink,
    result: Produced,
    *,
    facts: page.Facts,
    chosen: Choice,
    walked: Walked,
    baselines: Mapping[str, Baseline],
    findings: Sequence[Finding],
    came_from: origins.Origins,
) -> None:
    """Write the run to the phase's run and to the job's own.

    chosen: what the deployed model uses · baselines: each simple rule by its name · came_from: the record taken apart.
    """
    record, pruned, tuned = walked.record, chosen.pruned, chosen.tuned
    drawn = {name: draw() for name, draw in _figures(result, chosen, walked, baselines).items()}
    drawn |= {name: draw() for name, draw in origins.figures(came_from).items()}
    rendered = page.render(
        job=facts,
        n_initial=chosen.filtered.n_initial,
        n_prefiltered=len(chosen.filtered.kept),
        n_selected=len(pruned.selected),
        ranked=pruned.ranked,
        pruning_summary=pruned.summary,
        pruning_warning=pruned.warning,
        tuned=tuned.best,
        n_trials=len(tuned.trials),
        best_trial_sharpe=next(t.oos_sharpe for t in tuned.trials if t.number == tuned.best_trial),
        folds=result.folds,
        record=record,
        model=(result.model_name, result.model_version, result.promoted, result.promotion_reason),
        trouble=result.trouble,
        figures=drawn,
        inference=result.inference,
        comparable=result.comparable,
        looks=result.looks,
        findings=findings,
        origins=came_from,
    )
    tables = {
        RECORD: record.to_columns(),
        "validation_returns.parquet": validation_columns(walked.outcomes, walked.market.panel.times),
    }
    figures_of = scalars(result, n_initial=chosen.filtered.n_initial, n_prefiltered=len(chosen.filtered.kept))
    figures_of |= {"n_features_expected_false": pruned.n_expected_false}
    own.metrics(job_metrics(figures_of))
    phase.metrics(phase_metrics(figures_of))
    frictions(phase, result.comparable)
    artifacts.epochs(
        phase,
        [outcome.train_loss.tolist() for outcome in walked.outcomes],
        [outcome.validation_score.tolist() for outcome in walked.outcomes],
    )
    artifacts.selected_by_group(phase, pruned)
    for sink in (phase, own):
        by_fold(sink, result)
        artifacts.findings_counts(sink, findings)
        headline(sink, result)
        artifacts.ranking(sink, pruned)
        sink.table("baseline_choices.json", baseline_choices(baselines, [fold.index for fold in walked.folds]))
        origins.log(sink, came_from)
        if walked.selection == "nested":
            choices(sink, walked)
        for name, figure in drawn.items():
            sink.figure(name, figure)
        for name in IN_DESCRIPTION:
            sink.figure(f"{links.SMALL}/{name}", drawn[name], links.SMALL_WIDTH)
        sink.text(page.REPORT, rendered)
        with tempfile.TemporaryDirectory() as scratch:
            for name, columns in tables.items():
                pl.DataFrame(dict(columns)).write_parquet(Path(scratch) / name)
                sink.file(Path(scratch) / name)


def _figures(
    result: Produced, chosen: Choice, walked: Walked, baselines: Mapping[str, Baseline]
) -> dict[str, partial[Figure]]:
    """How each figure is drawn, by file name."""
    outcomes, config = walked.outcomes, chosen.config
    drawn = {
        "validation_vs_oos.png": partial(figures.validation_against_oos, result.folds),
        "equity.png": partial(figures.equity, walked.record, volatility_target=config.positions.vol_target),
        **artifacts.pruning_figures(chosen.pruned),
        "training_curves.png": partial(
            figures.training_curves,
            [outcome.fold.index for outcome in outcomes],
            [outcome.train_loss.tolist() for outcome in outcomes],
            [outcome.validation_score.tolist() for outcome in outcomes],
        ),
    }
    if rows := result.inference.baselines:
        simple = {name: one.record for name, one in baselines.items()}
        drawn["baselines.png"] = partial(
            luck_figures.baselines, walked.record, simple, rows, volatility_target=config.positions.vol_target
        )
        drawn["baseline_differences.png"] = partial(luck_figures.baseline_differences, rows)
    if clean := [one for one in result.comparable if one.segment == "holdout"]:
        drawn["frictions.png"] = partial(
            frictions_figure.frictions,
            clean,
            cost_bps=config.positions.cost_bps,
            delay_bars=config.execution_delay_bars,
        )
    if (fit := result.inference.calibration) and fit.segment:
        drawn["calibration.png"] = partial(calibration_figure.calibration, fit)
    return drawn


def scalars(result: Produced, *, n_initial: int, n_prefiltered: int) -> dict[str, float | None]:
    """All metrics of a production run that have one value, the headline first."""
    development, holdout = result.development, result.holdout
    of_inference = metrics(result.inference)
    smallest = result.inference.skill.neutral.detectable_sharpe if result.inference.skill else None
    named: dict[str, float | None] = {
        "oos_sharpe": holdout.sharpe if holdout else None,
        "oos_sharpe_gross": holdout.sharpe_gross if holdout else None,
        "oos_sharpe_development": development.sharpe if development else None,
        "oos_sharpe_development_gross": development.sharpe_gross if development else None,
        **of_inference,
        "detectable_sharpe": smallest,
        "seed_sharpe_spread": float(np.std(result.seed_sharpes, ddof=1)) if len(result.seed_sharpes) > 1 else None,
        "n_looks": len(result.looks),
        "n_features_initial": n_initial,
        "n_features_prefiltered": n_prefiltered,
        "n_features_selected": len(result.features),
    }
    named |= baseline_comparison.metrics(result.inference.baselines) | comparing.metrics(result.comparable)
    for segment, performance in (("holdout", holdout), ("development", development)):
        if performance:
            named |= {f"{segment}_{name}": value for name, value in asdict(performance).items()}
    return named


def job_metrics(named: Mapping[str, float | None]) -> dict[str, float | None]:
    """Those of a production run's metrics that the job's own run shows, in the order in which they are shown."""
    return {name: named[name] for name in JOB_METRICS if name in named}


def phase_metrics(named: Mapping[str, float | None]) -> dict[str, float | None]:
    """All of a production run's metrics as the run of the phase shows them, those of development in a group of its own:
    the UI groups charts by what stands before a slash."""
    return {re.sub("^development_", "development/", name): value for name, value in named.items()}


def model_metrics(result: Produced) -> dict[str, float | None]:
    """What the page of the model shows: the walk-forward of its recipe, not of its final weights."""
    named = job_metrics(scalars(result, n_initial=0, n_prefiltered=0))
    return {name: value for name, value in named.items() if name.startswith("oos_")}


def by_fold(sink: Sink, result: Produced) -> None:
    """Log what there is of each fold: tables, and metrics with the fold as step."""
    luck, fit = result.inference.folds, result.inference.calibration
    more: dict[str, list[float | None]] = {
        "val_sharpe_best_of_noise": [one.best_of_correlated_epochs for one in luck],
        "val_sharpe_best_of_independent_noise": [one.best_of_independent_epochs for one in luck],
    }
    if fit and fit.rows:
        for name in ("log_score_gain", "crps_gain"):
            gains = [getattr(row, name) for row in fit.folds]
            more[name] = [None if gain is None else gain.value for gain in gains]
        artifacts.calibration(sink, fit)
    artifacts.folds(sink, result.folds, more)


def headline(sink: Sink, result: Produced) -> None:
    """Log the tables of the rules beside the model, and the tags by which production runs are told apart."""
    if rows := result.inference.baselines:
        names = [field.name for field in fields(BaselineRow)]
        sink.table("baselines.json", {name: [getattr(row, name) for row in rows] for name in names})
    names = [field.name for field in fields(Comparable) if not field.name.startswith("sharpe_by_")]
    sink.table("comparable.json", {name: [getattr(row, name) for row in result.comparable] for name in names})
    sink.table("frictions.json", comparing.curves(result.comparable))
    sink.tags({"model_name": result.model_name, "model_version": result.model_version, "checkpoint": result.checkpoint})
    sink.tags({"verdict": result.inference.verdict})
    if result.trouble:
        sink.tags({"trouble": " ".join(result.trouble)})


def baseline_choices(baselines: Mapping[str, Baseline], folds: Sequence[int]) -> dict[str, list[Any]]:
    """A row for each baseline and fold: its smoothing of positions and, where it has one, its strength (the penalty of
    ridge, the number of trees)."""
    rows = [
        (name, fold, smoothing, one.strength[i] if one.strength else None)
        for name, one in baselines.items()
        for i, (fold, smoothing) in enumerate(zip(folds, one.position_smooth, strict=True))
    ]
    return dict(
        zip(("baseline", "fold", "position_smooth", "strength"), map(list, zip(*rows, strict=True)), strict=True)
    )


def frictions(sink: Sink, rows: Sequence[Comparable]) -> None:
    """Log the model's Sharpe by cost and by delay; the cost in basis points or the delay in bars is the step."""
    for row in rows:
        if row.name == MODEL:
            by_cost = dict(zip(COSTS_BPS, row.sharpe_by_cost, strict=True))
            by_delay = dict(zip(DELAYS_BARS, row.sharpe_by_delay, strict=True))
            sink.metric_steps(
                {f"{row.segment}_sharpe_at_cost_bps": by_cost, f"{row.segment}_sharpe_at_delay_bars": by_delay}
            )


def validation_columns(
    outcomes: Sequence[FoldOutcome], times: NDArray[np.datetime64]
) -> Mapping[str, NDArray[np.generic]]:
    """Net portfolio return of every validation bar after every epoch, as a long table: fold, epoch, time, net."""
    blocks = [outcome.validation_returns for outcome in outcomes]  # (E, n) each
    return {
        "fold": np.repeat([outcome.fold.index for outcome in outcomes], [block.size for block in blocks]),
        "epoch": np.concatenate([np.repeat(np.arange(len(block)), block.shape[1]) for block in blocks]),
        "time": np.concatenate(
            [
                np.tile(times[outcome.fold.validation.start : outcome.fold.validation.stop], len(block))
                for outcome, block in zip(outcomes, blocks, strict=True)
            ]
        ),
        "net": np.concatenate([block.ravel() for block in blocks]),
    }


def choices(sink: Sink, walked: Walked) -> None:
    """Log `choices.json`: the columns and parameters that each fold was fitted with."""
    chosen = [walked.choices[fold.index] for fold in walked.folds]
    times = walked.market.panel.times
    names = sorted({name for choice in chosen for name in choice.tuned.best})
    columns: dict[str, list[Any]] = {
        "fold": [fold.index for fold in walked.folds],
        "chosen_before": [str(times[fold.validation.stop]) for fold in walked.folds],
        "n_features": [len(choice.features) for choice in chosen],
        "features": [", ".join(choice.features) for choice in chosen],
        "trial": [choice.tuned.best_trial for choice in chosen],
    }
    columns |= {name: [choice.tuned.best.get(name) for choice in chosen] for name in names}
    sink.table("choices.json", columns)

"""Phase 2: train on every surviving column, and on probes, and read the variable selection weights fold by fold."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np

from pipeline.job import Job
from pipeline.phases import prefilter
from pipeline.reporting import figures as plots
from pipeline.tracking.kept import LocalStore
from pipeline.tracking.runs import Run, log_folds
from tft.backtest import FoldRow, fold_row, stitch, walk
from tft.panel import Panel, group_of
from tft.train import Recipe
from tft.windows import key

PROBE_GROUP = "probe"
PROBE_BLOCK_BARS = 21
"""Probes are permuted in blocks of this many bars: a column's memory within a month survives, its timing does not."""

Weights = tuple[tuple[float, ...], ...]
"""By fold, then by column; NaN where a column was missing from a fold's validation rows."""


@dataclass(frozen=True)
class Explored:
    features: tuple[str, ...]
    fold_indices: tuple[int, ...]
    validation_end: tuple[str, ...]
    """Last bar of each fold's validation block (ISO time)."""
    weight: Weights
    """Mean VSN weight over a fold's validation rows in which the column is present."""
    relative: Weights
    """The same relative to uniform: 1 is what every variable present would get."""
    probes: tuple[str, ...]
    probe_relative: Weights
    folds: tuple[FoldRow, ...]
    oos_sharpe: float | None
    """Annual, net, stitched over the folds' test blocks."""
    train_loss: tuple[tuple[float, ...], ...]
    validation_score: tuple[tuple[float, ...], ...]


def run(job: Job) -> Explored:
    """VSN weights of the columns that prefilter kept, by fold."""
    filtered = prefilter.run(job)
    settings = job.config.training_settings() | {"exploration": asdict(job.config.exploration)}
    return job.run_phase(
        "exploration",
        Explored,
        settings=settings,
        upstream=("prefilter",),
        compute=lambda run: _explore(job, filtered.kept),
        log=_log,
    )


def with_probes(panel: Panel, n_probes: int, seed: int) -> tuple[Panel, tuple[str, ...]]:
    """The panel with `n_probes` block-permuted copies of columns drawn without replacement (cycled if too few).

    One permutation a probe, of whole blocks of bars, the same for all instruments: values, missing values and
    cross-section stay together, only their timing is lost.
    """
    rng = np.random.default_rng([seed, key("probes") % 2**32])
    n_bars = len(panel.times)
    starts = np.arange(0, n_bars, PROBE_BLOCK_BARS)
    order = [
        int(c)
        for _ in range(-(-n_probes // len(panel.feature_names)))
        for c in rng.permutation(len(panel.feature_names))
    ]
    names, copies = [], []
    for number, column in enumerate(order[:n_probes]):
        blocks = [np.arange(start, min(start + PROBE_BLOCK_BARS, n_bars)) for start in rng.permutation(starts)]
        names.append(f"{PROBE_GROUP}_{number}_{panel.feature_names[column]}")
        copies.append(panel.features[np.concatenate(blocks)][:, :, column])
    if not copies:
        return panel, ()
    features = np.concatenate([panel.features, np.stack(copies, axis=-1)], axis=-1)
    return replace(panel, feature_names=(*panel.feature_names, *names), features=features), tuple(names)


def _explore(job: Job, kept: tuple[str, ...]) -> Explored:
    config = job.config
    panel, probes = with_probes(job.development.select(kept), config.exploration.n_probes, config.seed)
    market = job.market(panel)
    recipe = Recipe(config.model, config.training, config.timing, config.exploration.epochs, config.seed)
    folds = job.folds(job.n_development, step_size=config.exploration.step_size, max_folds=config.exploration.max_folds)
    job.reporter.start("exploration", len(folds) * recipe.epochs)
    on_epoch = job.epoch_reporter(len(folds), recipe.epochs)
    store = LocalStore(job.fits_folder("exploration"))
    walked = walk(market, folds, recipe, config.positions, store=store, on_epoch=on_epoch)
    outcomes = [outcome for _, outcome in walked]
    record = stitch(
        [outcome.forecast for outcome in outcomes],
        panel,
        market.sigma,
        config.positions,
        config.timing,
        n_development=job.n_development,
    )
    performance = record.performance("development")
    n_kept = len(kept)
    return Explored(
        features=kept,
        fold_indices=tuple(fold.index for fold in folds),
        validation_end=tuple(str(panel.times[fold.validation.stop - 1]) for fold in folds),
        weight=tuple(tuple(outcome.vsn_weight[:n_kept].tolist()) for outcome in outcomes),
        relative=tuple(tuple(outcome.vsn_weight_relative[:n_kept].tolist()) for outcome in outcomes),
        probes=probes,
        probe_relative=tuple(tuple(outcome.vsn_weight_relative[n_kept:].tolist()) for outcome in outcomes),
        folds=tuple(fold_row(outcome, record, panel.times) for outcome in outcomes),
        oos_sharpe=performance.sharpe if performance else None,
        train_loss=tuple(tuple(outcome.train_loss.tolist()) for outcome in outcomes),
        validation_score=tuple(tuple(outcome.validation_score.tolist()) for outcome in outcomes),
    )


def _log(run: Run, result: Explored) -> None:
    log_folds(run, result.folds)
    run.metrics({"n_features_prefiltered": len(result.features), "oos_sharpe_development": result.oos_sharpe})
    relative = np.array(result.relative)
    with np.errstate(invalid="ignore"):
        order = np.argsort(-np.nan_to_num(_nanmean(relative), nan=-1.0), kind="stable")
    run.table(
        "vsn_weights_by_fold.json",
        {
            "feature": [result.features[i] for i in order],
            "group": [group_of(result.features[i]) for i in order],
            "mean_weight": _nanmean(np.array(result.weight))[order].tolist(),
            "relative_weight": _nanmean(relative)[order].tolist(),
        }
        | {
            f"fold_{fold}": np.array(result.weight[row])[order].tolist() for row, fold in enumerate(result.fold_indices)
        },
    )
    if result.probes:
        run.table(
            "probes.json",
            {"probe": list(result.probes), "relative_weight": _nanmean(np.array(result.probe_relative)).tolist()},
        )
    run.figure(
        "training_curves.png", plots.training_curves(result.fold_indices, result.train_loss, result.validation_score)
    )
    run.figure("validation_vs_oos.png", plots.validation_against_oos(result.folds))


def _nanmean(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Mean over folds of (folds, columns), missing ones left out; NaN for a column missing from all."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)

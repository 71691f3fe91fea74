"""Phase 2: train on every surviving column, and on probes, and read the variable selection weights fold by fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config.schema import Config
from pipeline.phases.training_data import TrainingData
from tft.backtest import FoldRow, fold_row, walk
from tft.folds import Fold
from tft.panel import Panel
from tft.record import stitch
from tft.runtime.store import Store
from tft.train import EpochReport
from tft.windows import seed_from

PROBE_GROUP = "probe"
LEAST_SHIFT = 1.0 / 3.0
"""Share of the bars that a probe is shifted by at least, in either direction."""

Weights = tuple[tuple[float, ...], ...]
"""One row a fold, one value a column; NaN where a column was missing from the fold's validation rows."""


@dataclass(frozen=True)
class Explored:
    """Result of exploration."""

    features: tuple[str, ...]
    fold_indices: tuple[int, ...]
    validation_end: tuple[str, ...]
    """Last bar of each fold's validation block (ISO time)."""
    weight: Weights
    """Mean VSN weight over a fold's validation rows in which the column is present."""
    relative: Weights
    """Mean VSN weight relative to uniform: 1 is the weight of a variable if all present ones had the same."""
    probes: tuple[str, ...]
    probe_relative: Weights
    folds: tuple[FoldRow, ...]
    oos_sharpe: float | None
    """Annual, net, stitched over the folds' test blocks."""
    train_loss: tuple[tuple[float, ...], ...]
    validation_score: tuple[tuple[float, ...], ...]


def with_probes(panel: Panel, n_probes: int, seed: int) -> tuple[Panel, tuple[str, ...]]:
    """The panel with `n_probes` shifted copies of columns drawn without replacement (cycled if too few).

    The bars of a probe are those of its column, the last ones moved to the front, by a random distance of a third to
    two thirds of all bars, the same for all instruments: values, missing values, cross-section and memory stay as they
    are, only the timing is lost. A probe is what its column would be if it had nothing to do with returns, drifts and
    slow swings included, as a permuted copy is not.
    """
    rng = np.random.default_rng([seed, seed_from("probes") % 2**32])
    n_bars = len(panel.times)
    least = int(LEAST_SHIFT * n_bars)
    order = [
        int(c)
        for _ in range(-(-n_probes // len(panel.feature_names)))
        for c in rng.permutation(len(panel.feature_names))
    ]
    names, copies = [], []
    for number, column in enumerate(order[:n_probes]):
        shift = int(rng.integers(least, n_bars - least + 1))
        names.append(f"{PROBE_GROUP}_{number}_{panel.feature_names[column]}")
        copies.append(np.roll(panel.features[:, :, column], shift, axis=0))
    if not copies:
        return panel, ()
    features = np.concatenate([panel.features, np.stack(copies, axis=-1)], axis=-1)
    return replace(panel, feature_names=(*panel.feature_names, *names), features=features), tuple(names)


def explore(
    data: TrainingData,
    config: Config,
    folds: Sequence[Fold],
    *,
    store: Store | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Explored:
    """Train on the columns of the development bars and on probes, and read the VSN weights of each fold.

    store: where finished folds wait in case the process dies.
    """
    features = data.panel.feature_names
    panel, probes = with_probes(data.panel, config.exploration.n_probes, config.seed)
    market = replace(data, panel=panel).market(config.timing)
    recipe = config.recipe(config.exploration.epochs)
    walked = walk(market, folds, recipe, store=store, on_epoch=on_epoch)
    outcomes = [outcome for _, outcome in walked]
    record = stitch(
        [outcome.forecast for outcome in outcomes],
        panel,
        market.sigma,
        config.positions,
        config.timing,
        n_development=data.n_bars,
    )
    performance = record.performance("development")
    n_features = len(features)
    return Explored(
        features=features,
        fold_indices=tuple(fold.index for fold in folds),
        validation_end=tuple(str(panel.times[fold.validation.stop - 1]) for fold in folds),
        weight=tuple(tuple(outcome.vsn_weight[:n_features].tolist()) for outcome in outcomes),
        relative=tuple(tuple(outcome.vsn_weight_relative[:n_features].tolist()) for outcome in outcomes),
        probes=probes,
        probe_relative=tuple(tuple(outcome.vsn_weight_relative[n_features:].tolist()) for outcome in outcomes),
        folds=tuple(fold_row(outcome, record, panel.times) for outcome in outcomes),
        oos_sharpe=performance.sharpe if performance else None,
        train_loss=tuple(tuple(outcome.train_loss.tolist()) for outcome in outcomes),
        validation_score=tuple(tuple(outcome.validation_score.tolist()) for outcome in outcomes),
    )

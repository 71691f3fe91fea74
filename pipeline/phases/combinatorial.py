"""Combinatorial purged cross-validation of the chosen recipe: many histories of it, where a walk-forward has one.

Lopez de Prado 2018, ch. 12. Development is cut into groups; every choice of test groups is a split, which trains on the
other groups but for a purge gap on both sides of a test block and an embargo after it. A split validates (recalibration
and gain, as in a fold of the walk-forward) on the end of its longest run of training bars. The tested groups of all
splits make paths, each of which tests every bar once.

Labels of tested bars are trained on by nobody who tests them. Features are another matter: training windows may reach
into tested bars through contexts, and burn-in bars may lie there; what they see is features, which hold no label. Most
of a path's forecasts come from networks that learned from later bars too, so that the paths say how much the recipe's
result owes to one order of history, and not what could have been earned. Columns and parameters were chosen on these
very bars: nothing here is out-of-sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config.schema import Config
from pipeline.phases.folds import combinatorial_folds, combinatorial_splits
from pipeline.phases.production import Choice, recipes
from pipeline.phases.stitching import average, with_gain
from pipeline.phases.training_data import TrainingData
from pipeline.statistics.estimate import Estimate, sharpe_estimate
from tft.backtest import FoldOutcome, walk
from tft.market import Market
from tft.record import RawForecast, Record, stitch
from tft.runtime.store import Store
from tft.train import EpochReport

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PathRow:
    """One path. Sharpes are annual and net."""

    path: int
    n_bars: int
    sharpe: Estimate | None
    """None where it has no standard error, as below."""
    sharpe_of_walk_forward_bars: Estimate | None
    """Over the bars that the walk-forward tests in development."""


@dataclass(frozen=True)
class Paths:
    """The paths beside the single walk-forward of the same recipe."""

    n_groups: int
    n_test_groups: int
    n_splits: int
    purge_gap_bars: int
    embargo_bars: int
    rows: tuple[PathRow, ...]
    walk_forward: Estimate | None
    """Annual net Sharpe of the walk-forward's development bars."""
    walk_forward_bars: int

    @property
    def sharpes(self) -> tuple[float, ...]:
        """The annual net Sharpe of each path that has one."""
        return tuple(row.sharpe.value for row in self.rows if row.sharpe)


def combinatorial_paths(
    data: TrainingData,
    choice: Choice,
    walk_forward: Record,
    *,
    store: Store | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Paths:
    """Train every split on development bars with the chosen columns and parameters, and follow the paths.

    data: the development bars, all columns · walk_forward: its development bars stand beside the paths · store: where
    finished splits wait in case the process dies.
    """
    config = choice.config
    market = data.select(choice.features).market(config.timing)
    outcomes = split_outcomes(market, config, store=store, on_epoch=on_epoch)
    records = path_records(market, config, outcomes)
    known = (walk_forward.segment == "development") & np.isfinite(walk_forward.net())
    periods = config.periods_per_year
    splits = combinatorial_splits(config, data.n_bars)

    def sharpe_of(record: Record, bars: NDArray[np.int64]) -> Estimate | None:
        net = record.net()[np.isin(record.bars, bars)]
        return sharpe_estimate(net[np.isfinite(net)], periods_per_year=periods)

    return Paths(
        n_groups=splits.n_groups,
        n_test_groups=splits.n_test_groups,
        n_splits=len(splits),
        purge_gap_bars=splits.purge_gap,
        embargo_bars=splits.embargo,
        rows=tuple(
            PathRow(
                path=number,
                n_bars=int(np.isfinite(record.net()).sum()),
                sharpe=sharpe_of(record, record.bars),
                sharpe_of_walk_forward_bars=sharpe_of(record, walk_forward.bars[known]),
            )
            for number, record in enumerate(records)
        ),
        walk_forward=sharpe_estimate(walk_forward.net()[known], periods_per_year=periods),
        walk_forward_bars=int(known.sum()),
    )


def split_outcomes(
    market: Market,
    config: Config,
    *,
    store: Store | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> list[FoldOutcome]:
    """Outcome of every split, seeds averaged, with its gain."""
    folds, seeds = combinatorial_folds(config, len(market.panel.times)), recipes(config)
    walked = walk(market, [fold for fold in folds for _ in seeds], seeds * len(folds), store=store, on_epoch=on_epoch)
    outcomes = [outcome for _, outcome in walked]
    of_folds = [outcomes[start : start + len(seeds)] for start in range(0, len(outcomes), len(seeds))]
    return [with_gain(average(same_fold, market, config.positions), market, seeds[0]) for same_fold in of_folds]


def path_records(market: Market, config: Config, outcomes: Sequence[FoldOutcome]) -> list[Record]:
    """The record of each path: of every group the forecasts of one of the splits that test it."""
    n_bars, warm_up = len(market.panel.times), config.warm_up_bars
    splits = combinatorial_splits(config, n_bars)
    groups = [range(group.start + warm_up, group.stop + warm_up) for group in splits.groups]

    def tested(split: int, group: range) -> RawForecast:
        forecast = outcomes[split].forecast
        first = group.start - forecast.bars.start
        return RawForecast(forecast.fold, group, forecast.raw_position[first : first + len(group)])

    return [
        stitch(
            [tested(split, group) for split, group in zip(path, groups, strict=True)],
            market.panel,
            market.sigma,
            config.positions,
            config.timing,
            n_development=n_bars,
        )
        for path in splits.paths
    ]

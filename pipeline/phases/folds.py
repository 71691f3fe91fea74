"""Which folds each phase trains on, from the configuration and the number of bars alone."""

from __future__ import annotations

from pipeline.config.bars import min_inner_bars, min_nested_bars
from pipeline.config.schema import Config
from tft.folds import CombinatorialPurged, Fold, combinatorial_fold, combinatorial_purged, final_fold, walk_forward
from tft.metrics import MIN_INFERENCE_BARS


def exploration_folds(config: Config, n_development: int) -> list[Fold]:
    """Folds over development, in exploration's steps; the most recent ones where their number is limited."""
    exploration = config.exploration
    return _folds(config, n_development, step_size=exploration.step_size, max_folds=exploration.max_folds)


def tuning_folds(config: Config, n_development: int) -> list[Fold]:
    """Folds spread evenly over development whose test blocks do not overlap; by default they tile it."""
    n_testable = (
        n_development
        - config.timing.label_bars
        - config.first_decision_bar
        - config.walk_forward.train_window
        - config.purge_gap
    )
    step_size = n_testable // config.tuning.folds
    test_window = min(config.walk_forward.test_window or step_size, step_size)
    folds = _folds(config, n_development, step_size=step_size, max_folds=None, test_window=test_window)
    return folds[: config.tuning.folds]


def production_folds(config: Config, n_bars: int) -> list[Fold]:
    """The folds of the reported walk-forward, over all `n_bars` of the table.

    With `selection: nested` they begin with the first fold whose own past holds the exploration folds and the bars for
    tuning that a choice needs. Raises ValueError where that leaves too few bars of record.
    """
    production = config.production
    folds = _folds(config, n_bars, step_size=production.step_size, max_folds=production.max_folds)
    if config.selection != "nested":
        return folds
    reported = [fold for fold in folds if fold.validation.stop >= min_inner_bars(config)]
    n_record = n_bars - config.timing.label_bars - reported[0].test.start if reported else 0
    if n_record < MIN_INFERENCE_BARS:
        remedy = (
            f"the table has {n_bars} bars, bring {min_nested_bars(config)}, or shorten walk_forward.train_window or "
            f"exploration.step_size"
            if n_bars < min_nested_bars(config)
            else f"raise production.max_folds ({production.max_folds})"
        )
        raise ValueError(
            f"selection: nested leaves {n_record} bars of record, {MIN_INFERENCE_BARS} are needed: {remedy}"
        )
    return reported


def combinatorial_splits(config: Config, n_development: int) -> CombinatorialPurged:
    """The splits of the labelled development bars after the warm-up, which is bar 0 there."""
    return combinatorial_purged(
        n_development - config.timing.label_bars - config.warm_up_bars,
        n_groups=config.combinatorial.n_groups,
        n_test_groups=config.combinatorial.n_test_groups,
        purge_gap=config.purge_gap,
        embargo=config.embargo_bars,
    )


def combinatorial_folds(config: Config, n_development: int) -> list[Fold]:
    """A fold for each combinatorial split; it trains on all the bars that the split leaves it, and not on a window."""
    window, gap = config.walk_forward.validation_window, config.purge_gap
    return [
        combinatorial_fold(split, validation_window=window, purge_gap=gap).shifted(config.warm_up_bars)
        for split in combinatorial_splits(config, n_development)
    ]


def deployment_fold(config: Config, n_bars: int, index: int) -> Fold:
    """The fold of the final fit: its validation block ends at the last labelled bar, and nothing is left to test."""
    fold = final_fold(
        index,
        n_bars - config.timing.label_bars - config.first_decision_bar,
        train_window=config.walk_forward.train_window,
        validation_window=config.walk_forward.validation_window,
        purge_gap=config.purge_gap,
        expanding=config.walk_forward.expanding,
    )
    return fold.shifted(config.first_decision_bar)


def _folds(
    config: Config, n_bars: int, *, step_size: int, max_folds: int | None, test_window: int | None = None
) -> list[Fold]:
    """Folds over the labelled bars of the first `n_bars`, after the warm-up and what is left out; the most recent
    `max_folds`."""
    folds = walk_forward(
        n_bars - config.timing.label_bars - config.first_decision_bar,
        train_window=config.walk_forward.train_window,
        validation_window=config.walk_forward.validation_window,
        test_window=test_window or config.walk_forward.test_window or step_size,
        step_size=step_size,
        purge_gap=config.purge_gap,
        expanding=config.walk_forward.expanding,
    )
    kept = folds if max_folds is None else folds[-max_folds:]
    return [fold.shifted(config.first_decision_bar) for fold in kept]

"""How many bars a configuration needs, in a table and in its development part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.config.schema import MIN_INNER_FOLDS, Config, ConfigError
from tft.folds import bars_needed
from tft.metrics import MIN_BARS, MIN_INFERENCE_BARS


def n_development(config: Config, times: NDArray[np.datetime64]) -> int:
    """Number of bars that phases 1-4 may see: those of `times` (T,) before the holdout.

    With `selection: nested` there is no holdout, and these are all bars. Raises ConfigError if they are too few.
    """
    if config.selection == "nested":
        n_bars = len(times)
    elif config.holdout_start is not None:
        n_bars = int(np.searchsorted(times, np.datetime64(config.holdout_start)))
    else:
        n_bars = len(times) - _ceil(config.holdout_fraction * len(times))
    needed = min_development_bars(config)
    if n_bars < needed:
        raise ConfigError(
            [
                f"development holds {n_bars} of the table's {len(times)} bars, {needed} are "
                f"needed for one fold in every phase: add bars, or lower holdout_fraction, "
                f"walk_forward.train_window or model.seq_len (tuning.space included)"
                + (", or combinatorial.n_groups" if config.selection == "combinatorial" else "")
            ]
        )
    return n_bars


def min_bars(config: Config) -> int:
    """The fewest bars a table may have.

    With a holdout fraction, its development bars then give every phase its folds. Where the holdout starts at a given
    time, or with `selection: nested`, this is only the least number of development bars.
    """
    fewest = min_development_bars(config)
    if config.holdout_start is not None or config.selection == "nested":
        return fewest
    n_bars = fewest
    while n_bars - _ceil(config.holdout_fraction * n_bars) < fewest:
        n_bars += 1
    return n_bars


def min_development_bars(config: Config) -> int:
    """The fewest development bars that give every phase its folds, and each fold of tuning enough for a Sharpe."""
    decisions = _one_fold(config) + MIN_BARS * config.tuning.folds - 1
    if config.selection == "combinatorial":
        decisions = max(decisions, _min_combinatorial_decisions(config))
    return config.first_decision_bar + decisions + config.timing.label_bars


def _min_combinatorial_decisions(config: Config) -> int:
    """Decision bars of which every combinatorial split leaves a run with a validation block and a bar to train on.

    The training groups of a split are at most one run more than its test groups, so that the longest run has at least
    the mean number of groups, rounded up; its ends are purged.
    """
    settings, gap = config.combinatorial, config.purge_gap
    groups_of_a_run = -(-(settings.n_groups - settings.n_test_groups) // (settings.n_test_groups + 1))
    bars_of_a_run = config.walk_forward.validation_window + gap + 1 + 2 * gap + config.embargo_bars
    return settings.n_groups * -(-bars_of_a_run // groups_of_a_run)


def min_inner_bars(config: Config) -> int:
    """The fewest bars up to the end of a fold's validation block on which `selection: nested` chooses for the fold."""
    folds = _one_fold(config) + (MIN_INNER_FOLDS - 1) * config.exploration.step_size
    return max(min_development_bars(config), config.first_decision_bar + folds + config.timing.label_bars)


def min_nested_bars(config: Config) -> int:
    """The fewest bars of a table that give `selection: nested` a record of MIN_INFERENCE_BARS labelled bars."""
    first_end = config.first_decision_bar + config.walk_forward.train_window
    first_fold = _ceil(max(0, min_inner_bars(config) - first_end) / config.production.step_size)
    first_test = first_end + first_fold * config.production.step_size + config.purge_gap
    return first_test + MIN_INFERENCE_BARS + config.timing.label_bars


def _one_fold(config: Config) -> int:
    return bars_needed(train_window=config.walk_forward.train_window, purge_gap=config.purge_gap)


def _ceil(x: float) -> int:
    """Ceiling that does not take 0.3 * 10 for more than 3."""
    return -int(-(x - 1e-9) // 1)

"""What a walk-forward is judged by is cut from its own results, bar by bar."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_array_equal

from pipeline.assessment import _trials
from pipeline.phases.tuning import Trial, Tuned
from pipeline.statistics.baseline_comparison import against
from tests.pipeline.reporting.test_page import small_record


def test_the_part_of_a_record_over_the_untuned_bars_can_be_paired() -> None:
    """Rows 40 to 149 of 160: 90 bars of the holdout have a known return in both."""
    record = small_record(160, holdout_bars=100)
    part = record.rows(np.isin(record.bars, np.arange(140, 250)))
    assert_array_equal(part.times, record.times[40:150])
    assert_array_equal(part.net(), record.net()[40:150])
    (row,) = against(part, {"the same": part}, "holdout")
    assert (row.n_bars, row.difference_annual, row.p_value) == (90, 0.0, 1.0)


def trial(number: int, state: str, returns: tuple[float, ...]) -> Trial:
    return Trial(number, state, 1.0, 2, {}, 1.0, returns)


def test_pruned_trials_count_but_have_no_returns() -> None:
    """The chosen trial is found by its number, not by its place."""
    tuned = Tuned(
        best={},
        best_trial=3,
        trials=(
            trial(0, "COMPLETE", (0.1, 0.2)),
            trial(1, "PRUNED", ()),
            trial(2, "FAIL", ()),
            trial(3, "COMPLETE", (0.3, 0.4)),
        ),
        times=("2024-01-01", "2024-01-02"),
        study="study",
    )
    trials = _trials(tuned)
    assert_array_equal(trials.returns, np.array([[0.1, 0.3], [0.2, 0.4]]))
    assert (trials.best, trials.n_started) == (1, 4)

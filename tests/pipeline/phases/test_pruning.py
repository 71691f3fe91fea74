"""Which columns are kept, by a table small enough to work out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.config.sections import PruningConfig
from pipeline.phases.exploration import Explored
from pipeline.phases.pruning import Pruned, Ranked, prune

NAN = float("nan")
CONFIG = PruningConfig(weight_threshold=1.0, min_stability=0.5, max_features=80)

# Relative weights of four folds: what each column's mean and its share of folds at or above 1 are.
TABLE = {
    "px_steady": (1.5, 1.5, 1.5, 1.5),  # 1.5, all
    "px_edge": (1.0, 1.0, 1.0, 1.0),  # 1.0, all: at the threshold counts
    "vix_spike": (5.0, 0.9, 0.9, 0.8),  # 1.9, a quarter: the best mean, in one fold alone
    "vix_half": (2.0, 2.0, 0.2, 0.2),  # 1.1, half: at min_stability counts
    "fut_low": (0.99, 0.99, 0.99, 0.99),  # 0.99
    "fut_late": (NAN, NAN, 1.2, 1.4),  # 1.3, all of the two folds that have it
    "ban_never": (NAN, NAN, NAN, NAN),
}


def explored(relative: dict[str, tuple[float, ...]], probes: dict[str, tuple[float, ...]] | None = None) -> Explored:
    probes = probes or {}
    n_folds = len(next(iter(relative.values())))
    by_fold = tuple(zip(*relative.values(), strict=True))
    return Explored(
        features=tuple(relative),
        fold_indices=tuple(range(3, 3 + n_folds)),
        validation_end=tuple(f"2020-0{i + 1}-01" for i in range(n_folds)),
        weight=tuple(tuple(value / 100 for value in fold) for fold in by_fold),
        relative=by_fold,
        probes=tuple(probes),
        probe_relative=tuple(zip(*probes.values(), strict=True)) if probes else ((),) * n_folds,
        folds=(),
        oos_sharpe=None,
        train_loss=(),
        validation_score=(),
    )


def rows(result: Pruned) -> dict[str, Ranked]:
    return {row.feature: row for row in result.ranked}


def test_a_table_worked_out_by_hand() -> None:
    """Means and stabilities over the folds that have a column; at the thresholds is enough; best mean first."""
    result = prune(explored(TABLE), CONFIG)
    expected = {
        "vix_spike": (1.9, 0.25),
        "px_steady": (1.5, 1.0),
        "fut_late": (1.3, 1.0),
        "vix_half": (1.1, 0.5),
        "px_edge": (1.0, 1.0),
        "fut_low": (0.99, 0.0),
        "ban_never": (NAN, NAN),
    }
    assert [row.feature for row in result.ranked] == list(expected)
    assert [row.rank for row in result.ranked] == [1, 2, 3, 4, 5, 6, 7]
    for name, (mean, stability) in expected.items():
        row = rows(result)[name]
        assert row.relative_weight == pytest.approx(mean, nan_ok=True), name
        assert row.mean_weight == pytest.approx(mean / 100, nan_ok=True), name
        assert row.stability == pytest.approx(stability, nan_ok=True), name
        assert row.weights == pytest.approx([value / 100 for value in TABLE[name]], nan_ok=True), name
        assert row.group == name.split("_")[0]
    assert result.selected == ("px_steady", "fut_late", "vix_half", "px_edge")
    assert result.threshold == 1.0 and result.warning == "" and result.fold_indices == (3, 4, 5, 6)


@pytest.mark.parametrize(
    ("changes", "selected"),
    [
        ({"min_stability": 0.0}, ("vix_spike", "px_steady", "fut_late", "vix_half", "px_edge")),
        ({"min_stability": 0.51}, ("px_steady", "fut_late", "px_edge")),
        ({"weight_threshold": 1.2}, ("px_steady", "fut_late")),
        ({"weight_threshold": 0.5}, ("vix_spike", "px_steady", "fut_late", "vix_half", "px_edge", "fut_low")),
        ({"max_features": 2}, ("px_steady", "fut_late")),
    ],
)
def test_each_setting_decides_as_it_says(changes: dict[str, Any], selected: tuple[str, ...]) -> None:
    """The threshold moves both the mean that is needed and what counts as a stable fold; the best are kept."""
    assert prune(explored(TABLE), replace(CONFIG, **changes)).selected == selected


def test_a_column_must_exceed_the_95th_percentile_of_the_probes() -> None:
    """21 probes with means 0.50, 0.54, .. 1.30: the 95th percentile is the 20th, 1.26; 1.3 passes and 1.1 does not."""
    probes = {f"probe_{i}": (0.5 + 0.04 * i,) * 4 for i in range(21)}
    result = prune(explored(TABLE, probes), CONFIG)
    assert result.threshold == pytest.approx(1.26)
    assert result.selected == ("px_steady", "fut_late")
    assert result.probe_relative_weight == pytest.approx([0.5 + 0.04 * i for i in range(21)])
    assert result.probe_stability == tuple(float(0.5 + 0.04 * i >= 1.0) for i in range(21))
    equal = prune(explored(TABLE, {"probe_0": (1.5,) * 4}), CONFIG)
    assert "no column" in equal.warning, "px_steady only equals the probe, vix_spike is not stable"


def test_probes_below_the_threshold_change_nothing_and_missing_ones_are_left_out() -> None:
    low = {"probe_0": (0.2, 0.4, NAN, 0.6), "probe_1": (NAN,) * 4}
    result = prune(explored(TABLE, low), CONFIG)
    assert result.selected == prune(explored(TABLE), CONFIG).selected and result.threshold == 1.0
    assert result.probe_relative_weight == pytest.approx((0.4, NAN), nan_ok=True)


def test_if_nothing_passes_the_best_by_mean_are_kept_with_a_warning() -> None:
    """At most `max_features`, stability no matter, never one without any weight; the warning says it is no evidence."""
    result = prune(explored(TABLE), replace(CONFIG, weight_threshold=9.0, max_features=3))
    assert result.selected == ("vix_spike", "px_steady", "fut_late")
    assert "the best 3 by mean weight" in result.warning and "no evidence" in result.warning
    everything = prune(explored(TABLE), replace(CONFIG, weight_threshold=9.0))
    assert set(everything.selected) == set(TABLE) - {"ban_never"}


def test_columns_of_equal_mean_keep_the_order_of_the_table() -> None:
    names = [f"a_{i}" for i in (3, 1, 2, 0)]
    result = prune(explored(dict.fromkeys(names, (1.25, 1.25))), replace(CONFIG, max_features=2))
    assert [row.feature for row in result.ranked] == names and result.selected == ("a_3", "a_1")


@pytest.mark.parametrize("n_folds", [2, 5])
def test_fold_correlation_is_the_mean_over_pairs_of_folds_as_numpy_has_it(n_folds: int) -> None:
    """Over the columns that every fold has."""
    values = np.random.default_rng(n_folds).uniform(0.2, 2.0, (n_folds, 12)) + np.linspace(0, 1, 12)
    table = {f"a_{i}": tuple(values[:, i].tolist()) for i in range(12)}
    correlation = np.corrcoef(values)
    pairs = [correlation[i, j] for i in range(n_folds) for j in range(i)]
    table["a_late"] = (NAN, *(9.0,) * (n_folds - 1))
    assert prune(explored(table), CONFIG).fold_correlation == pytest.approx(sum(pairs) / len(pairs))


def test_a_single_fold_has_no_correlation() -> None:
    assert math.isnan(prune(explored({f"a_{i}": (float(i),) for i in range(5)}), CONFIG).fold_correlation)

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
CONFIG = PruningConfig(weight_threshold=1.0, false_discovery_rate=0.1, min_stability=0.5, max_features=80)

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


PROBES = {f"probe_{i}": (math.exp(-0.1 * i),) * 4 for i in range(9)}
"""Weights 1, e^-0.1, .. e^-0.8. Of the four heaviest the logarithms lie 0.4 to 0.1 above the fifth, and the heaviest
counts twice: scale = (0.1 + 0.2 + 0.3 + 0.4 + 0.4) / 4 = 0.35, shape = 1 / 4."""


def test_what_a_column_needs_is_worked_out_by_hand() -> None:
    """Ten columns at a rate of 0.1: with three passing, p needs to be at most 0.03.

    p = (1 + log(w) / 1.4)^-4 / 10: at e^1.4 it is 1/160, at e^0.7 it is 16/810 = 0.0198, at e^0.5 it is 0.0295, and at
    e^0.2 it is 0.0587, more than 0.04. A column that is not stable has a weight, but is no discovery.
    """
    weights = {"a_one": 1.4, "a_two": 0.7, "a_three": 0.5, "a_four": 0.2} | {f"b_{i}": -0.35 for i in range(5)}
    table = {name: (math.exp(weight),) * 4 for name, weight in weights.items()}
    table["c_spike"] = (11.5, 0.1, 0.1, 0.1)
    result = prune(explored(table, PROBES), CONFIG)
    assert result.selected == ("a_one", "a_two", "a_three") and result.n_passed == 3
    p_values = {name: row.p_value for name, row in rows(result).items()}
    assert p_values["a_one"] == pytest.approx(1 / 160) and p_values["a_two"] == pytest.approx(16 / 810)
    assert p_values["a_three"] == pytest.approx((1 + 0.5 / 1.4) ** -4 / 10)
    assert p_values["b_0"] == pytest.approx(5 / 10), "four probes are as heavy"
    assert p_values["c_spike"] == pytest.approx((1 + math.log(2.95) / 1.4) ** -4 / 10)
    # The weight at a p-value of 0.03.
    assert result.threshold == pytest.approx(math.exp(1.4 * ((0.3) ** -0.25 - 1)))
    assert result.false_discovery_rate == 0.1 and result.n_expected_false == pytest.approx(0.3)
    assert result.summary == "3 of 10 columns kept, at most 0.3 of them expected to be false"
    assert result.warning == ""
    assert result.probe_relative_weight == pytest.approx([math.exp(-0.1 * i) for i in range(9)])
    assert result.probe_stability == (1.0, *(0.0,) * 8)


def test_the_null_that_discovers_more_is_taken_and_can_be_had_again() -> None:
    """Three probes know nothing of the far tail; the other columns do, so that the two far out are discoveries."""
    rng = np.random.default_rng(6)
    weights = np.exp(np.concatenate([[1.5, 1.8], 0.1 * rng.standard_normal(120)]))
    table = {f"a_{i}": (float(weight),) * 4 for i, weight in enumerate(weights)}
    result = prune(explored(table, {f"probe_{i}": (1.0 + 0.1 * i,) * 4 for i in range(3)}), CONFIG)
    assert result.selected == ("a_1", "a_0") and result.n_censored == 2
    assert result.null is not None
    again = result.null.p_values([row.relative_weight for row in result.ranked])
    assert again.tolist() == pytest.approx([row.p_value for row in result.ranked])
    assert result.null.p_values([result.threshold])[0] == pytest.approx(0.1 * 2 / 122)


def test_of_more_columns_than_may_stay_the_best_do() -> None:
    """Of ten noise columns, 10 p are expected to be as heavy as the last one kept."""
    table = {f"a_{i}": (math.exp(1.4 - 0.1 * i),) * 4 for i in range(3)} | {f"b_{i}": (0.5,) * 4 for i in range(7)}
    result = prune(explored(table, PROBES), replace(CONFIG, max_features=2))
    assert result.selected == ("a_0", "a_1") and result.n_passed == 3
    assert result.n_expected_false == pytest.approx(10 * rows(result)["a_1"].p_value)


def test_a_rate_of_one_asks_nothing_of_the_probes() -> None:
    assert prune(explored(TABLE, PROBES), replace(CONFIG, false_discovery_rate=1.0)).selected == (
        prune(explored(TABLE), CONFIG).selected
    )


def test_without_probes_the_thresholds_alone_decide_and_that_is_said() -> None:
    for probes in ({}, {"probe_0": (NAN,) * 4}):
        result = prune(explored(TABLE, probes), CONFIG)
        assert result.n_expected_false is None and result.warning == ""
        assert all(math.isnan(row.p_value) for row in result.ranked)
        assert result.summary == "4 of 7 columns kept; how many of them are false is not known without probes"


def test_probes_that_are_missing_from_a_fold_or_from_all_are_left_out() -> None:
    """One probe is left: a rank of 1/2 at best, so that no column passes."""
    result = prune(explored(TABLE, {"probe_0": (0.2, 0.4, NAN, 0.6), "probe_1": (NAN,) * 4}), CONFIG)
    assert result.probe_relative_weight == pytest.approx((0.4, NAN), nan_ok=True)
    assert rows(result)["px_steady"].p_value == 0.5 and rows(result)["fut_low"].p_value == 0.5
    assert result.n_passed == 0 and result.threshold == math.inf
    assert "cannot be checked" in result.warning and "false discovery rate of 0.1" in result.warning
    assert result.n_expected_false == 6 and result.summary == "6 of 7 columns kept, expected false: all"


def test_a_heavier_probe_never_adds_a_column() -> None:
    """As heavy as the heaviest column or heavier, whatever the other probes are."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        relative = np.exp(0.3 * rng.standard_normal((3, 40)) + np.where(np.arange(40) < 8, 0.8, 0.0))
        table = {f"a_{i}": tuple(relative[:, i].tolist()) for i in range(40)}
        n_probes = int(rng.integers(1, 25))
        probes = {f"probe_{i}": tuple(np.exp(0.2 * rng.standard_normal(3)).tolist()) for i in range(n_probes)}
        heavier = {"probe_more": (float(relative.mean(axis=0).max() + rng.exponential()),) * 3}
        before = prune(explored(table, probes), CONFIG)
        after = prune(explored(table, probes | heavier), CONFIG)
        assert after.n_passed == 0 or set(after.selected) <= set(before.selected)


def test_if_nothing_passes_the_best_by_mean_are_kept_with_a_warning() -> None:
    """At most `max_features`, stability no matter, never one without any weight; the warning says it is no evidence."""
    result = prune(explored(TABLE), replace(CONFIG, weight_threshold=9.0, max_features=3))
    assert result.selected == ("vix_spike", "px_steady", "fut_late")
    assert "the best 3 by mean weight" in result.warning and "no evidence" in result.warning
    assert "expected false: all" in result.warning and result.summary == "3 of 7 columns kept, expected false: all"
    assert result.n_expected_false == 3 and result.n_passed == 0
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

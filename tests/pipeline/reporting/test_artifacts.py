"""What each phase leaves in its run: tables, metrics and figures, all from the phase's result alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import optuna
import pytest
from matplotlib.figure import Figure

from pipeline.phases.exploration import Explored
from pipeline.phases.prefilter import Dropped, Prefiltered
from pipeline.phases.pruning import prune
from pipeline.phases.tuning import Trial, Tuned
from pipeline.reporting import artifacts
from pipeline.tracking.kept import Kept
from pipeline.tracking.sink import Silent
from tests.pipeline.phases.test_pruning import CONFIG, NAN, PROBES, TABLE, explored
from tests.pipeline.reporting.test_figures import drawn
from tests.pipeline.reporting.test_page import fold_rows


class Recorder(Silent):
    """Stands for a run: remembers what it is given, and draws its figures."""

    def __init__(self) -> None:
        super().__init__(Kept())
        self.tables: dict[str, Mapping[str, Sequence[Any]]] = {}
        self.values: dict[str, float | None] = {}
        self.steps: dict[str, Mapping[int, float | None]] = {}
        self.given: dict[str, Any] = {}
        self.figures: dict[str, str] = {}
        self.children: dict[str, Recorder] = {}

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        self.values |= values

    def metric_steps(self, values: Mapping[str, Mapping[int, float | None]]) -> None:
        self.steps |= values

    def params(self, values: Mapping[str, Any]) -> None:
        self.given |= values

    def tags(self, values: Mapping[str, str]) -> None:
        self.given |= values

    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        assert len({len(column) for column in columns.values()}) == 1, "columns of one length"
        self.tables[name] = columns

    def figure(self, name: str, figure: Figure | Callable[[], Figure]) -> None:
        self.figures[name] = drawn(figure() if callable(figure) else figure)

    @contextmanager
    def child(self, name: str) -> Iterator[Recorder]:
        self.children[name] = Recorder()
        yield self.children[name]


def test_every_dropped_column_stands_with_its_reason() -> None:
    run = Recorder()
    artifacts.prefilter(run, Prefiltered(3, ("px_a", "vix_b"), (Dropped("px_c", "constant"),)))
    assert run.tables["dropped.json"] == {"feature": ["px_c"], "reason": ["constant"]}
    assert run.tables["kept.json"] == {"feature": ["px_a", "vix_b"], "group": ["px", "vix"]}
    assert run.values == {"n_features_initial": 3, "n_features_prefiltered": 2}


def test_the_fold_table_and_its_sharpes() -> None:
    """A metric a fold, the fold as step; the mean gap over the folds that have one; further columns are both."""
    plain = fold_rows(3)
    rows = [
        replace(row, fold=fold, oos_sharpe=sharpe, val_oos_gap=gap)
        for row, (fold, sharpe, gap) in zip(plain, ((4, 0.5, 1.0), (5, None, None), (6, -0.25, 2.0)), strict=True)
    ]
    run = Recorder()
    artifacts.folds(run, rows, {"of_noise": [1.0, None, 3.0]})
    assert run.steps["fold_oos_sharpe"] == {4: 0.5, 5: None, 6: -0.25}
    assert run.steps["fold_of_noise"] == {4: 1.0, 5: None, 6: 3.0}
    assert run.values["val_oos_gap_mean"] == 1.5
    assert run.tables["folds.json"]["oos_sharpe"] == [0.5, None, -0.25]
    assert run.tables["folds.json"]["of_noise"] == [1.0, None, 3.0]
    artifacts.folds(run, [])
    assert run.values["val_oos_gap_mean"] is None


def explored_with_curves(probes: dict[str, tuple[float, ...]]) -> Explored:
    return replace(
        explored(TABLE, probes),
        folds=tuple(fold_rows(4)),
        oos_sharpe=1.25,
        train_loss=((1.0, 0.5),) * 4,
        validation_score=((0.1, 0.2),) * 4,
    )


def test_exploration_shows_weights_by_fold_and_what_the_probes_got() -> None:
    """Best mean over the folds that have the column first; a column without any comes last; figures are drawn."""
    run = Recorder()
    artifacts.exploration(run, explored_with_curves({"probe_0": (0.5, 0.7, NAN, 0.9)}))
    weights = run.tables["vsn_weights_by_fold.json"]
    assert weights["feature"] == ["vix_spike", "px_steady", "fut_late", "vix_half", "px_edge", "fut_low", "ban_never"]
    assert weights["relative_weight"] == pytest.approx([1.9, 1.5, 1.3, 1.1, 1.0, 0.99, NAN], nan_ok=True)
    assert weights["fold_4"] == pytest.approx([TABLE[name][1] / 100 for name in weights["feature"]], nan_ok=True)
    assert run.tables["probes.json"] == {"probe": ["probe_0"], "relative_weight": [pytest.approx(0.7)]}
    assert (run.values["oos_sharpe_development"], run.values["n_features_prefiltered"]) == (1.25, 7)
    assert run.figures.keys() == {"training_curves.png", "validation_vs_oos.png"}
    without = Recorder()
    artifacts.exploration(without, explored_with_curves({}))
    assert "probes.json" not in without.tables


def test_the_logged_tables_hold_the_ranking_and_the_groups() -> None:
    """vsn_weights.json best first, a column a fold by its index; feature_groups.json counts and sums by group."""
    run = Recorder()
    artifacts.vsn_tables(run, prune(explored(TABLE), CONFIG))
    weights, groups = run.tables["vsn_weights.json"], run.tables["feature_groups.json"]
    assert list(weights) == [
        *("rank", "feature", "group", "mean_weight", "relative_weight", "stability", "selected"),
        *("fold_3", "fold_4", "fold_5", "fold_6"),
    ]
    assert weights["fold_4"] == pytest.approx([TABLE[name][1] / 100 for name in weights["feature"]], nan_ok=True)
    by_group = dict(zip(groups["group"], zip(groups["n_features"], groups["n_selected"], strict=True), strict=True))
    assert by_group == {"px": (2, 2), "vix": (2, 1), "fut": (2, 1), "ban": (1, 0)}
    assert groups["n_selected"] == sorted(groups["n_selected"], reverse=True)
    assert dict(zip(groups["group"], groups["weight"], strict=True))["vix"] == pytest.approx((1.9 + 1.1) / 100)
    assert run.values == {"n_selected_px": 2, "n_selected_vix": 1, "n_selected_fut": 1, "n_selected_ban": 0}


def test_a_column_without_any_weight_does_not_hide_its_group() -> None:
    """Missing weights are left out of a group's sum."""
    run = Recorder()
    table = {"px_a": (1.5, 1.5), "px_gone": (NAN, NAN), "vix_a": (1.2, 1.2)}
    artifacts.vsn_tables(run, prune(explored(table), CONFIG))
    assert run.tables["feature_groups.json"]["group"] == ["px", "vix"]
    assert run.tables["feature_groups.json"]["weight"] == pytest.approx([0.015, 0.012])


def test_what_pruning_kept_is_drawn_and_its_warning_is_a_tag() -> None:
    run = Recorder()
    artifacts.pruning(run, prune(explored(TABLE), CONFIG))
    assert run.figures.keys() == {"vsn_heatmap.png", "stability_against_weight.png"}
    assert (run.values["n_features_selected"], run.values["vsn_threshold"]) == (4, 1.0)
    assert run.values["n_features_expected_false"] is None and "vsn_p_values.json" not in run.tables
    assert "warning" not in run.given
    warned = Recorder()
    artifacts.pruning(warned, prune(explored(TABLE), replace(CONFIG, weight_threshold=9.0)))
    assert "no evidence" in warned.given["warning"]
    assert warned.values["n_features_expected_false"] == warned.values["n_features_selected"]


def test_with_probes_the_p_values_are_a_table_and_the_null_is_drawn() -> None:
    run, result = Recorder(), prune(explored(TABLE, PROBES), replace(CONFIG, false_discovery_rate=0.5))
    artifacts.pruning(run, result)
    assert run.values["n_features_expected_false"] == pytest.approx(0.5 * 4) and len(result.selected) == 4
    table = run.tables["vsn_p_values.json"]
    assert list(table) == ["rank", "feature", "relative_weight", "p_value", "selected"]
    assert table["p_value"] == pytest.approx([row.p_value for row in result.ranked], nan_ok=True)
    assert "probes (9)" in run.figures["probe_null.png"]


def test_trials_are_a_table_and_the_best_one_is_marked() -> None:
    """Parameters that a trial did not try are missing."""
    trials = (
        Trial(0, "COMPLETE", 0.5, 2, {"lr": 0.1}, 3.0, (0.1,)),
        Trial(1, "FAIL", None, 0, {}, 1.0, ()),
        Trial(2, "COMPLETE", 0.75, 2, {"lr": 0.2, "dropout": 0.3}, 2.0, (0.2,)),
    )
    run = Recorder()
    artifacts.tuning(run, Tuned({"lr": 0.2, "dropout": 0.3}, 2, trials, ("2024-01-01",), "the study"))
    table = run.tables["trials.json"]
    assert (table["trial"], table["best"]) == ([0, 1, 2], [False, False, True])
    assert (table["lr"], table["dropout"]) == ([0.1, None, 0.2], [None, None, 0.3])
    assert run.steps["trial_oos_sharpe"] == {0: 0.5, 1: None, 2: 0.75}
    assert (run.values["oos_sharpe_development"], run.values["n_trials"]) == (0.75, 3)
    assert run.given == {"best.lr": 0.2, "best.dropout": 0.3, "study": "the study"}


def test_a_trial_is_a_run_of_its_own() -> None:
    run = Recorder()
    trial = optuna.trial.create_trial(
        params={"lr": 0.1},
        distributions={"lr": optuna.distributions.FloatDistribution(0.0, 1.0)},
        intermediate_values={0: 0.25, 1: 0.5},
        value=0.5,
    )
    artifacts.trial(run, trial)
    ((name, child),) = run.children.items()
    assert name == "trial -1 · Sharpe 0.50", "optuna numbers it when it joins a study"
    assert child.given == {"phase": "trial", "trial_state": "COMPLETE", "lr": 0.1}
    assert child.steps == {"oos_sharpe_so_far": {0: 0.25, 1: 0.5}}
    assert child.values == {"oos_sharpe_development": 0.5}

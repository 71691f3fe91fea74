"""What each figure must show. Nothing is compared pixel by pixel; a comment above an assertion states the rule."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
import optuna
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.reporting import figures as plots
from tests.pipeline.reporting.test_page import fold_rows, ranked_rows, small_record


def drawn(figure: Figure) -> str:
    """All visible text of a figure once drawn; drawing must raise no warning, and pyplot must not know the figure."""
    figure.savefig(io.BytesIO(), format="png", dpi=50)
    assert plt.get_fignums() == []
    return "\n".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_visible())


def curves(lengths: Sequence[int]) -> list[list[float]]:
    return [np.linspace(1.0, 0.5, length).tolist() for length in lengths]


@pytest.mark.parametrize("lengths", [[1], [3, 7], [5, 9, 2], range(2, 62)])
def test_training_curves_draw_every_fold_over_its_own_epochs(lengths: Sequence[int]) -> None:
    folds = range(10, 10 + len(lengths))
    figure = plots.training_curves(folds, curves(lengths), curves(lengths))
    for axes in figure.axes:
        lines = {str(line.get_label()): line for line in axes.lines}
        # One line a fold, as long as the fold's training; epochs count from 1.
        assert [len(np.asarray(lines[f"fold {fold}"].get_xdata())) for fold in folds] == list(lengths)
        assert {np.asarray(line.get_xdata())[0] for line in axes.lines} == {1}
    # However many folds, the legend stays short and has the first and the last.
    text = drawn(figure)
    assert len(re.findall(r"fold \d+", text)) <= 12
    assert f"fold {folds[0]}" in text
    assert f"fold {folds[-1]}" in text


def test_the_median_curve_ends_where_half_of_the_folds_have_ended() -> None:
    epochs, median = plots._median_curve([[1.0, 1.0], [2.0, 4.0, 9.0], [3.0, 5.0, 9.0, 9.0]])
    np.testing.assert_array_equal(epochs, [1, 2, 3])
    np.testing.assert_array_equal(median, [2.0, 4.0, 9.0])


def test_validation_against_oos_names_each_fold_by_the_date_its_test_ends() -> None:
    rows = fold_rows(5)
    text = drawn(plots.validation_against_oos(rows))
    for row in rows:
        assert row.test_end is not None
        assert f"{row.fold}: {row.test_end[:10]}" in text
    # The mean difference is that of the rows.
    assert f"{np.mean([row.val_oos_gap for row in rows if row.val_oos_gap is not None]):+.2f}" in text
    assert "n/a" not in text


def test_a_missing_sharpe_is_shown_as_missing() -> None:
    rows = fold_rows(4)
    rows[1] = replace(rows[1], oos_sharpe=None, val_oos_gap=None)
    rows[3] = replace(rows[3], val_sharpe=None, val_sharpe_best_epoch=None, val_oos_gap=None, test_end=None)
    text = drawn(plots.validation_against_oos(rows))
    assert text.count("n/a") == 2
    assert "3: no test" in text


@pytest.mark.parametrize("n_folds", [1, 60])
def test_validation_against_oos_thins_its_labels(n_folds: int) -> None:
    text = drawn(plots.validation_against_oos(fold_rows(n_folds)))
    assert 1 <= len(re.findall(r"\d+: \d{4}-", text)) <= 32


@pytest.mark.parametrize(("n_columns", "n_folds"), [(3, 1), (276, 11)])
def test_the_heat_map_shows_the_best_forty_columns_with_weight_and_group(n_columns: int, n_folds: int) -> None:
    ranked = ranked_rows(n_columns, n_folds)
    figure = plots.vsn_heatmap(ranked, range(n_folds))
    (image,) = figure.axes[0].images
    assert np.ma.shape(image.get_array()) == (min(n_columns, 40), n_folds)
    text = drawn(figure)
    for row in ranked[:40]:
        assert row.feature in text
        assert re.search(rf"{row.relative_weight:.2f}×  {row.group}\b", text)


def test_a_weight_missing_from_a_fold_is_masked() -> None:
    ranked = ranked_rows(3, 4)
    ranked[1] = replace(ranked[1], weights=(0.1, float("nan"), 0.1, 0.1))
    figure = plots.vsn_heatmap(ranked, range(4))
    (image,) = figure.axes[0].images
    assert np.argwhere(np.ma.getmaskarray(image.get_array())).tolist() == [[1, 1]]
    drawn(figure)


def test_stability_shows_columns_probes_and_what_was_needed() -> None:
    ranked = ranked_rows(30, 6)
    figure = plots.stability_against_weight(ranked, [0.9, 1.1], [0.5, 0.25], 1.25)
    text = drawn(figure)
    n_selected = sum(row.selected for row in ranked)
    assert f"column, selected ({n_selected})" in text
    assert f"column, not selected ({30 - n_selected})" in text
    assert "(2)" in text
    assert "needed: 1.25×" in text
    # The twelve best are named, and no two names overlap.
    named = [a for a in figure.axes[0].texts if a.get_text() in {row.feature for row in ranked}]
    assert {a.get_text() for a in named} == {row.feature for row in ranked[:12]}
    boxes = [Text.get_window_extent(a) for a in named]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_stability_without_probes_and_with_a_column_of_no_weight() -> None:
    ranked = ranked_rows(4, 2)
    ranked[3] = replace(ranked[3], relative_weight=float("nan"), stability=float("nan"))
    text = drawn(plots.stability_against_weight(ranked, [], [], 1.0))
    assert "probe" not in text
    assert ranked[2].feature in text
    assert ranked[3].feature not in text


def test_a_few_dominant_columns_are_drawn_on_a_ratio_scale() -> None:
    ranked = [replace(row, relative_weight=40.0 if row.rank == 1 else 1.0) for row in ranked_rows(9, 2)]
    figure = plots.stability_against_weight(ranked, [], [], 1.0)
    assert figure.axes[0].get_xscale() == "log"
    drawn(figure)


def test_a_dollar_sign_in_a_name_is_no_formula() -> None:
    ranked = [replace(row, feature=rf"px_$\frac{{{row.rank}$", group="p$x$") for row in ranked_rows(3, 2)]
    for figure in (plots.vsn_heatmap(ranked, range(2)), plots.stability_against_weight(ranked, [], [], 1.0)):
        drawn(figure)  # which raises where a name is read as a formula that is none
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert any("frac" in text for text in texts)


def test_equity_compounds_from_flat_and_leaves_out_the_bars_without_a_return() -> None:
    record = small_record(60)
    above, below = plots.equity(record).axes
    lines = {line.get_label(): np.asarray(line.get_ydata(), dtype=float) for line in above.lines}
    net = record.net()
    assert np.isnan(net[-2:]).all()
    # The curve is the compounded return of the bars whose return is known.
    np.testing.assert_allclose(lines["net of costs"], np.cumprod(1.0 + net[:-2]) - 1.0)
    np.testing.assert_allclose(lines["before costs"], np.cumprod(1.0 + record.gross()[:-2]) - 1.0)
    assert below.get_xlim() == above.get_xlim()


def test_equity_marks_fold_borders_and_segments_with_their_sharpe() -> None:
    record = small_record(60)
    figure = plots.equity(record)
    verticals = [line for line in figure.axes[1].lines if len(set(np.asarray(line.get_xdata()).tolist())) == 1]
    assert len(verticals) == len(set(record.fold[record.fold >= 0].tolist()))
    text = drawn(figure)
    for segment in ("development", "holdout"):
        performance = record.performance(segment)
        assert performance is not None
        assert f"{segment} (net Sharpe {performance.sharpe:.2f})" in text
    assert "between" in text


def test_equity_without_a_known_return_says_so() -> None:
    record = small_record(60)
    earned = replace(record.earned, net=np.full_like(record.earned.net, np.nan))
    assert "no bar with a known return" in drawn(plots.equity(replace(record, earned=earned)))


@pytest.mark.parametrize(
    ("time", "label"),
    [
        ("2024-03-01T00:00:00.000000", "2024-03-01"),
        ("2024-03-01T09:15:00.000000", "2024-03-01 09:15"),
        (None, "no test"),
    ],
)
def test_a_bar_is_written_without_what_says_nothing(time: str | None, label: str) -> None:
    assert plots.bar_label(time) == label


@dataclass
class Plan:
    """How the trials of a study end."""

    n_trials: int
    constant: bool = False
    fail: bool = False


def study_of(plan: Plan) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=3))

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        trial.suggest_categorical("loss_mode", ["joint_mle", "sharpe"])
        trial.suggest_int("n_heads", 4, 4)
        if plan.fail:
            raise ValueError
        for fold in range(2):
            trial.report(lr, fold)
        if trial.number == 3:
            raise optuna.TrialPruned
        return 1.0 if plan.constant else float(np.log10(lr))

    study.optimize(objective, n_trials=plan.n_trials, catch=(ValueError,))
    return study


ONE = {"optimization_history", "intermediate_values"}


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (Plan(0), set()),
        (Plan(2, fail=True), set()),
        (Plan(1), ONE),
        (Plan(4, constant=True), ONE | {"slice_1"}),
        (Plan(8), ONE | {"slice_1", "param_importances"}),
    ],
)
def test_optuna_draws_what_the_study_holds_and_leaves_nothing_behind(plan: Plan, expected: set[str]) -> None:
    study = study_of(plan)
    settings = dict(matplotlib.rcParams)
    figures = plots.optuna_figures(study)
    assert set(figures) == expected
    assert dict(matplotlib.rcParams) == settings
    for figure in figures.values():
        drawn(figure)

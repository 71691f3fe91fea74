"""What each figure must show. Nothing is compared pixel by pixel; a comment above an assertion states the rule."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from pipeline.reporting import figures
from tests.pipeline.reporting.test_page import fold_rows, small_record


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
    figure = figures.training_curves(folds, curves(lengths), curves(lengths))
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


def test_a_fold_that_stops_does_not_move_the_median() -> None:
    """It keeps its last value, up to the end of the longest training."""
    np.testing.assert_array_equal(
        figures._median_curve([[1.0, 1.0], [2.0, 4.0, 9.0], [3.0, 5.0, 9.0, 9.0]]), [2.0, 4.0, 9.0, 9.0]
    )
    flat = [[5.0] * 2, [3.0] * 4, [1.0] * 9]
    np.testing.assert_array_equal(figures._median_curve(flat), [3.0] * 9)


def test_validation_against_oos_names_each_fold_by_the_date_its_test_ends() -> None:
    rows = fold_rows(5)
    text = drawn(figures.validation_against_oos(rows))
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
    text = drawn(figures.validation_against_oos(rows))
    assert text.count("n/a") == 2
    assert "3: no test" in text


def shaded(segments: Sequence[str]) -> list[tuple[float, float]]:
    """Where the upper panel of folds of these segments is shaded, by fold."""
    rows = [replace(row, segment=each) for row, each in zip(fold_rows(len(segments)), segments, strict=True)]
    figure = figures.validation_against_oos(rows)
    assert drawn(figure).split("\n").count("holdout") == (len(set(segments)) > 1)
    spans = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    return [(span.get_x(), span.get_x() + span.get_width()) for span in spans]


def test_only_the_folds_of_the_holdout_are_shaded_whole() -> None:
    """A fold across the border, which has bars of development too, is shaded by half."""
    assert shaded(["development", "development/between/holdout", "holdout"]) == [(1.0, 1.5), (1.5, 2.5)]
    assert shaded(["development/between", "between/holdout"]) == [(0.5, 1.5)]
    # Where all folds are clean there is nothing to tell apart.
    assert shaded(["holdout", "holdout"]) == []


@pytest.mark.parametrize("n_folds", [1, 60])
def test_validation_against_oos_thins_its_labels(n_folds: int) -> None:
    text = drawn(figures.validation_against_oos(fold_rows(n_folds)))
    assert 1 <= len(re.findall(r"\d+: \d{4}-", text)) <= 32


def test_equity_compounds_from_flat_and_leaves_out_the_bars_without_a_return() -> None:
    record = small_record(60)
    above, below = figures.equity(record, volatility_target=0.15).axes
    lines = {line.get_label(): np.asarray(line.get_ydata(), dtype=float) for line in above.lines}
    net = record.net()
    assert np.isnan(net[-2:]).all()
    # The curve is the compounded return of the bars with a known return, at a volatility of 15 %.
    realised = net[:-2].std(ddof=1) * np.sqrt(252.0)
    np.testing.assert_allclose(lines["net of costs"], np.cumprod(1.0 + net[:-2] * 0.15 / realised) - 1.0)
    np.testing.assert_allclose(lines["before costs"], np.cumprod(1.0 + record.gross()[:-2] * 0.15 / realised) - 1.0)
    assert above.get_ylabel() == f"cumulative return\n(at 15% volatility; realised {realised:.1%})"
    assert below.get_xlim() == above.get_xlim()


def test_equity_marks_fold_borders_and_segments_with_their_sharpe() -> None:
    record = small_record(60)
    figure = figures.equity(record, volatility_target=0.15)
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
    assert "no bar with a known return" in drawn(figures.equity(replace(record, earned=earned), volatility_target=0.15))

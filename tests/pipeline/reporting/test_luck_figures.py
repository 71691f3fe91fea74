"""What each figure must show. A comment above an assertion states the rule."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.reporting import luck_figures
from pipeline.statistics.paired import annualised
from pipeline.statistics.significance import SharpeDifference, sharpe_difference
from tests.pipeline.reporting.test_figures import drawn

TIMES = np.datetime64("2024-01-01", "us") + np.arange(120) * np.timedelta64(1, "D")
BASELINE, CANDIDATE = 0.01 * np.random.default_rng(0).standard_normal((2, 120))


def figure(annual: SharpeDifference | None) -> luck_figures.Figure:
    names = ("baseline: a", "candidate: b")
    return luck_figures.comparison(TIMES, BASELINE, CANDIDATE, names=names, annual=annual, periods_per_year=252)


def test_a_comparison_shows_curves_difference_and_interval() -> None:
    annual = annualised(sharpe_difference(CANDIDATE, BASELINE, n_bootstrap=199), 252)
    shown = figure(annual)
    text = drawn(shown)
    curves, sums, interval = shown.axes
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in curves.lines}
    np.testing.assert_allclose(lines["candidate: b"][-1], math.prod(1.0 + r for r in CANDIDATE) - 1.0)
    np.testing.assert_allclose(lines["baseline: a"][0], BASELINE[0])
    # Each bar's share adds up to the annual Sharpe difference.
    np.testing.assert_allclose(np.asarray(sums.lines[0].get_ydata())[-1], annual.difference)
    # The interval, zero, and what could be detected on both sides of it.
    assert any(np.allclose(line.get_xdata(), annual.interval) for line in interval.lines)
    assert any(np.allclose(line.get_xdata(), 0.0) for line in interval.lines)
    (band,) = interval.patches
    assert band.get_extents().width > 0
    x = band.get_xy()  # type: ignore[attr-defined]
    assert np.min(np.asarray(x)[..., 0]) == pytest.approx(-annual.detectable)
    assert f"p = {annual.p_value:.2f}" in text and f"within ±{annual.detectable:.2f}" in text


def test_without_inference_only_the_point_is_shown() -> None:
    shown = figure(None)
    text = drawn(shown)
    assert "no interval can be given" in text and "p = " not in text
    assert not shown.axes[2].patches


def test_a_run_that_never_traded_is_drawn() -> None:
    still = np.zeros(120)
    shown = luck_figures.comparison(TIMES, still, CANDIDATE, names=("a", "b"), annual=None, periods_per_year=252)
    expected = CANDIDATE.mean() / CANDIDATE.std(ddof=1) * math.sqrt(252)
    np.testing.assert_allclose(np.asarray(shown.axes[1].lines[0].get_ydata())[-1], expected)

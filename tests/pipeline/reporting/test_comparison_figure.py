"""What the figure of a comparison must show. A comment above an assertion states the rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.reporting.comparison_figure import comparison
from pipeline.statistics.paired import Arms, Earned
from pipeline.statistics.seed_comparison import seed_difference
from tests.pipeline.reporting.test_figures import drawn
from tft.metrics import Performance

TIMES = tuple(str(np.datetime64("2024-01-01", "us") + day * np.timedelta64(1, "D")) for day in range(120))
RETURNS = 0.01 * np.random.default_rng(0).standard_normal((2, 6, 120))
FIGURES = Performance(120, *[0.0] * 7)


def arms_of(baseline: NDArray[np.float64], candidate: NDArray[np.float64]) -> Arms:
    both = [tuple(Earned(TIMES, tuple(one), (0,) * 120, FIGURES) for one in own) for own in (baseline, candidate)]
    return Arms("holdout", both[0], both[1], 252.0)


def test_a_comparison_shows_curves_difference_seeds_and_interval() -> None:
    arms = arms_of(RETURNS[0], RETURNS[1])
    found = seed_difference(*arms.net(), periods_per_year=252.0)
    shown = comparison(arms, found, "purge gap 5 minus 0")
    text = drawn(shown)
    curves, sums, seeds, interval = shown.axes
    # The mean of each arm, and each training thin beside it.
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in curves.lines}
    mean = RETURNS[1].mean(axis=0)
    np.testing.assert_allclose(lines["candidate, mean of 6"][-1], math.prod(1.0 + r for r in mean) - 1.0)
    ends = sorted(math.prod(1.0 + r for r in one) - 1.0 for one in RETURNS[0])
    thin = sorted(float(np.asarray(line.get_ydata())[-1]) for line in curves.lines if line.get_alpha())
    assert len(thin) == 12 and all(any(np.isclose(end, one) for one in thin) for end in ends)
    # Each bar's share adds up to the annual Sharpe difference of the means.
    np.testing.assert_allclose(np.asarray(sums.lines[0].get_ydata())[-1], found.difference)
    # A dot for each seed's Sharpe.
    for line, own in zip(seeds.lines, found.sharpes, strict=True):
        np.testing.assert_allclose(line.get_xdata(), own)
    # The interval, zero, and what could be detected on both sides of it.
    assert found.interval and found.detectable and found.p_value
    assert any(np.allclose(line.get_xdata(), found.interval) for line in interval.lines)
    assert any(np.allclose(line.get_xdata(), 0.0) for line in interval.lines)
    (band,) = interval.patches
    assert np.min(np.asarray(band.get_xy())[..., 0]) == pytest.approx(-found.detectable)  # type: ignore[attr-defined]
    assert f"p = {found.p_value:.2f}" in text and f"within ±{found.detectable:.2f}" in text
    assert "purge gap 5 minus 0" in text


def test_without_inference_only_the_point_is_shown_and_why() -> None:
    arms = arms_of(RETURNS[0, :2], RETURNS[1, :2])
    shown = comparison(arms, seed_difference(*arms.net(), periods_per_year=252.0), "a")
    text = drawn(shown)
    assert "no interval: a p-value needs 5 seeds an arm" in text and "p = " not in text
    assert not shown.axes[3].patches


def test_a_training_that_never_traded_is_drawn() -> None:
    arms = arms_of(np.zeros((1, 120)), RETURNS[1, :1])
    shown = comparison(arms, seed_difference(*arms.net(), periods_per_year=252.0), "a")
    one = RETURNS[1, 0]
    expected = one.mean() / one.std(ddof=1) * math.sqrt(252)
    np.testing.assert_allclose(np.asarray(shown.axes[1].lines[0].get_ydata())[-1], expected)

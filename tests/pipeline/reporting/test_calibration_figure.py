"""What the figure of the forecast distributions must show. A comment above an assertion states the rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from pipeline.reporting.calibration_figure import calibration
from tests.pipeline.reporting.test_figures import drawn
from tests.pipeline.statistics.test_calibration import gaussian, judged, quantiles, simulated


@pytest.mark.parametrize(("family", "n_bins"), [(gaussian, 20), (quantiles, 8)])
def test_it_shows_the_histogram_with_its_band_and_the_curve_with_its_errors(family: Any, n_bins: int) -> None:
    y, mu = simulated(0.3)
    one = judged(y, family(mu, 1.0))
    figure = calibration(one)
    text = drawn(figure)
    above, below = figure.axes
    bars = [patch for patch in above.patches if isinstance(patch, Rectangle)]
    # One bar a bin, as high as its density, so that together they have the area 1.
    assert len(bars) == n_bins
    assert sum(bar.get_width() * bar.get_height() for bar in bars) == pytest.approx(1.0)
    # The band is there, on both sides of a flat line at 1.
    assert "calibrated, 95 %" in text and "holdout" in text
    (points,) = [container[0] for container in below.containers]
    # A point for each bin of probability_up, and the diagonal it should lie on.
    np.testing.assert_allclose(points.get_xdata(), [each.forecast for each in one.reliability])
    np.testing.assert_allclose(points.get_ydata(), [each.frequency.value for each in one.reliability])
    diagonal = below.lines[0]
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())


def test_too_few_bars_for_an_error_are_drawn_without_one() -> None:
    y, mu = simulated(0.3, n_bars=640)
    one = judged(y, gaussian(mu, 1.0), n_development=0)
    assert "calibrated, 95 %" not in drawn(calibration(one))

"""Sharpe by cost and by delay, drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.reporting.frictions_figure import frictions
from pipeline.statistics.comparable import MODEL
from pipeline.statistics.frictions import COSTS_BPS, DELAYS_BARS
from tests.pipeline.reporting.test_figures import drawn
from tests.pipeline.statistics.test_comparable import ROWS


def test_every_record_is_a_line_through_its_sharpes_and_the_assumed_cost_and_delay_are_marked() -> None:
    figure = frictions(ROWS, cost_bps=5.0, delay_bars=1)
    above, below = figure.axes
    for axes, values, name in ((above, COSTS_BPS, "sharpe_by_cost"), (below, DELAYS_BARS, "sharpe_by_delay")):
        lines = {str(line.get_label()): line for line in axes.lines}
        for row in ROWS:
            np.testing.assert_array_equal(np.asarray(lines[row.name].get_xdata()), values)
            np.testing.assert_array_equal(np.asarray(lines[row.name].get_ydata()), getattr(row, name))
    marked = [float(np.asarray(axes.lines[-1].get_xdata())[0]) for axes in (above, below)]
    assert marked == [5.0, 1.0]
    text = drawn(figure)
    assert MODEL in text and "a half" in text and "as configured" in text


def test_a_record_without_sharpes_has_no_line() -> None:
    never = replace(ROWS[1], sharpe_by_cost=(None,) * len(COSTS_BPS), sharpe_by_delay=(None,) * len(DELAYS_BARS))
    assert "a half" not in drawn(frictions((ROWS[0], never), cost_bps=5.0, delay_bars=1))

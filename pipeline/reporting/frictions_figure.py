"""The figure of what costs and delays leave of the model and of simple rules. Nothing is read or written here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.reporting.figures import BLUE, GREY, empty_figure
from pipeline.reporting.luck_figures import STYLES
from pipeline.statistics.comparable import MODEL, Comparable
from pipeline.statistics.frictions import COSTS_BPS, DELAYS_BARS


def frictions(rows: Sequence[Comparable], *, cost_bps: float, delay_bars: int) -> Figure:
    """The net Sharpe of each record by cost, and below by delay; a dotted line marks what the run assumes."""
    figure, (above, below) = empty_figure(7.5, (1, 1), sharex=False)
    _curves(above, rows, COSTS_BPS, [row.sharpe_by_cost for row in rows])
    _curves(below, rows, DELAYS_BARS, [row.sharpe_by_delay for row in rows])
    above.set_xlabel("cost of a position change of 1 (basis points)")
    below.set_xlabel("delay of execution (bars)")
    above.set_xticks(range(0, COSTS_BPS[-1] + 1, 5))
    below.set_xticks(DELAYS_BARS)
    for axes, assumed in ((above, cost_bps), (below, float(delay_bars))):
        axes.axhline(0.0, color="black", lw=0.8)
        axes.axvline(assumed, color=GREY, lw=1.2, ls=":", label="as configured")
        axes.set_ylabel("Sharpe (annual, net)")
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _curves(
    axes: Axes, rows: Sequence[Comparable], values: Sequence[float], sharpes: Sequence[Sequence[float | None]]
) -> None:
    simple = [row.name for row in rows if row.name != MODEL]
    for row, curve in zip(rows, sharpes, strict=True):
        known = np.array([np.nan if each is None else each for each in curve], dtype=np.float64)
        if row.name == MODEL:
            axes.plot(values, known, "o-", color=BLUE, lw=2.2, ms=4, label=MODEL, zorder=3)
        elif np.isfinite(known).any():
            colour, line = STYLES[simple.index(row.name) % len(STYLES)]
            axes.plot(values, known, line, marker=".", color=colour, lw=1.3, label=row.name)

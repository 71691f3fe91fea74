"""Figures of what luck alone would give. Conventions are those of plots.py: results go in, nothing is read or written.

Shapes: n bars.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from pipeline.paired import as_p
from pipeline.plots import BLUE, DPI, GREY, VERMILION, WIDTH_IN
from pipeline.significance import SharpeDifference


def comparison(
    times: NDArray[np.datetime64],
    baseline: NDArray[np.float64],
    candidate: NDArray[np.float64],
    *,
    names: tuple[str, str],
    annual: SharpeDifference | None,
    periods_per_year: float,
) -> Figure:
    """Net portfolio returns (n,) of two runs on the same bars: both compounded curves; the annual Sharpe difference
    as the bars add it up; its interval against zero and against what the sample could have detected.

    `names`: of the baseline and the candidate. `annual` None: too few bars for an interval.
    """
    figure = Figure(figsize=(WIDTH_IN, 7.5), dpi=DPI, layout="constrained")
    curves, sums, interval = figure.subplots(3, 1, height_ratios=[3, 2, 1.1])
    for axes in (curves, sums, interval):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E4E4E4", lw=0.7)
        axes.set_axisbelow(True)
    time = np.asarray(dates.date2num(times))  # type: ignore[no-untyped-call]
    for returns, name, colour in ((baseline, names[0], GREY), (candidate, names[1], BLUE)):
        curves.plot(time, np.cumprod(1.0 + returns) - 1.0, color=colour, lw=1.6, label=name)
    curves.set_ylabel("cumulative return, net")
    curves.yaxis.set_major_formatter(PercentFormatter(1.0))
    # At equal volatility, each bar's share in the annual Sharpe difference: the last point is that difference.
    share = (_per_deviation(candidate) - _per_deviation(baseline)) * math.sqrt(periods_per_year) / len(times)
    sums.plot(time, np.cumsum(share), color=VERMILION, lw=1.4)
    sums.set_ylabel("Sharpe difference,\nadded up bar by bar")
    sums.set_xlabel("bar of decision")
    for axes in (curves, sums):
        axes.axhline(0.0, color="black", lw=0.8)
        axes.margins(x=0.0)
        locator = dates.AutoDateLocator()  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    _interval(interval, float(share.sum()), annual)
    figure.legend(*curves.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def _per_deviation(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns in units of their standard deviation; 0 for a series that never moves."""
    deviation = returns.std(ddof=1)
    return returns / deviation if deviation > 0.0 else np.zeros_like(returns)


def _interval(axes: Axes, difference: float, annual: SharpeDifference | None) -> None:
    axes.axvline(0.0, color="black", lw=0.8)
    axes.set_yticks([])
    axes.set_ylim(-1.0, 1.0)
    axes.set_xlabel("annual Sharpe, candidate minus baseline")
    if annual is None:
        axes.plot(difference, 0.0, "o", color=VERMILION, ms=7)
        axes.set_title("no interval can be given", loc="left", fontsize=9)
        return
    low, high = annual.interval
    axes.axvspan(
        -annual.detectable,
        annual.detectable,
        color="#EFEFEF",
        lw=0,
        zorder=0,
        label=f"a true difference within ±{annual.detectable:.2f} is missed in more than 1 of 5 samples",
    )
    label = f"{annual.difference:+.2f}, 95 % {low:.2f} to {high:.2f}, p = {as_p(annual.p_value)}"
    axes.plot([low, high], [0.0, 0.0], color=VERMILION, lw=2.5, solid_capstyle="butt")
    axes.plot(annual.difference, 0.0, "o", color=VERMILION, ms=7, label=label)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)

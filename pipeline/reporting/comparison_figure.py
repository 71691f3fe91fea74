"""The figure of two compared arms. Nothing is read or written here. Shapes: K trainings of an arm, n bars."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from pipeline.reporting.figures import BLUE, GREY, VERMILION, compounded, date_numbers, empty_figure, label_dates
from pipeline.statistics.paired import Arms, p_value_text
from pipeline.statistics.seed_comparison import SeedDifference

NAMES, COLOURS = ("baseline", "candidate"), (GREY, BLUE)


def comparison(arms: Arms, found: SeedDifference, label: str) -> Figure:
    """Compounded net returns of every training and of the arms' means; the difference of the mean Sharpes as the bars
    add it up; each training's Sharpe; the interval against zero and against what the sample could have detected.
    """
    figure, (curves, sums, seeds, interval) = empty_figure(9.0, (3, 2, 1.2, 1.1), sharex=False)
    time, net = date_numbers(arms.times), arms.net()
    for returns, name, colour in zip(net, NAMES, COLOURS, strict=True):
        if len(returns) > 1:
            curves.plot(time, np.array([compounded(one) for one in returns]).T, color=colour, lw=0.6, alpha=0.45)
        mean = f"{name}, mean of {len(returns)}" if len(returns) > 1 else name
        curves.plot(time, compounded(returns.mean(axis=0)), color=colour, lw=1.8, label=mean)
    curves.set_ylabel("cumulative return, net")
    curves.yaxis.set_major_formatter(PercentFormatter(1.0))
    # At equal volatility, each bar's share in the annual Sharpe difference: the last point is that difference.
    baseline, candidate = (np.mean([_per_deviation(one) for one in returns], axis=0) for returns in net)
    share = (candidate - baseline) * math.sqrt(arms.periods_per_year) / len(time)
    sums.plot(time, np.cumsum(share), color=VERMILION, lw=1.4)
    sums.set_ylabel("Sharpe difference,\nadded up bar by bar")
    sums.set_xlabel("bar of decision")
    for axes in (curves, sums):
        axes.axhline(0.0, color="black", lw=0.8)
        axes.margins(x=0.0)
        label_dates(axes)
    _seeds(seeds, found)
    _interval(interval, found)
    figure.suptitle(label, fontsize=11)
    figure.legend(*curves.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _per_deviation(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns in units of their standard deviation; 0 for a series that never moves."""
    deviation = returns.std(ddof=1)
    return returns / deviation if deviation > 0.0 else np.zeros_like(returns)


def _seeds(axes: Axes, found: SeedDifference) -> None:
    """A dot for each training's Sharpe, a line at the arm's mean."""
    for row, (own, colour) in enumerate(zip(found.sharpes, COLOURS, strict=True)):
        axes.plot(own, [row] * len(own), "o", color=colour, ms=7, alpha=0.6, mew=0)
        axes.vlines(float(np.mean(own)), row - 0.35, row + 0.35, color=colour, lw=2.5)
    axes.set_yticks([0, 1], NAMES)
    axes.set_ylim(1.6, -0.6)
    axes.set_xlabel("annual Sharpe of each training, and their mean")


def _interval(axes: Axes, found: SeedDifference) -> None:
    axes.axvline(0.0, color="black", lw=0.8)
    axes.set_yticks([])
    axes.set_ylim(-1.0, 1.0)
    axes.set_xlabel("annual Sharpe, candidate minus baseline")
    if found.interval is None or found.detectable is None or found.p_value is None:
        axes.plot(found.difference, 0.0, "o", color=VERMILION, ms=7)
        axes.set_title(f"no interval: {found.undefined}", loc="left", fontsize=9)
        return
    low, high = found.interval
    axes.axvspan(
        -found.detectable,
        found.detectable,
        color="#EFEFEF",
        lw=0,
        zorder=0,
        label=f"a true difference within ±{found.detectable:.2f} is missed in more than 1 of 5 samples",
    )
    label = f"{found.difference:+.2f}, 95 % {low:.2f} to {high:.2f}, p = {p_value_text(found.p_value)}"
    axes.plot([low, high], [0.0, 0.0], color=VERMILION, lw=2.5, solid_capstyle="butt")
    axes.plot(found.difference, 0.0, "o", color=VERMILION, ms=7, label=label)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)

"""The figure of the forecast distributions. Nothing is read or written here."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipeline.reporting.figures import BLUE, GREY, empty_figure
from pipeline.statistics.calibration import Calibration


def calibration(one: Calibration) -> Figure:
    """The PIT histogram with the band of a calibrated forecaster, and below the reliability of `probability_up`."""
    figure, (above, below) = empty_figure(7.5, (2, 3), sharex=False)
    _histogram(above, one)
    _reliability(below, one)
    return figure


def _histogram(axes: Axes, one: Calibration) -> None:
    """Densities, so that bins of different width compare."""
    edges = np.array([*(each.low for each in one.pit), one.pit[-1].high])
    width = np.diff(edges)
    density = np.array([each.share for each in one.pit]) / width
    axes.bar(edges[:-1], density, width, align="edge", color=BLUE, alpha=0.45, edgecolor="white", label=one.segment)
    noise = np.array([np.nan if each.noise is None else each.noise for each in one.pit]) / width
    if np.isfinite(noise).all():
        axes.stairs(
            1.0 + noise, edges, baseline=1.0 - noise, fill=True, color=GREY, alpha=0.3, label="calibrated, 95 %"
        )
    axes.axhline(1.0, color="black", lw=0.8)
    axes.set_xlim(0.0, 1.0)
    axes.set_xlabel("where the label fell in its forecast distribution (PIT)")
    axes.set_ylabel("density")
    axes.legend(loc="lower right", ncols=2, fontsize=9)


def _reliability(axes: Axes, one: Calibration) -> None:
    forecast = np.array([each.forecast for each in one.reliability])
    frequency = np.array([each.frequency.value for each in one.reliability])
    errors = [each.frequency.standard_error for each in one.reliability]
    ends = np.array([min(forecast.min(), 0.5) - 0.01, max(forecast.max(), 0.5) + 0.01])
    axes.plot(ends, ends, color="black", lw=0.8, label="calibrated")
    axes.axhline(0.5, color=GREY, lw=0.8, ls=":")
    axes.errorbar(
        forecast,
        frequency,
        yerr=[0.0 if error is None else 1.96 * error for error in errors],
        fmt="o",
        color=BLUE,
        ms=6,
        capsize=3,
        label=f"{one.segment}, equally many labels each, 95 %",
    )
    axes.set_xlabel("probability_up")
    axes.set_ylabel("share of labels above 0")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(loc="upper left", fontsize=9)

"""Figures on what luck alone, or a simple rule, would have given: from results, no I/O, as in `plots`.

Shapes: n bars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from pipeline.baselines import BaselineRow
from pipeline.plots import BLUE, GREEN, GREY, SEGMENT_COLOURS, VERMILION, compounded, empty_figure
from tft.backtest import Record

ORANGE, PURPLE, PALE = "#E69F00", "#CC79A7", "#E9E9E9"
_STYLES = ((GREY, "-"), (ORANGE, "-"), (VERMILION, "--"), (GREEN, "-"), (PURPLE, "-."))
"""Colour and line of each baseline; black and white still tells neighbours apart."""


def baselines(model: Record, records: Mapping[str, Record], rows: Sequence[BaselineRow]) -> Figure:
    """Compounded net return of the model and of each baseline, the holdout shaded; below, the paired differences.

    A line is the 95 % interval of a difference, a pale bar the true differences that so few bars are likely to miss.
    """
    height = 0.42 * len(rows) + 0.9
    figure, (above, *below) = (
        empty_figure(4.5 + height, (3.4, height), sharex=False) if rows else empty_figure(4.5, (1,))
    )
    _cumulative(above, model, records)
    if rows:
        _differences(below[0], rows)
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _cumulative(axes: Axes, model: Record, records: Mapping[str, Record]) -> None:
    known = np.flatnonzero(np.isfinite(model.net()))
    stop = int(known[-1]) + 1 if len(known) else 0  # the last bars have no return yet
    if not stop:
        axes.text(0.5, 0.5, "no bar with a known return", transform=axes.transAxes, ha="center")
        return
    time = np.asarray(dates.date2num(model.times[:stop]))  # type: ignore[no-untyped-call]
    holdout = np.flatnonzero(model.segment[:stop] == "holdout")
    if len(holdout):
        axes.axvspan(time[holdout[0]], time[-1], color=SEGMENT_COLOURS["holdout"], lw=0, zorder=0, label="holdout")
    for i, (name, record) in enumerate(records.items()):
        colour, line = _STYLES[i % len(_STYLES)]
        net = record.net()[:stop]
        if np.isfinite(net).any():  # one that needs more history than there was never began
            axes.plot(time, _from_its_start(net), line, color=colour, lw=1.3, label=name)
    axes.plot(time, _from_its_start(model.net()[:stop]), color=BLUE, lw=2.2, label="model")
    axes.axhline(0.0, color="black", lw=0.8)
    axes.set_ylabel("cumulative net return")
    axes.set_xlabel("bar of decision")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.margins(x=0.0)
    locator = dates.AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _from_its_start(net: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compounded from the first known bar on; nothing is drawn before it."""
    started = np.maximum.accumulate(np.isfinite(net))
    return np.where(started, compounded(net), np.nan)


def _differences(axes: Axes, rows: Sequence[BaselineRow]) -> None:
    axes.axvline(0.0, color="black", lw=0.8)
    for i, row in enumerate(rows):
        if row.detectable_annual is not None:
            axes.barh(i, 2.0 * row.detectable_annual, left=-row.detectable_annual, height=0.62, color=PALE)
        if row.interval_low_annual is not None and row.interval_high_annual is not None:
            axes.hlines(i, row.interval_low_annual, row.interval_high_annual, color=BLUE, lw=2.0)
        if row.difference_annual is None:
            axes.annotate("n/a", (0.0, i), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
        else:
            axes.plot(row.difference_annual, i, "o", color=BLUE, ms=6)
        axes.annotate(
            _said(row), (1.01, i), xycoords=axes.get_yaxis_transform(), va="center", fontsize=8.5, annotation_clip=False
        )
    axes.set_yticks(range(len(rows)), [row.baseline for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(
        f"Sharpe of the model minus that of the baseline, {rows[0].segment} (annual, net)\n"
        "line: 95 % interval; pale: true differences that so few bars are likely to miss"
    )


def _said(row: BaselineRow) -> str:
    """Difference and p-value, as far as there are any."""
    if row.difference_annual is None:
        return ""
    difference = f"{row.difference_annual:+.2f}".replace("-", "\N{MINUS SIGN}")
    if row.p_value is None:
        return f"{difference}  no interval"
    return f"{difference}  p " + ("< 0.001" if row.p_value < 0.001 else f"= {row.p_value:.3f}")

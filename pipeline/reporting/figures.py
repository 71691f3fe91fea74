"""The style that all figures share, and the figures of folds and of the out-of-sample record.

Nothing is read or written here. Shapes: n bars, K folds. Colours are those of Okabe and Ito, which colour-blind readers
can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib import colormaps, dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from pipeline.bar_labels import bar_label, bar_unit
from pipeline.statistics.equal_volatility import at_volatility, realised_volatility
from tft.backtest import FoldRow
from tft.metrics import drawdown
from tft.record import Record, Segment

WIDTH_IN, DPI = 10.0, 150
"""Text of 10 points is then read well at a width of 1000 pixels, and stays sharp at twice that."""

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8C8C8C"
SEGMENT_COLOURS: dict[Segment, str] = {"development": "#FFFFFF", "between": "#CFCFCF", "holdout": "#FCEBCF"}

MAX_LEGEND = 12
_MAX_TICKS = 32


# ---- style


def empty_figure(height: float, ratios: Sequence[float], *, sharex: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure with empty axes below each other."""
    figure = Figure(figsize=(WIDTH_IN, height), dpi=DPI, layout="constrained")
    below = list(figure.subplots(len(ratios), 1, sharex=sharex, squeeze=False, height_ratios=list(ratios))[:, 0])
    for axes in below:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E4E4E4", lw=0.7)
        axes.set_axisbelow(True)
    return figure, below


def is_clean(segment: str | None) -> bool:
    """Whether all scored bars of a fold lie in the holdout: a fold across the border has bars of development too."""
    parts = (segment or "").split("/")
    return "holdout" in parts and "development" not in parts


def thinned(n: int) -> range:
    """Evenly spaced positions among n, few enough to label each."""
    return range(0, n, -(-n // _MAX_TICKS) or 1)


def label_ratios(axes: Axes) -> None:
    """Label a logarithmic x axis with 1, 2, 5, 10, 20 and so on."""
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def date_numbers(times: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """Times (n,) as the numbers that matplotlib draws dates by."""
    return np.asarray(dates.date2num(times), dtype=np.float64)  # type: ignore[no-untyped-call]


def label_dates(axes: Axes) -> None:
    """Label an x axis of `date_numbers` with dates, as briefly as they can be told apart."""
    locator = dates.AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def compounded(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cumulative compounded return (n,) as a fraction; NaN bars count as 0."""
    return np.asarray(np.cumprod(1.0 + np.nan_to_num(returns, nan=0.0)) - 1.0, dtype=np.float64)


# ---- folds and record


def training_curves(
    fold_indices: Sequence[int], train_loss: Sequence[Sequence[float]], validation_score: Sequence[Sequence[float]]
) -> Figure:
    """Loss and validation score by epoch, a line a fold, early folds dark and late ones light, and their median.

    In the median a fold that has stopped keeps its last value, so that no step of it comes from folds that leave.
    """
    figure, panels = empty_figure(6.5, (1, 1))
    shades = colormaps["viridis"](np.linspace(0.25, 0.8, len(fold_indices)))  # seen on white and on black
    alpha = 0.85 if len(fold_indices) <= MAX_LEGEND else 0.5
    for axes, curves in zip(panels, (train_loss, validation_score), strict=True):
        for fold, curve, shade in zip(fold_indices, curves, shades, strict=True):
            style = "o" if len(curve) == 1 else "-"
            axes.plot(
                np.arange(1, len(curve) + 1), curve, style, color=shade, lw=1.2, alpha=alpha, label=f"fold {fold}"
            )
        if len(curves) > 2:
            median = _median_curve(curves)
            label = "median (a stopped fold keeps its last value)"
            axes.plot(np.arange(1, len(median) + 1), median, color="black", lw=2.2, label=label)
    panels[0].set_ylabel("training loss")
    panels[1].set_ylabel("validation score\n(lower is better)")
    panels[1].set_xlabel("epoch")
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles, labels = panels[0].get_legend_handles_labels()
    if len(fold_indices) > MAX_LEGEND:  # the oldest and the newest tell which way the colours run
        shown = [0, len(fold_indices) // 2, len(fold_indices) - 1, *range(len(fold_indices), len(handles))]
        handles, labels = [handles[i] for i in shown], [labels[i] for i in shown]
    figure.legend(handles, labels, loc="outside upper center", ncols=7, frameon=False)
    return figure


def _median_curve(curves: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """The median over curves by epoch, up to the end of the longest; one that has ended keeps its last value."""
    n_epochs = max(len(curve) for curve in curves)
    held = [[*curve, *[curve[-1]] * (n_epochs - len(curve))] for curve in curves]
    return np.asarray(np.median(np.array(held, dtype=np.float64), axis=0), dtype=np.float64)


def validation_against_oos(rows: Sequence[FoldRow]) -> Figure:
    """Validation and test Sharpe by fold, and their difference below; `n/a` where one of them is missing."""
    figure, (above, below) = empty_figure(5.5, (2, 1))
    x = np.arange(len(rows))
    best, kept, oos, gap = (
        np.array([np.nan if (value := getattr(row, name)) is None else value for row in rows], dtype=np.float64)
        for name in ("val_sharpe_best_epoch", "val_sharpe", "oos_sharpe", "val_oos_gap")
    )
    for axes in (above, below):
        axes.axhline(0.0, color="black", lw=0.8)
        _shade_holdout(axes, rows, "holdout" if axes is above else None)
    above.vlines(x, kept, oos, color=GREY, lw=1.2, zorder=2)
    above.scatter(x, best, marker="^", s=34, facecolor="none", edgecolor=GREY, zorder=3, label="validation, best epoch")
    above.scatter(x, kept, marker="o", s=38, color=BLUE, zorder=4, label="validation, kept epoch")
    above.scatter(x, oos, marker="D", s=34, color=VERMILION, zorder=5, label="test")
    above.set_ylabel("Sharpe (annual, net)")
    below.bar(x, np.nan_to_num(gap), color=GREY, width=0.7)
    for i in np.flatnonzero(np.isnan(gap)).tolist():
        below.annotate("n/a", (i, 0.0), (0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=7)
    if np.isfinite(gap).any():
        mean = float(np.nanmean(gap))
        below.axhline(
            mean, color=BLUE, lw=1.4, ls="--", label="mean difference " + f"{mean:+.2f}".replace("-", "\N{MINUS SIGN}")
        )
        below.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)
    below.set_ylabel("kept epoch\nminus test")
    shown = thinned(len(rows))
    unit = bar_unit(np.array([row.test_end for row in rows if row.test_end], dtype="datetime64[us]"))
    labels = [f"{rows[i].fold}: {bar_label(rows[i].test_end, unit)}" for i in shown]
    below.set_xticks(shown, labels, rotation=55, ha="right", rotation_mode="anchor", fontsize=9)
    below.set_xlabel("fold: last bar of its test block")
    below.set_xlim(-0.6, len(rows) - 0.4)
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _shade_holdout(axes: Axes, rows: Sequence[FoldRow], label: str | None) -> None:
    """Shade a fold of the holdout, and half of one that has bars of development too; nothing where all are clean."""
    if all(is_clean(row.segment) for row in rows):
        return
    for i, row in enumerate(rows):
        if "holdout" in (row.segment or ""):
            start = i - 0.5 if is_clean(row.segment) else i
            axes.axvspan(start, i + 0.5, color=SEGMENT_COLOURS["holdout"], lw=0, zorder=0, label=label)
            label = None


def volatility_label(volatility_target: float, realised: float | None) -> str:
    """What a record that is scaled ex post is labelled with."""
    return "not scaled" if realised is None else f"at {volatility_target:.0%} volatility; realised {realised:.1%}"


def equity(record: Record, *, volatility_target: float) -> Figure:
    """Compounded portfolio return from flat, drawdown below; fold borders as lines, segments as background. The record
    is scaled ex post to an annual volatility of `volatility_target`."""
    figure, (above, below) = empty_figure(6.5, (3, 1))
    everywhere = np.ones(len(record.bars), dtype=bool)
    label_of_scale = volatility_label(volatility_target, realised_volatility(record, everywhere))
    record = at_volatility(record, everywhere, volatility_target)
    known = np.flatnonzero(np.isfinite(record.net()))
    stop = int(known[-1]) + 1 if len(known) else 0  # the last bars have no return yet
    if not stop:
        above.text(0.5, 0.5, "no bar with a known return", transform=above.transAxes, ha="center")
        return figure
    net, gross = record.net()[:stop], record.gross()[:stop]
    time = date_numbers(record.times[:stop])
    for start, end in _runs(record.segment[:stop]):
        segment: Segment = record.segment[start]
        performance = record.performance(segment)
        label = f"{segment} (net Sharpe {performance.sharpe:.2f})" if performance else segment
        for axes in (above, below):
            axes.axvspan(
                time[start],
                time[min(end, stop - 1)],
                facecolor=SEGMENT_COLOURS[segment],
                edgecolor="#BBBBBB",
                lw=0.5,
                zorder=0,
                label=label,
            )
    owner = np.maximum.accumulate(record.fold[:stop].max(axis=1))
    borders = np.flatnonzero(np.diff(owner, prepend=-1) > 0)
    for axes in (above, below):
        for bar in borders:
            axes.axvline(time[bar], color=GREY, lw=0.6, alpha=0.6, zorder=1)
    for i in thinned(len(borders)):
        above.annotate(
            str(owner[borders[i]]),
            (time[borders[i]], 1.0),
            (2, -2),
            xycoords=above.get_xaxis_transform(),
            textcoords="offset points",
            va="top",
            fontsize=7,
            color="#555555",
        )
    above.plot(time, compounded(gross), color=GREY, lw=1.0, label="before costs")
    above.plot(time, compounded(net), color=BLUE, lw=1.8, label="net of costs")
    above.axhline(0.0, color="black", lw=0.8)
    above.set_ylabel(f"cumulative return\n({label_of_scale})")
    below.fill_between(time, drawdown(net), 0.0, color=VERMILION, alpha=0.6, lw=0)
    below.set_ylabel("drawdown (net)")
    below.set_xlabel("bar of decision (small numbers: fold)")
    for axes in (above, below):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.margins(x=0.0)
    label_dates(below)
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure


def _runs(values: NDArray[np.str_]) -> list[tuple[int, int]]:
    """Bounds [start, stop) of stretches of equal values."""
    borders = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    return list(pairwise(borders))

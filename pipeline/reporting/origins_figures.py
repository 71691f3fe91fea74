"""Figures of where a record comes from. Nothing is read or written here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pipeline.phases.combinatorial import Paths
from pipeline.reporting.figures import (
    BLUE,
    DPI,
    GREY,
    SEGMENT_COLOURS,
    VERMILION,
    WIDTH_IN,
    date_numbers,
    empty_figure,
    label_dates,
)
from pipeline.statistics.attribution import Attribution, By, Part
from pipeline.statistics.course import Course
from pipeline.statistics.estimate import Estimate
from pipeline.statistics.group_losses import GroupLosses
from pipeline.statistics.information_coefficient import LagRow

MAX_PARTS = 24
"""Parts of one partition that are drawn; of more only the best and the worst are drawn."""
PARTITIONS: dict[By, str] = {
    "instrument": "instrument",
    "side": "side",
    "year": "year",
    "volatility": "market\nvolatility",
}
Z95 = 1.96
ON_PALE, ON_DARK = "#111111", "#FDFDFD"
"""Colours of text and frames on coloured cells: whoever shows the figure on another ground must not turn them as he
turns black and white."""


def contributions(one: Attribution) -> Figure:
    """What each part added to the sum of net returns, a panel a partition; lines are 95 % intervals."""
    shown = {by: _extremes(one.by(by)) for by in PARTITIONS}
    rows = [len(parts) for parts in shown.values()]
    figure, panels = empty_figure(0.34 * sum(rows) + 2.2, [count + 0.8 for count in rows])
    for axes, (by, parts) in zip(panels, shown.items(), strict=True):
        _bars(axes, [part.name for part in parts], [part.net for part in parts])
        axes.set_ylabel(PARTITIONS[by])
    panels[-1].xaxis.set_major_formatter(PercentFormatter(1.0))
    total = f"{one.total.net.value:.1%}".replace("-", "\N{MINUS SIGN}")
    cut = any(len(parts) < len(one.by(by)) for by, parts in shown.items())
    panels[-1].set_xlabel(
        f"contribution to the {one.segment}'s summed net return of {total} of the capital"
        + (" (best and worst instruments)" if cut else " (each panel adds up to it)")
    )
    return figure


def _extremes(parts: Sequence[Part]) -> Sequence[Part]:
    """All parts in their order, or of too many the worst and the best."""
    if len(parts) <= MAX_PARTS:
        return parts
    ordered = sorted(parts, key=lambda part: -part.net.value)
    return [*ordered[: MAX_PARTS // 2], *ordered[-MAX_PARTS // 2 :]]


def _bars(axes: Axes, names: Sequence[str], values: Sequence[Estimate | None], colour: str = BLUE) -> None:
    """A horizontal bar a row, the first on top, with its 95 % interval where it has an error."""
    for row, one in enumerate(values):
        if one is None:
            axes.annotate("n/a", (0.0, row), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
            continue
        axes.barh(row, one.value, height=0.66, color=colour, alpha=0.55)
        if one.standard_error is not None:
            axes.errorbar(one.value, row, xerr=Z95 * one.standard_error, color="black", lw=1.0, capsize=2)
    axes.axvline(0.0, color="black", lw=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def months(attributions: Sequence[Attribution]) -> Figure:
    """Summed net return by calendar month, a row a year; a frame marks months with bars of the holdout."""
    total: dict[str, float] = {}
    for one in attributions:
        for part in one.by("month"):
            total[part.name] = total.get(part.name, 0.0) + part.net.value
    clean = {part.name for one in attributions if one.segment == "holdout" for part in one.by("month")}
    years = sorted({name[:4] for name in total})
    grid = np.full((len(years), 12), np.nan)
    for name, value in total.items():
        grid[years.index(name[:4]), int(name[5:7]) - 1] = value
    figure = Figure(figsize=(WIDTH_IN, 0.36 * len(years) + 1.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    limit = float(np.nanmax(np.abs(grid))) or 1.0
    image = axes.imshow(grid, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            dark = abs(value) > 0.6 * limit
            text = f"{value:+.1%}".replace("-", "\N{MINUS SIGN}")
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ON_DARK if dark else ON_PALE)
        if f"{years[row]}-{column + 1:02d}" in clean:
            axes.add_patch(_frame(row, column))
    axes.set_xticks(range(12), ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"])
    axes.set_yticks(range(len(years)), years)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("framed: months with holdout bars; the others took part in selection" if clean else "development")
    colours = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.01)
    colours.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def _frame(row: int, column: int) -> Rectangle:
    return Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False, edgecolor=ON_PALE, lw=1.2)


def course(one: Course) -> Figure:
    """The Sharpe of the past year with the band in which a constant one would be, exposures, and turnover."""
    figure, (sharpe, exposure, turnover) = empty_figure(8.5, (3, 2, 1.5))
    time = date_numbers(one.times)
    holdout = np.flatnonzero(one.segment == "holdout")
    for axes in (sharpe, exposure, turnover):
        if len(holdout):
            label = "holdout" if axes is sharpe else None
            axes.axvspan(time[holdout[0]], time[-1], color=SEGMENT_COLOURS["holdout"], lw=0, zorder=0, label=label)
        axes.axhline(0.0, color="black", lw=0.8)
    if np.isfinite(one.sharpe).any():
        sharpe.plot(time, one.sharpe, color=BLUE, lw=1.6, label="net Sharpe of the past year")
    else:
        text = f"the record is shorter than a year ({one.window_bars} bars)"
        sharpe.text(0.5, 0.6, text, transform=sharpe.transAxes, ha="center")
    if one.whole is not None and one.noise is not None:
        sharpe.axhline(one.whole, color=GREY, lw=1.2, ls="--", label=f"whole record {one.whole:.2f}")
        low, high = one.whole - Z95 * one.noise, one.whole + Z95 * one.noise
        label = "where 19 of 20 years would be if nothing ever changed"
        sharpe.axhspan(low, high, color=GREY, alpha=0.18, lw=0, label=label)
    sharpe.set_ylabel("Sharpe\n(annual, net)")
    exposure.plot(time, one.gross_exposure, color=GREY, lw=1.2, label="gross")
    exposure.plot(time, one.net_exposure, color=BLUE, lw=1.2, label="net")
    exposure.set_ylabel("exposure\n(of the capital)")
    exposure.yaxis.set_major_formatter(PercentFormatter(1.0))
    exposure.legend(loc="upper left", ncols=2, frameon=False, fontsize=9)
    turnover.plot(time, one.turnover, color=VERMILION, lw=1.2)
    turnover.set_ylabel(f"turnover a year, realised\n(mean of {one.month_bars} bars)")
    turnover.set_xlabel("bar of decision; for a mean, its last bar")
    for axes in (sharpe, exposure, turnover):
        axes.margins(x=0.0)
    label_dates(turnover)
    figure.legend(*sharpe.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def information_coefficients(rows: Sequence[LagRow]) -> Figure:
    """Information coefficient and rank information coefficient by lag, with 95 % intervals."""
    figure, panels = empty_figure(6.5, (1, 1))
    styles = {"holdout": (BLUE, "o", -0.12), "development": (GREY, "s", 0.12)}
    traded = next((row.lag_bars for row in rows if row.traded), None)
    for axes, name, label in zip(panels, ("ic", "rank_ic"), ("IC", "rank IC"), strict=True):
        axes.axhline(0.0, color="black", lw=0.8)
        if traded is not None:
            axes.axvspan(traded - 0.5, traded + 0.5, color=SEGMENT_COLOURS["holdout"], lw=0, label="the return traded")
        for segment, (colour, marker, shift) in styles.items():
            known = [
                (row.lag_bars + shift, one.value, Z95 * (one.standard_error or 0.0))
                for row in rows
                if row.segment == segment and (one := getattr(row, name)) is not None
            ]
            if known:
                x, y, error = zip(*known, strict=True)
                suffix = "" if segment == "holdout" else " (took part in selection)"
                axes.errorbar(
                    x, y, yerr=error, fmt=marker, color=colour, ms=5, capsize=2, lw=1.2, label=segment + suffix
                )
        axes.set_ylabel(f"{label} of the forecast")
    panels[-1].set_xlabel("bars from the forecast to the return")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def group_losses(one: GroupLosses) -> Figure:
    """Selection weight of each group, and beside it what the record loses without it, with 95 % intervals."""
    names = [f"{row.group} ({row.n_columns})" for row in one.rows]
    figure = Figure(figsize=(WIDTH_IN, 0.36 * len(names) + 1.5), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E4E4E4", lw=0.7, axis="x")
        axes.set_axisbelow(True)
    _bars(left, names, [Estimate(row.weight, None) for row in one.rows], GREY)
    _bars(right, names, [row.sharpe_loss for row in one.rows])
    left.xaxis.set_major_formatter(PercentFormatter(1.0))
    left.set_xlabel("share of the selection weight (VSN)")
    left.set_ylabel("group (columns)")
    right.set_xlabel(f"net Sharpe lost on the {one.segment} when its columns are permuted")
    return figure


def paths(one: Paths) -> Figure:
    """The Sharpe of each path over all development bars, and that of the walk-forward, with 95 % intervals."""
    known = [(f"path {row.path}", row.sharpe) for row in one.rows if row.sharpe]
    names, values = [name for name, _ in known], [value for _, value in known]
    figure, (axes,) = empty_figure(0.34 * (len(known) + 1) + 1.8, (1,))
    every = [*values, *([one.walk_forward] if one.walk_forward else [])]
    for row, value in enumerate(every):
        colour = VERMILION if row == len(values) else BLUE
        error = None if value.standard_error is None else Z95 * value.standard_error
        axes.errorbar(value.value, row, xerr=error, fmt="o", color=colour, ms=6, capsize=3, lw=1.2)
    mean = float(np.mean([value.value for value in values]))
    axes.axvline(0.0, color="black", lw=0.8)
    axes.axvline(mean, color=GREY, lw=1.2, ls="--", label=f"mean of the paths {mean:.2f}")
    labels = [*names, *(["walk-forward"] if one.walk_forward else [])]
    axes.set_yticks(range(len(every)), labels)
    axes.set_ylim(len(every) - 0.4, -0.6)
    axes.set_xlabel("net Sharpe on development bars, which took part in selection (annual, 95 %)")
    axes.legend(loc="best", frameon=False, fontsize=9)
    return figure

"""Figures of what luck alone, or a simple rule, would have given. Nothing is read or written here.

Shapes: n bars, m repetitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from pipeline.reporting.figures import (
    BLUE,
    GREEN,
    GREY,
    VERMILION,
    date_numbers,
    empty_figure,
    label_dates,
)
from pipeline.statistics.baseline_comparison import BaselineRow
from pipeline.statistics.comparable import MODEL
from pipeline.statistics.equal_volatility import at_volatility
from tft.record import Record

ORANGE, PURPLE, SKY, PALE = "#E69F00", "#CC79A7", "#56B4E9", "#E9E9E9"
STYLES = ((GREY, "-"), (ORANGE, "-"), (VERMILION, "--"), (GREEN, "-"), (PURPLE, "-."), (SKY, "--"))
"""Colour and line of each baseline; black and white still tells neighbours apart."""


def baselines(
    model: Record, records: Mapping[str, Record], rows: Sequence[BaselineRow], *, volatility_target: float
) -> Figure:
    """Net returns of the model and of each baseline, added up over the bars on which they are compared; each scaled ex
    post to an annual volatility of `volatility_target` on these bars.

    Sums at one volatility end in the order of the Sharpes, which compounded curves or other bars need not.
    """
    figure, (axes,) = empty_figure(3.5, (1,))
    judged = (model.segment == rows[0].segment) & np.isfinite(model.net())
    if not judged.any():
        axes.text(0.5, 0.5, "no bar with a known return", transform=axes.transAxes, ha="center")
        return figure
    time = date_numbers(model.times[judged])
    compared_on = {row.baseline: row for row in rows}
    for i, (name, record) in enumerate(records.items()):
        colour, line = STYLES[i % len(STYLES)]
        if np.isfinite(record.net()[judged]).any():  # a baseline that needs more history than there is has no bar
            summed = _summed(record, judged, volatility_target)
            label = _with_sharpe(name, compared_on[name].sharpe_annual)
            if compared_on[name].n_bars < judged.sum():
                label += f" on {compared_on[name].n_bars} bars"
            axes.plot(time, summed, line, color=colour, lw=1.3, label=label)
    performance = model.performance_of(judged)
    label = _with_sharpe(MODEL, performance.sharpe if performance else None)
    axes.plot(time, _summed(model, judged, volatility_target), color=BLUE, lw=2.4, label=label)
    axes.axhline(0.0, color="black", lw=0.8)
    axes.set_ylabel(f"sum of net returns\nat {volatility_target:.0%} volatility")
    axes.set_xlabel("bar of decision")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.margins(x=0.0)
    label_dates(axes)
    lines = sorted(axes.get_lines()[:-1], key=_last_point, reverse=True)  # the last one is at 0
    figure.legend(lines, [str(line.get_label()) for line in lines], loc="outside right center", frameon=False)
    return figure


def baseline_differences(rows: Sequence[BaselineRow]) -> Figure:
    """The paired differences of the Sharpes. A line is the 95 % interval of a difference, a pale bar the true
    differences that so few bars are likely to miss."""
    figure, (axes,) = empty_figure(0.42 * len(rows) + 1.1, (1,))
    _differences(axes, rows)
    return figure


def placebo(
    null: NDArray[np.float64],
    null_tuning: NDArray[np.float64],
    *,
    real: float,
    real_tuning: float,
    long_only: float,
    p_value: float,
) -> Figure:
    """The Sharpes (m,) that targets without signal gave out-of-sample, and below in tuning, with the real run's."""
    figure, (above, below) = empty_figure(6.5, (3, 2))
    bins = _bins(np.concatenate([null, null_tuning, [real, real_tuning, long_only]]))
    _distribution(above, null, bins, f"{len(null)} repetitions without signal")
    above.axvline(float(null.mean()), color=GREY, lw=1.4, ls=":", label=f"their mean {null.mean():.2f}")
    above.axvline(long_only, color=GREEN, lw=1.6, ls="--", label=f"long only, drift alone {long_only:.2f}")
    above.axvline(real, color=VERMILION, lw=2.4, label=f"real run {real:.2f} (p = {p_value:.3f})")
    above.set_ylabel("out-of-sample:\nrepetitions")
    _distribution(below, null_tuning, bins, None)
    below.axvline(float(null_tuning.mean()), color=GREY, lw=1.4, ls=":")
    below.axvline(real_tuning, color=VERMILION, lw=2.4)
    below.annotate(
        f"best trial on the bars that chose it: mean {null_tuning.mean():.2f} without signal, {real_tuning:.2f} real",
        (0.0, 1.0),
        (0, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9,
    )
    below.set_ylabel("tuning:\nrepetitions")
    below.set_xlabel("Sharpe (annual, net)")
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def planted(
    oracle: Sequence[float],
    found: Sequence[float],
    p_values: Sequence[float],
    planted_kept: Sequence[float],
    others_kept: Sequence[float],
) -> Figure:
    """The holdout Sharpe of each repetition (m,) beside the oracle's, and the shares of columns that pruning kept."""
    figure, (above, below) = empty_figure(6.5, (3, 2))
    x = np.arange(1, len(oracle) + 1)
    significant = np.asarray(p_values) < 0.05
    above.axhline(0.0, color="black", lw=0.8)
    above.vlines(x, found, oracle, color=GREY, lw=1.2, zorder=2)
    above.scatter(x, oracle, marker="_", s=140, color="black", zorder=3, label="oracle, before costs")
    for chosen, face, label in ((True, BLUE, "model, p < 0.05"), (False, "none", "model, p ≥ 0.05")):
        rows = significant == chosen
        above.scatter(x[rows], np.asarray(found)[rows], s=44, facecolor=face, edgecolor=BLUE, zorder=4, label=label)
    above.set_ylabel("holdout Sharpe\n(annual, net)")
    below.bar(x - 0.2, planted_kept, width=0.38, color=BLUE, label="planted columns kept")
    below.bar(x + 0.2, others_kept, width=0.38, color=GREY, label="other columns kept")
    below.set_ylim(0.0, 1.04)
    below.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.set_xticks(x)
    below.set_xlabel("repetition")
    handles = [axes.get_legend_handles_labels() for axes in (above, below)]
    figure.legend(
        [*handles[0][0], *handles[1][0]],
        [*handles[0][1], *handles[1][1]],
        loc="outside upper center",
        ncols=3,
        frameon=False,
    )
    return figure


def _summed(record: Record, rows: NDArray[np.bool_], volatility_target: float) -> NDArray[np.float64]:
    """Net returns added up over `rows`, at one volatility; NaN before the first known one."""
    net = at_volatility(record, rows, volatility_target).net()[rows]
    started = np.maximum.accumulate(np.isfinite(net))
    return np.where(started, np.cumsum(np.nan_to_num(net)), np.nan)


def _with_sharpe(name: str, sharpe: float | None) -> str:
    """The label of a line: a name, and its Sharpe if it has one."""
    if sharpe is None or not np.isfinite(sharpe):
        return f"{name} (no Sharpe)"
    return f"{name} " + f"{sharpe:z.2f}".replace("-", "\N{MINUS SIGN}")


def _last_point(line: Line2D) -> float:
    return float(np.asarray(line.get_ydata(), dtype=np.float64)[-1])


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
            _difference_text(row),
            (1.01, i),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=8.5,
            annotation_clip=False,
        )
    axes.set_yticks(range(len(rows)), [row.baseline for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(
        f"Sharpe of the model minus that of the baseline, {rows[0].segment} (annual, net)\n"
        "line: 95 % interval; pale: true differences that so few bars are likely to miss"
    )


def _difference_text(row: BaselineRow) -> str:
    """The difference and its p-value, as far as they are known."""
    if row.difference_annual is None:
        return ""
    difference = f"{row.difference_annual:+.2f}".replace("-", "\N{MINUS SIGN}")
    if row.p_value is None:
        return f"{difference}  no interval"
    return f"{difference}  p " + ("< 0.001" if row.p_value < 0.001 else f"= {row.p_value:.3f}")


def _bins(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges that all distributions of a figure share."""
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * max(high - low, 0.1)
    return np.linspace(low - margin, high + margin, 31)


def _distribution(axes: Axes, values: NDArray[np.float64], bins: NDArray[np.float64], label: str | None) -> None:
    axes.hist(values, bins.tolist(), color=BLUE, alpha=0.45, label=label)
    axes.plot(values, np.zeros(len(values)), "|", color=BLUE, ms=12, clip_on=False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

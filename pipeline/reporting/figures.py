"""Figures from results. Nothing is read or written here, and nothing of pyplot's state is left behind.

Shapes: n bars, K folds. Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import matplotlib
import numpy as np
import optuna
import optuna.visualization.matplotlib as optuna_plots
from matplotlib import colormaps, dates
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray
from optuna.trial import TrialState

from tft.backtest import FoldRow
from tft.metrics import drawdown
from tft.record import Record, Segment

WIDTH_IN, DPI = 10.0, 150
"""Text of 10 points is then read well at a width of 1000 pixels, and stays sharp at twice that."""

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8C8C8C"
SEGMENT_COLOURS: dict[Segment, str] = {"development": "#FFFFFF", "between": "#CFCFCF", "holdout": "#FCEBCF"}

HEATMAP_ROWS = 40
NAMED_COLUMNS = 12
_MAX_TICKS = 32
_MAX_NAME = 34
_MAX_LEGEND = 12


class RankedRow(Protocol):
    """A column as pruning ranks it. Weights are NaN where the column was missing."""

    @property
    def rank(self) -> int: ...
    @property
    def feature(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def relative_weight(self) -> float:
        """Mean over folds of the selection weight relative to uniform."""

    @property
    def stability(self) -> float:
        """Share of folds in which the column reaches the threshold."""

    @property
    def selected(self) -> bool: ...
    @property
    def weights(self) -> Sequence[float]:
        """Selection weight by fold."""


def bar_label(time: str | None) -> str:
    """A bar's ISO time as a person writes it: without the time of day at midnight, and never with seconds."""
    if time is None:
        return "no test"
    return str(np.datetime64(time, "m")).replace("T", " ").removesuffix(" 00:00")


def training_curves(
    fold_indices: Sequence[int], train_loss: Sequence[Sequence[float]], validation_score: Sequence[Sequence[float]]
) -> Figure:
    """Loss and validation score by epoch, a line a fold, early folds dark and late ones light, and their median."""
    figure, panels = empty_figure(6.5, (1, 1))
    shades = colormaps["viridis"](np.linspace(0.0, 0.88, len(fold_indices)))
    alpha = 0.85 if len(fold_indices) <= _MAX_LEGEND else 0.5
    for axes, curves in zip(panels, (train_loss, validation_score), strict=True):
        for fold, curve, shade in zip(fold_indices, curves, shades, strict=True):
            style = "o" if len(curve) == 1 else "-"
            axes.plot(
                np.arange(1, len(curve) + 1), curve, style, color=shade, lw=1.2, alpha=alpha, label=f"fold {fold}"
            )
        if len(curves) > 2:
            axes.plot(*_median_curve(curves), color="black", lw=2.2, label="median of the folds")
    panels[0].set_ylabel("training loss")
    panels[1].set_ylabel("validation score\n(lower is better)")
    panels[1].set_xlabel("epoch")
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles, labels = panels[0].get_legend_handles_labels()
    if len(fold_indices) > _MAX_LEGEND:  # the oldest and the newest tell which way the colours run
        shown = [0, len(fold_indices) // 2, len(fold_indices) - 1, *range(len(fold_indices), len(handles))]
        handles, labels = [handles[i] for i in shown], [labels[i] for i in shown]
    figure.legend(handles, labels, loc="outside upper center", ncols=7, frameon=False)
    return figure


def validation_against_oos(rows: Sequence[FoldRow]) -> Figure:
    """Validation and test Sharpe by fold, and their difference below; `n/a` where one of them is missing."""
    figure, (above, below) = empty_figure(7.0, (2, 1))
    x = np.arange(len(rows))
    best, kept, oos, gap = (
        np.array([np.nan if (value := getattr(row, name)) is None else value for row in rows], dtype=np.float64)
        for name in ("val_sharpe_best_epoch", "val_sharpe", "oos_sharpe", "val_oos_gap")
    )
    in_holdout = [i for i, row in enumerate(rows) if "holdout" in (row.segment or "")]
    for axes in (above, below):
        axes.axhline(0.0, color="black", lw=0.8)
        for i in in_holdout:
            label = "fold with holdout bars" if i == in_holdout[0] and axes is above else None
            axes.axvspan(i - 0.5, i + 0.5, color=SEGMENT_COLOURS["holdout"], lw=0, zorder=0, label=label)
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
        below.axhline(mean, color=BLUE, lw=1.4, ls="--", label=f"mean difference {mean:+.2f}")
        below.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)
    below.set_ylabel("kept epoch\nminus test")
    shown = _thinned(len(rows))
    labels = [f"{rows[i].fold}: {bar_label(rows[i].test_end)}" for i in shown]
    below.set_xticks(shown, labels, rotation=55, ha="right", rotation_mode="anchor", fontsize=9)
    below.set_xlabel("fold: last bar of its test block")
    below.set_xlim(-0.6, len(rows) - 0.4)
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def vsn_heatmap(ranked: Sequence[RankedRow], fold_indices: Sequence[int]) -> Figure:
    """Selection weight by column and fold, best columns on top; grey cells are missing, grey names not selected."""
    top = ranked[:HEATMAP_ROWS]
    figure, (axes,) = empty_figure(1.7 + 0.22 * len(top), (1,))
    axes.grid(visible=False)
    weights = 100.0 * np.array([row.weights for row in top], dtype=np.float64)  # (columns, K)
    colours = colormaps["YlGnBu"].with_extremes(bad="#BDBDBD")
    known = weights[np.isfinite(weights)]
    largest = float(known.max()) if len(known) else 1.0
    image = axes.imshow(np.ma.masked_invalid(weights), aspect="auto", cmap=colours, vmin=0.0, vmax=largest)
    rows = np.arange(len(top))
    axes.set_yticks(rows, [_name(row.feature) for row in top], fontsize=8.5)
    right = axes.secondary_yaxis("right")
    weight_and_group = [f"{row.relative_weight:5.2f}×  {_name(row.group)}" for row in top]
    right.set_yticks(rows, weight_and_group, family="monospace", fontsize=8)
    for ticks in (axes.get_yticklabels(), right.get_yticklabels()):
        for tick, row in zip(ticks, top, strict=True):
            tick.set_color("black" if row.selected else GREY)
    shown = _thinned(len(fold_indices))
    axes.set_xticks(shown, [str(fold_indices[i]) for i in shown], fontsize=9)
    axes.set_xlabel("fold")
    axes.set_title(f"{len(top)} of {len(ranked)} columns, by mean weight (grey: not selected)", loc="left", fontsize=10)
    axes.annotate(
        "relative, group", (1.0, 1.0), (10, 6), xycoords="axes fraction", textcoords="offset points", fontsize=8
    )
    figure.colorbar(image, ax=axes, label="selection weight (% of all variables)", shrink=0.6, pad=0.02)
    return figure


def stability_against_weight(
    ranked: Sequence[RankedRow],
    probe_relative_weight: Sequence[float],
    probe_stability: Sequence[float],
    threshold: float,
) -> Figure:
    """Each column's stability against its mean weight, the probes among them, and the weight that was needed."""
    figure, (axes,) = empty_figure(6.0, (1,))
    for chosen, colour, label in ((False, GREY, "column, not selected"), (True, BLUE, "column, selected")):
        rows = [row for row in ranked if row.selected == chosen]
        axes.scatter(
            [row.relative_weight for row in rows],
            [row.stability for row in rows],
            s=30,
            facecolor=colour if chosen else "none",
            edgecolor=colour,
            alpha=0.75,
            zorder=3,
            label=f"{label} ({len(rows)})",
        )
    if len(probe_relative_weight):
        axes.scatter(
            probe_relative_weight,
            probe_stability,
            s=40,
            marker="x",
            color=VERMILION,
            zorder=4,
            label=f"probe: no information by construction ({len(probe_relative_weight)})",
        )
    axes.axvline(1.0, color=GREY, lw=1.0, ls=":", label="uniform weight")
    axes.axvline(threshold, color="black", lw=1.2, ls="--", label=f"needed: {threshold:.2f}×")
    values = np.array([*(row.relative_weight for row in ranked), *probe_relative_weight, threshold])
    known = values[np.isfinite(values)]
    if known.min() > 0.0 and known.max() > 6.0 * np.median(known):  # a few columns dwarf the others
        axes.set_xscale("log")
        _label_ratios(axes)
    axes.set_xlabel("mean selection weight relative to uniform (×)")
    axes.set_ylabel("stability (share of folds)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(-0.04, 1.04)
    named = [row for row in ranked[:NAMED_COLUMNS] if np.isfinite([row.relative_weight, row.stability]).all()]
    # Names stand in a list beside the axes, in an order in which the lines to their points do not cross.
    for i, row in enumerate(sorted(named, key=lambda row: (-row.stability, -row.relative_weight))):
        axes.annotate(
            _name(row.feature),
            (row.relative_weight, row.stability),
            (1.03, 0.965 - i * 0.93 / NAMED_COLUMNS),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.5, "alpha": 0.7, "relpos": (0.0, 0.5), "shrinkB": 3},
        )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def equity(record: Record) -> Figure:
    """Compounded portfolio return from flat, drawdown below; fold borders as lines, segments as background."""
    figure, (above, below) = empty_figure(6.5, (3, 1))
    known = np.flatnonzero(np.isfinite(record.net()))
    stop = int(known[-1]) + 1 if len(known) else 0  # the last bars have no return yet
    if not stop:
        above.text(0.5, 0.5, "no bar with a known return", transform=above.transAxes, ha="center")
        return figure
    net, gross = record.net()[:stop], record.gross()[:stop]
    time = np.asarray(dates.date2num(record.times[:stop]))  # type: ignore[no-untyped-call]
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
    for i in _thinned(len(borders)):
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
    above.set_ylabel("cumulative return")
    below.fill_between(time, drawdown(net), 0.0, color=VERMILION, alpha=0.6, lw=0)
    below.set_ylabel("drawdown (net)")
    below.set_xlabel("bar of decision (small numbers: fold)")
    for axes in (above, below):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.margins(x=0.0)
    locator = dates.AutoDateLocator()  # type: ignore[no-untyped-call]
    below.xaxis.set_major_locator(locator)
    below.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure


def optuna_figures(study: optuna.Study) -> dict[str, Figure]:
    """Optuna's own figures by name; those for which the study holds too little are left out."""
    trials = study.get_trials(deepcopy=False)
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    values = {(name, value) for trial in completed for name, value in trial.params.items()}
    parameters = sorted(name for name, n in Counter(name for name, _ in values).items() if n > 1)
    target = "test Sharpe (development)"
    figures: dict[str, Figure] = {}
    draw: Callable[[], Any]
    if completed:
        draw = partial(optuna_plots.plot_optimization_history, study, target_name=target)
        figures["optimization_history"] = figure = _optuna_figure(draw, (WIDTH_IN, 5.0))
        figure.axes[0].legend(loc="best")
    if any(trial.intermediate_values for trial in trials):
        draw = partial(optuna_plots.plot_intermediate_values, study)
        figures["intermediate_values"] = figure = _optuna_figure(draw, (WIDTH_IN, 5.0))
        figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        figure.axes[0].set(xlabel="fold of the trial's walk-forward", ylabel="test Sharpe so far (development)")
        legend = figure.axes[0].get_legend()
        if legend is not None and len(legend.get_texts()) > 2 * _MAX_LEGEND:
            legend.remove()
    for start in range(0, len(parameters), 4):  # four in a row can still be read
        shown = parameters[start : start + 4]
        size = (2.0 * WIDTH_IN / len(shown) if len(shown) > 1 else WIDTH_IN, 4.0)
        draw = partial(optuna_plots.plot_slice, study, params=shown, target_name=target)
        figures[f"slice_{start // 4 + 1}"] = figure = _optuna_figure(draw, size)
        for axes in figure.axes:
            if axes.get_xscale() == "log":
                _label_ratios(axes)
                axes.tick_params(axis="x", labelsize=8, rotation=40)
    if len({trial.value for trial in completed}) > 1 and parameters:
        evaluator = _quietly(optuna.importance.PedAnovaImportanceEvaluator)
        draw = partial(optuna_plots.plot_param_importances, study, evaluator=evaluator, target_name=target)
        figures["param_importances"] = _optuna_figure(draw, (WIDTH_IN, 5.0))
    return figures


def _optuna_figure(draw: Callable[[], Any], size: tuple[float, float]) -> Figure:
    """The figure `draw` makes through pyplot, taken out of it again, with pyplot's settings as they were."""
    before = set(plt.get_fignums())
    settings: Any = {"figure.figsize": size, "figure.dpi": DPI, "figure.constrained_layout.use": True}
    try:
        with matplotlib.rc_context(settings):
            figure: Figure = np.atleast_1d(_quietly(draw)).flat[0].get_figure()
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
    return figure


def _quietly(call: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return call()


def empty_figure(height: float, ratios: Sequence[float], *, sharex: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure with empty axes below each other."""
    figure = Figure(figsize=(WIDTH_IN, height), dpi=DPI, layout="constrained")
    below = list(figure.subplots(len(ratios), 1, sharex=sharex, squeeze=False, height_ratios=list(ratios))[:, 0])
    for axes in below:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E4E4E4", lw=0.7)
        axes.set_axisbelow(True)
    return figure, below


def _label_ratios(axes: Axes) -> None:
    """A logarithmic x axis labelled 1, 2, 5, 10, and so on."""
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _name(feature: str) -> str:
    """A column's name, shortened in its middle; a dollar sign is no formula."""
    half = (_MAX_NAME - 1) // 2
    short = feature if len(feature) <= _MAX_NAME else f"{feature[:half]}…{feature[-half:]}"
    return short.replace("$", r"\$")


def _thinned(n: int) -> range:
    """Evenly spaced positions among n, few enough to label each."""
    return range(0, n, -(-n // _MAX_TICKS) or 1)


def _runs(values: NDArray[np.str_]) -> list[tuple[int, int]]:
    """Bounds [start, stop) of stretches of equal values."""
    borders = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    return list(pairwise(borders))


def compounded(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) what is gained so far, as a fraction; NaN bars count as 0."""
    return np.asarray(np.cumprod(1.0 + np.nan_to_num(returns, nan=0.0)) - 1.0, dtype=np.float64)


def _median_curve(curves: Sequence[Sequence[float]]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Epochs (from 1) that more than half of the curves reach, and the median over those that do."""
    n_epochs = sorted(len(curve) for curve in curves)[(len(curves) - 1) // 2]
    medians = [np.median([curve[epoch] for curve in curves if len(curve) > epoch]) for epoch in range(n_epochs)]
    return np.arange(1, n_epochs + 1), np.array(medians, dtype=np.float64)

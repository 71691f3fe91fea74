"""Figures of variable selection: the weight of each column in each fold, and what pruning made of it. K folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipeline.reporting.figures import BLUE, GREEN, GREY, VERMILION, empty_figure, label_ratios, thinned
from pipeline.statistics.false_discovery import ProbeNull
from pipeline.statistics.pooled_null import PooledNull

HEATMAP_ROWS = 40
NAMED_COLUMNS = 12
_MAX_NAME = 34


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
    def p_value(self) -> float: ...
    @property
    def selected(self) -> bool: ...
    @property
    def weights(self) -> Sequence[float]:
        """Selection weight by fold."""


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
    axes.set_yticks(rows, [_short_name(row.feature) for row in top], fontsize=8.5)
    right = axes.secondary_yaxis("right")
    weight_and_group = [f"{row.relative_weight:5.2f}×  {_short_name(row.group)}" for row in top]
    right.set_yticks(rows, weight_and_group, family="monospace", fontsize=8)
    for ticks in (axes.get_yticklabels(), right.get_yticklabels()):
        for tick, row in zip(ticks, top, strict=True):
            tick.set_color("black" if row.selected else GREY)
    shown = thinned(len(fold_indices))
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
    if np.isfinite(threshold):
        axes.axvline(threshold, color="black", lw=1.2, ls="--", label=f"needed: {threshold:.2f}×")
    values = np.array([*(row.relative_weight for row in ranked), *probe_relative_weight, threshold])
    known = values[np.isfinite(values)]
    if known.min() > 0.0 and known.max() > 6.0 * np.median(known):  # a few columns dwarf the others
        axes.set_xscale("log")
        label_ratios(axes)
    axes.set_xlabel("mean selection weight relative to uniform (×)")
    axes.set_ylabel("stability (share of folds)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(-0.04, 1.04)
    named = [row for row in ranked[:NAMED_COLUMNS] if np.isfinite([row.relative_weight, row.stability]).all()]
    # Names stand in a list beside the axes, in an order in which the lines to their points do not cross.
    for i, row in enumerate(sorted(named, key=lambda row: (-row.stability, -row.relative_weight))):
        axes.annotate(
            _short_name(row.feature),
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


def probe_null(
    ranked: Sequence[RankedRow],
    probe_relative_weight: Sequence[float],
    null: ProbeNull | PooledNull,
    threshold: float,
    rate: float,
) -> Figure:
    """The share of columns that have at least a weight, of probes, and what the fitted null says of noise columns."""
    probes = np.sort([weight for weight in probe_relative_weight if np.isfinite(weight)])
    weights = np.sort([row.relative_weight for row in ranked if np.isfinite(row.relative_weight)])
    figure, (axes,) = empty_figure(5.0, (1,))
    for values, colour, label in ((weights, BLUE, "columns"), (probes, VERMILION, "probes")):
        share = np.arange(len(values), 0, -1) / len(values)
        axes.plot(values, share, marker=".", ls="none", color=colour, zorder=3, label=f"{label} ({len(values)})")
    known = [*weights, *probes, *([threshold] if np.isfinite(threshold) else [])]
    grid = np.geomspace(float(probes[0]), 1.05 * max(known), 400)
    axes.plot(grid, null.p_values(grid), color="black", lw=1.4, label="p-value: what noise gives")
    # A column passes where the share of columns is at least the p-value divided by the rate.
    axes.plot(
        grid, null.p_values(grid) / rate, color=GREEN, lw=1.2, ls="-.", label=f"share needed at a rate of {rate:g}"
    )
    if np.isfinite(threshold):
        axes.axvline(threshold, color="black", lw=1.2, ls="--", label=f"needed: {threshold:.2f}×")
    axes.set_xscale("log")
    label_ratios(axes)
    axes.set_yscale("log")
    axes.set_ylim(0.5 / max(len(weights), len(probes)), 1.3)
    axes.set_xlabel("mean selection weight relative to uniform (×)")
    axes.set_ylabel("share with at least this weight")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def _short_name(feature: str) -> str:
    """A column's name, shortened in its middle; a dollar sign is no formula."""
    half = (_MAX_NAME - 1) // 2
    short = feature if len(feature) <= _MAX_NAME else f"{feature[:half]}…{feature[-half:]}"
    return short.replace("$", r"\$")

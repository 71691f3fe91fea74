"""Figures on what luck alone would have given: from results, no I/O, as in `plots`.

Shapes: m repetitions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from pipeline.plots import BLUE, GREEN, GREY, VERMILION, empty_figure


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
    above.axvline(long_only, color=GREEN, lw=1.6, ls="--", label=f"long only, real market {long_only:.2f}")
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
    """By repetition (m,): holdout Sharpe beside the oracle's, and the shares of columns that pruning kept."""
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


def _bins(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges that all distributions of a figure share."""
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * max(high - low, 0.1)
    return np.linspace(low - margin, high + margin, 31)


def _distribution(axes: Axes, values: NDArray[np.float64], bins: NDArray[np.float64], label: str | None) -> None:
    axes.hist(values, bins.tolist(), color=BLUE, alpha=0.45, label=label)
    axes.plot(values, np.zeros(len(values)), "|", color=BLUE, ms=12, clip_on=False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

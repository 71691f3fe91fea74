"""Figures of the tuning search, as Optuna draws them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib
import numpy as np
import optuna
import optuna.visualization.matplotlib as optuna_plots
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import TrialState

from pipeline.reporting.figures import DPI, MAX_LEGEND, WIDTH_IN, label_ratios


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
        if legend is not None and len(legend.get_texts()) > 2 * MAX_LEGEND:
            legend.remove()
    for start in range(0, len(parameters), 4):  # four in a row can still be read
        shown = parameters[start : start + 4]
        size = (2.0 * WIDTH_IN / len(shown) if len(shown) > 1 else WIDTH_IN, 4.0)
        draw = partial(optuna_plots.plot_slice, study, params=shown, target_name=target)
        figures[f"slice_{start // 4 + 1}"] = figure = _optuna_figure(draw, size)
        for axes in figure.axes:
            if axes.get_xscale() == "log":
                label_ratios(axes)
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

"""Regressions in the network's place, fitted anew in every fold on its training and validation blocks.

None of them sees other instruments. The step that does is that of tft/cross_section.py, for them and for this project.

Shapes: T bars, A instruments, F features, n bars of a block, M labelled cells (bar, instrument) of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from benchmarks.skill_task import FoldForecast, Task
from pipeline.statistics.regressions import Cells, Forecasts, boosted_trees, ridge, squared_error
from tft.cross_section import error_correlation
from tft.folds import Fold
from tft.scaling import Scaler

Array = NDArray[np.float64]
Features = NDArray[np.float32]


def regress(
    task: Task, features: Features, regression: Callable[[Cells], Forecasts], *, generalised: bool = False
) -> list[FoldForecast]:
    """One regression on features (T, A, F), fold by fold: raw = 2 Phi(mu / sd of training residuals) - 1.

    `generalised`: fitted as generalised least squares for noise that instruments share, on `decorrelated` cells; its
    forecast of an instrument reads the instrument's own columns alone all the same.
    """
    return [_regress_fold(task, fold, features, regression, generalised) for fold in task.folds]


def decorrelated(values: NDArray[np.floating], rho: float) -> NDArray[np.floating]:
    """v - c mean v of values v (n, A, ...), the mean over instruments: noise of correlation rho has none any more.

    With c = 1 - sqrt((1 - rho) / (1 + (A - 1) rho)) its covariance becomes 1 - rho times the identity. A bar at which
    an instrument is missing is NaN.
    """
    c = 1.0 - np.sqrt((1.0 - rho) / (1.0 + (values.shape[1] - 1) * rho))
    return np.asarray(values - values.dtype.type(c) * values.mean(axis=1, keepdims=True))


def _regress_fold(
    task: Task, fold: Fold, features: Features, regression: Callable[[Cells], Forecasts], generalised: bool
) -> FoldForecast:
    """The fold's own validation block chooses the penalty, or the number of trees."""
    y = task.market.y
    rho_of_labels = error_correlation(y[fold.train.start : fold.train.stop]) if generalised else 0.0
    scaler = Scaler.fit(features[fold.train.start : fold.train.stop])

    def scaled(block: range) -> Features:
        return scaler.transform(features[block.start : block.stop])

    def labelled(block: range) -> Cells:
        x, labels = (decorrelated(each, rho_of_labels) for each in (scaled(block), y[block.start : block.stop]))
        known = np.isfinite(labels)
        return Cells(x[known], labels[known])

    def forecast_of(block: range) -> Array:
        x = scaled(block)
        return forecasts(x.reshape(-1, x.shape[-1]))[:, best].reshape(x.shape[:2])

    forecasts = regression(labelled(fold.train))
    best = int(squared_error(forecasts, labelled(fold.validation)).sum(axis=0).argmin())
    residuals = y[fold.train.start : fold.train.stop] - forecast_of(fold.train)
    mu = forecast_of(fold.test)
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = 2.0 * ndtr(mu / np.nanstd(residuals)) - 1.0
    return FoldForecast(raw, error_correlation(residuals), mu)


def with_right_lags(task: Task) -> Features:
    """Features (T, A, F) in which the true column is replaced by the weighted mean of its past that the truth is."""
    features, kernel = task.truth.panel.features.copy(), task.truth.kernel
    if len(kernel) == 1:
        return features
    column = task.truth.columns[0]
    past = features[:, :, column].astype(np.float64)
    padded = np.concatenate([np.repeat(past[:1], len(kernel) - 1, axis=0), past])
    features[:, :, column] = sum(
        weight * padded[len(kernel) - 1 - lag : len(padded) - lag] for lag, weight in enumerate(kernel)
    )
    return features


def with_products(task: Task) -> Features:
    """The features (T, A, F) and all their F (F - 1) / 2 pairwise products. Their means are 0 by construction."""
    x = task.truth.panel.features
    first, second = np.array(list(combinations(range(x.shape[2]), 2))).T
    return np.concatenate([x, x[:, :, first] * x[:, :, second]], axis=2)


REGRESSIONS: Mapping[str, Callable[[Task], list[FoldForecast]]] = {
    "ridge": lambda task: regress(task, task.truth.panel.features, ridge),
    "trees": lambda task: regress(task, task.truth.panel.features, boosted_trees),
    "lags": lambda task: regress(task, with_right_lags(task), ridge),
    "products": lambda task: regress(task, with_products(task), ridge),
    "ridge-gls": lambda task: regress(task, task.truth.panel.features, ridge, generalised=True),
    "lags-gls": lambda task: regress(task, with_right_lags(task), ridge, generalised=True),
    "products-gls": lambda task: regress(task, with_products(task), ridge, generalised=True),
}

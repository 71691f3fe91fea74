"""Regressions of the scaled label on the features of its own cell: ridge, and gradient-boosted trees.

A regression is fitted once and forecasts at every strength of its regularisation, so that a strength can be chosen by
the error on other bars without fitting again.

Shapes: F features, M cells (bar, instrument) of a block, P strengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

Array = NDArray[np.float64]
Features = NDArray[np.float32]

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Ridge penalties per training cell."""

N_TREES = (10, 20, 40, 80, 160, 320)
TREE_PARAMETERS = {
    "objective": "regression",
    "learning_rate": 0.05,
    "num_leaves": 8,
    "min_data_in_leaf": 20,
    "max_bin": 63,
    "bin_construct_sample_cnt": 5000,
    "feature_fraction": 0.25,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "seed": 0,
    "verbosity": -1,
}
"""Shallow trees and small steps: a fold has few cells and little signal."""


class Cells(NamedTuple):
    """Labelled cells of a block: standardised features x (M, F), NaN = missing, and scaled labels y (M,)."""

    x: Features
    y: Array


Forecasts = Callable[[Features], Array]
"""A fitted regression: from x (M, F) to mu (M, P), in units of the scaled label, a column for each strength."""


@dataclass(frozen=True)
class Regression:
    """A regression and the strengths of its regularisation: a penalty, or a number of trees."""

    strengths: tuple[float, ...]
    """(P,)"""
    fit: Callable[[Cells], Forecasts]


def ridge(train: Cells, penalties: Sequence[float] = PENALTIES) -> Forecasts:
    """Ridge regression at each penalty; a missing feature is its mean.

    The normal equations have the smaller of the numbers of columns and of cells, so that the cost grows linearly with
    the columns once they are more than the cells.
    """
    many = np.asarray(penalties)
    x = np.nan_to_num(train.x.astype(np.float64), nan=0.0)
    # One target a penalty: all of them are solved from one product of x with itself.
    fitted = Ridge(alpha=len(x) * many, solver="cholesky").fit(x, np.repeat(train.y[:, None], len(many), axis=1))

    def forecasts(x: Features) -> Array:
        return np.asarray(fitted.predict(np.nan_to_num(x.astype(np.float64), nan=0.0)).reshape(len(x), len(many)))

    return forecasts


def boosted_trees(train: Cells) -> Forecasts:
    """LightGBM's gradient-boosted trees, of which the first N_TREES forecast."""
    import lightgbm

    grown = lightgbm.train(
        dict(TREE_PARAMETERS), lightgbm.Dataset(train.x, train.y, params=dict(TREE_PARAMETERS)), N_TREES[-1]
    )

    def forecasts(x: Features) -> Array:
        return np.stack([grown.predict(x, num_iteration=number, num_threads=1) for number in N_TREES], axis=1)

    return forecasts


RIDGE_REGRESSION = Regression(PENALTIES, ridge)
TREE_REGRESSION = Regression(tuple(float(number) for number in N_TREES), boosted_trees)


def squared_error(forecasts: Forecasts, cells: Cells) -> Array:
    """Squared error (M, P) of each cell's forecast at each strength."""
    return np.asarray((forecasts(cells.x) - cells.y[:, None]) ** 2)

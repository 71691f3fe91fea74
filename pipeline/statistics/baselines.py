"""Simple rules and regressions in the model's place: same bars, delay, volatility scaling and costs.

A baseline makes raw positions in [-1, 1] from information up to and including their bar. From there on they are
handled as the model's own are (by `tft.record.stitch`, say), so that only the forecast differs. Rules read past returns
alone; regressions read the model's columns and are fitted anew in every fold, on the rows that the model trains on.

Shapes: T bars, A instruments, F features, M cells (bar, instrument) of a block that have a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr
from sklearn.linear_model import Ridge

from tft.cross_section import error_correlation, hedged
from tft.folds import Fold
from tft.panel import Panel
from tft.record import RawForecast, Record
from tft.scaling import Scaler
from tft.volatility import Timing, scaled_label

Array = NDArray[np.float64]

LONG_ONLY = "long only"
MOMENTUM = "time-series momentum"
MACD = "MACD"
RIDGE = "ridge"
TREES = "gradient-boosted trees"

TIME_SCALES = ((8, 24), (16, 48), (32, 96))
"""Fast and slow time scale of each MACD, in bars; a scale of n bars is an average with weight 1/n on the newest."""
PRICE_BARS, SIGNAL_BARS = 63, 252
"""Bars over which the price and then the signal are normalised."""

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Ridge penalties per training cell; the validation block chooses one of them."""

TREE_ROUNDS, TREE_PATIENCE = 300, 20
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


def run_baselines(
    panel: Panel,
    folds: Sequence[Fold],
    features: Sequence[Sequence[str]],
    sigma: Array,
    timing: Timing,
    stitched: Callable[[Sequence[RawForecast]], Record],
    *,
    cross_section: bool = False,
    test_until: int | None = None,
) -> dict[str, Record]:
    """The out-of-sample record of every baseline, over the folds' test bars.

    `features`: the columns of `panel` that the regressions read, fold by fold. `sigma` (T, A) scales labels. `stitched`
    turns forecasts into a record, in the way that the model's were. `cross_section`: the regressions get the model's
    cross-sectional step. `test_until`: the bar up to which the last fold forecasts, as in `tft.backtest.walk`. Trees
    are grown where LightGBM is installed (extra `trees`).
    """
    tested = [fold.test for fold in folds]
    if test_until is not None:
        tested[-1] = range(tested[-1].start, max(test_until, tested[-1].stop))
    rules = {
        LONG_ONLY: np.ones_like(panel.returns),
        MOMENTUM: time_series_momentum(panel.returns, lookback_bars=round(timing.periods_per_year)),
        MACD: macd(panel.returns),
    }
    forecasts = {
        name: [RawForecast(fold, bars, raw[bars.start : bars.stop]) for fold, bars in zip(folds, tested, strict=True)]
        for name, raw in rules.items()
    }
    regressions = {RIDGE: ridge} | ({TREES: boosted_trees} if find_spec("lightgbm") else {})
    y = scaled_label(panel.returns, sigma, timing)
    for fold, bars, names in zip(folds, tested, features, strict=True):
        correlation = error_correlation(y[fold.train.start : fold.train.stop]) if cross_section else 0.0
        for name, own in _regressed(panel, y, fold, bars, names, regressions):
            raw = hedged(own, np.isfinite(own), correlation)
            forecasts.setdefault(name, []).append(RawForecast(fold, bars, raw))
    return {name: stitched(own) for name, own in forecasts.items()}


def time_series_momentum(returns: Array, *, lookback_bars: int) -> Array:
    """(T, A) sign of the return over the past `lookback_bars`; Moskowitz, Ooi & Pedersen 2012, section 4, take a year.

    It is the simple return and not the one in excess of cash, which is not known here. NaN with less history.
    """
    price = _price(returns)
    past = np.full_like(price, np.nan)
    past[lookback_bars:] = price[: max(len(price) - lookback_bars, 0)]
    return np.sign(price - past)


def macd(returns: Array) -> Array:
    """(T, A) mean of three responses to trend, each within about +-0.96: the trend signal of Baz et al. 2015.

    A trend is the difference of two exponentially weighted averages of the price, with half-lives
    log(1/2) / log(1 - 1/n), divided by the price's standard deviation over 63 bars; x is the trend divided by its own
    standard deviation over 252 bars; the response is x exp(-x^2/4) / 0.89. NaN until all of them are known, and where
    the price has not moved over the whole of a window.
    """
    price = pd.DataFrame(_price(returns))
    spread = price.rolling(PRICE_BARS).std()
    responses = []
    for fast, slow in TIME_SCALES:
        trend = price.ewm(alpha=1.0 / fast).mean() - price.ewm(alpha=1.0 / slow).mean()
        signal = trend / spread.where(spread > 0.0)
        deviation = signal.rolling(SIGNAL_BARS).std()
        x = (signal / deviation.where(deviation > 0.0)).to_numpy()
        responses.append(x * np.exp(-(x**2) / 4.0) / 0.89)
    return np.asarray(np.mean(responses, axis=0))


def _price(returns: Array) -> Array:
    """(T, A) value at each close of 1 invested; carried over bars without a trade, NaN before the first trade."""
    started = np.maximum.accumulate(np.isfinite(returns), axis=0)
    return np.where(started, np.cumprod(1.0 + np.nan_to_num(returns, nan=0.0), axis=0), np.nan)


class Cells(NamedTuple):
    """Labelled cells of a block: standardised features x (M, F), NaN = missing, and scaled labels y (M,)."""

    x: NDArray[np.float32]
    y: Array


Forecast = Callable[[NDArray[np.float32]], Array]
"""A fitted regression: from x (M, F) to mu (M,), in units of the scaled label."""
Regression = Callable[[Cells, Cells], Forecast]
"""Fits on training cells, the first argument, and chooses its penalty or its number of trees on validation cells."""


def _regressed(
    panel: Panel,
    y: Array,
    fold: Fold,
    bars: range,
    names: Sequence[str],
    regressions: Mapping[str, Regression],
) -> Iterator[tuple[str, Array]]:
    """Raw positions (n, A) of each regression over `bars`, fitted on the fold's training and validation blocks.

    They are 2 Phi(mu / sigma) - 1, as from the `joint_mle` head, where sigma is the standard deviation of the training
    residuals. NaN where no feature is known.
    """
    columns = [panel.feature_names.index(name) for name in names]

    def features(block: range) -> NDArray[np.float32]:
        return np.take(panel.features[block.start : block.stop], columns, axis=2)

    scaler = Scaler.fit(features(fold.train))

    def seen(block: range) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        x = scaler.transform(features(block))
        return x, np.asarray(np.isfinite(x).any(axis=2))

    def labelled(block: range) -> Cells:
        x, present = seen(block)
        of_block = y[block.start : block.stop]
        known = present & np.isfinite(of_block)
        assert known.any(), f"fold {fold.index}: the model was fitted on this block, so it has labelled cells"
        return Cells(x[known], of_block[known])

    train, validation = labelled(fold.train), labelled(fold.validation)
    x, present = seen(bars)
    for name, regression in regressions.items():
        forecast = regression(train, validation)
        residual = float(np.std(train.y - forecast(train.x)))
        raw = np.full(present.shape, np.nan)
        if present.any():
            with np.errstate(
                divide="ignore", invalid="ignore"
            ):  # with no residuals the position is the sign of the forecast
                raw[present] = 2.0 * ndtr(forecast(x[present]) / residual) - 1.0
        yield name, raw


def ridge(train: Cells, validation: Cells, penalties: Sequence[float] = PENALTIES) -> Forecast:
    """Ridge regression with the penalty of least squared error on validation cells; a missing feature is its mean."""
    many = np.asarray(penalties)
    x = np.nan_to_num(train.x.astype(np.float64), nan=0.0)
    # One target a penalty: all of them are solved from one product of x with itself.
    fitted = Ridge(alpha=len(x) * many, solver="cholesky").fit(x, np.repeat(train.y[:, None], len(many), axis=1))

    def forecast(x: NDArray[np.float32]) -> Array:
        return np.asarray(fitted.predict(np.nan_to_num(x.astype(np.float64), nan=0.0)).reshape(len(x), len(many)))

    error = ((forecast(validation.x) - validation.y[:, None]) ** 2).mean(axis=0)
    best = int(error.argmin())
    return lambda x: forecast(x)[:, best]


def boosted_trees(train: Cells, validation: Cells) -> Forecast:
    """LightGBM's gradient-boosted trees; training stops where the squared error on validation cells stops falling."""
    import lightgbm

    data = lightgbm.Dataset(train.x, train.y, params=dict(TREE_PARAMETERS))
    grown = lightgbm.train(
        dict(TREE_PARAMETERS),
        data,
        num_boost_round=TREE_ROUNDS,
        valid_sets=[lightgbm.Dataset(validation.x, validation.y, reference=data)],
        callbacks=[lightgbm.early_stopping(TREE_PATIENCE, verbose=False)],
    )
    return lambda x: np.asarray(grown.predict(x, num_threads=1))

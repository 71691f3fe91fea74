"""Simple rules, regressions and a plain LSTM in the model's place: same bars, delay, volatility scaling and costs.

A baseline makes raw positions in [-1, 1] from information up to and including their bar. From there on they are
handled as the model's own are (by `tft.record.stitch`, say), with two differences that give them a fair chance:

- Nothing is inherited that was chosen for the network. What learns reads all columns that prefilter kept. The cap is
  the configured one in every fold: it is the limit of a book and not a part of a forecast, and one that was tuned fold
  by fold would time a rule that knows nothing of it. No baseline gets the model's factor on positions
  (`tft.backtest.gain_for_volatility`): it brings a portfolio to its volatility, and all records are compared at one.
- What regularises is a baseline's own, chosen before anything is scored: the strength of a regression by the squared
  error on validation blocks, then the smoothing of positions by the net Sharpe of the stitched record.

Rules read past returns alone; what learns is fitted anew in every fold, on the rows that the model trains on. The LSTM
stops by its fold's own validation block, as in its paper.

Shapes: T bars, A instruments, F features, P strengths, n bars of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import ndtr

from pipeline.statistics.position_lstm import fit_position_lstm
from pipeline.statistics.regressions import (
    RIDGE_REGRESSION,
    TREE_REGRESSION,
    Cells,
    Features,
    Regression,
    squared_error,
)
from tft.cross_section import error_correlation, hedged
from tft.folds import Fold
from tft.metrics import MIN_INFERENCE_BARS, sharpe
from tft.panel import Panel
from tft.positions import PositionsConfig
from tft.record import RawForecast, Record
from tft.scaling import Scaler
from tft.volatility import Timing, scaled_label

Array = NDArray[np.float64]

LONG_ONLY = "long only"
MOMENTUM = "time-series momentum"
MACD = "MACD"
RIDGE = "ridge"
TREES = "gradient-boosted trees"
LSTM = "LSTM"

TIME_SCALES = ((8, 24), (16, 48), (32, 96))
"""Fast and slow time scale of each MACD, in bars; a scale of n bars is an average with weight 1/n on the newest."""
PRICE_BARS, SIGNAL_BARS = 63, 252
"""Bars over which the price and then the signal are normalised."""

SMOOTHINGS = (0.0, 0.25, 0.5, 0.75, 0.9)
"""What a baseline's `position_smooth` is chosen from, besides the configured one."""

Stitch = Callable[[Sequence[RawForecast], Mapping[int, PositionsConfig]], Record]
"""From forecasts, and the positions of each fold by its index, to a record."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """The out-of-sample record of a baseline, and what was chosen for it."""

    record: Record
    position_smooth: tuple[float, ...]
    """Smoothing of positions that each fold chose."""
    strength: tuple[float, ...] = ()
    """What each fold chose: the penalty of ridge per training cell, the number of trees; empty where there is none."""


@dataclass(frozen=True)
class NetworkSettings:
    """How the plain LSTM is fitted."""

    seed: int
    device: torch.device


def run_baselines(
    panel: Panel,
    folds: Sequence[Fold],
    features: Sequence[Sequence[str]],
    sigma: Array,
    timing: Timing,
    stitched: Stitch,
    *,
    positions: PositionsConfig,
    chosen_before: Sequence[int],
    cross_section: bool = False,
    test_until: int | None = None,
    lstm: NetworkSettings | None = None,
) -> dict[str, Baseline]:
    """Every baseline over the folds' test bars.

    features: the columns of `panel` that each fold's regressions and network read · sigma: (T, A), scales labels ·
    positions: cap, volatility target and costs, and the smoothing where there are too few bars to choose one ·
    chosen_before: for each fold the bar before which the labels end that its strength and smoothing are chosen by; the
    end of the first fold's validation block at least, before which nothing is scored · cross_section: what learns gets
    the model's cross-sectional step · test_until: the bar up to which the last fold forecasts, as in
    `tft.backtest.walk` · lstm: left out if None. Trees are grown where LightGBM is installed (extra `trees`).
    """
    before = [max(bar, folds[0].validation.stop) for bar in chosen_before]
    assert before == sorted(before), "folds in order, each chosen on what those before it had and more"
    tested = [fold.test for fold in folds]
    if test_until is not None:
        tested[-1] = range(tested[-1].start, max(test_until, tested[-1].stop))
    y = scaled_label(panel.returns, sigma, timing)
    rules = {
        LONG_ONLY: np.ones_like(panel.returns),
        MOMENTUM: time_series_momentum(panel.returns, lookback_bars=round(timing.periods_per_year)),
        MACD: macd(panel.returns),
    }
    raw = {name: [rule[bars.start : bars.stop] for bars in tested] for name, rule in rules.items()}
    regressions = {RIDGE: RIDGE_REGRESSION} | ({TREES: TREE_REGRESSION} if find_spec("lightgbm") else {})
    fitted: dict[str, list[_Fitted]] = {name: [] for name in regressions}
    of_lstm = []
    for fold, bars, names in zip(folds, tested, features, strict=True):
        for name, one in _regressed(panel, y, fold, bars, names, regressions):
            fitted[name].append(one)
        if lstm:
            read = panel.select(names).features
            of_lstm.append(fit_position_lstm(read, y, fold, bars, seed=lstm.seed, device=lstm.device)[0])
    strengths, learned = {}, {}
    for name, regression in regressions.items():
        best = _least_error(fitted[name], before, timing)
        strengths[name] = tuple(regression.strengths[i] for i in best)
        learned[name] = [one.raw[:, :, i] for one, i in zip(fitted[name], best, strict=True)]
    if lstm:
        learned[LSTM] = of_lstm
    correlations = [error_correlation(y[f.train.start : f.train.stop]) if cross_section else 0.0 for f in folds]
    for name, blocks in learned.items():
        raw[name] = [hedged(own, np.isfinite(own), r) for own, r in zip(blocks, correlations, strict=True)]
    found = {}
    for name, blocks in raw.items():
        forecasts = [RawForecast(*one) for one in zip(folds, tested, blocks, strict=True)]
        record, smoothing = _smoothed(forecasts, before, stitched, positions)
        found[name] = Baseline(record, smoothing, strengths.get(name, ()))
    return found


# ---- rules


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


# ---- regressions


@dataclass(frozen=True, eq=False)
class _Fitted:
    """A regression fitted on one fold."""

    raw: Array
    """(n, A, P) raw positions over the test bars at each strength; NaN where no feature is known."""
    error: Array
    """(M, P) squared errors of the labelled cells of the validation block."""
    error_bars: NDArray[np.int64]
    """(M,) their bars."""


def _regressed(
    panel: Panel,
    y: Array,
    fold: Fold,
    bars: range,
    names: Sequence[str],
    regressions: Mapping[str, Regression],
) -> Iterator[tuple[str, _Fitted]]:
    """Each regression fitted on the fold's training block, with its raw positions over `bars`.

    They are 2 Phi(mu / sigma) - 1, as from the `joint_mle` head, where sigma is the standard deviation of the training
    residuals.
    """
    columns = [panel.feature_names.index(name) for name in names]

    def features(block: range) -> Features:
        return np.take(panel.features[block.start : block.stop], columns, axis=2)

    scaler = Scaler.fit(features(fold.train))

    def seen(block: range) -> tuple[Features, NDArray[np.bool_]]:
        x = scaler.transform(features(block))
        return x, np.asarray(np.isfinite(x).any(axis=2))

    def labelled(block: range) -> tuple[Cells, NDArray[np.int64]]:
        x, present = seen(block)
        of_block = y[block.start : block.stop]
        known = present & np.isfinite(of_block)
        assert known.any(), f"fold {fold.index}: the model was fitted on this block, so it has labelled cells"
        return Cells(x[known], of_block[known]), block.start + np.nonzero(known)[0]

    train, _ = labelled(fold.train)
    validation, error_bars = labelled(fold.validation)
    x, present = seen(bars)
    for name, regression in regressions.items():
        forecasts = regression.fit(train)
        residual = np.std(train.y[:, None] - forecasts(train.x), axis=0)
        raw = np.full((*present.shape, len(regression.strengths)), np.nan)
        if present.any():
            # With no residuals the position is the sign of the forecast.
            with np.errstate(divide="ignore", invalid="ignore"):
                raw[present] = 2.0 * ndtr(forecasts(x[present]) / residual) - 1.0
        yield name, _Fitted(raw, squared_error(forecasts, validation), error_bars)


def _least_error(fitted: Sequence[_Fitted], before: Sequence[int], timing: Timing) -> list[int]:
    """The strength of each fold, by its number: that of least squared error over all cells of validation blocks whose
    label ends before the fold's bar `before`; the one in the middle where there are none.

    A later fold counts for an earlier one where both choose before the same bar: where they do not, its columns were
    chosen with bars that the earlier fold may not see.
    """
    chosen = []
    for bar in before:
        seen = [
            one.error[one.error_bars + timing.label_bars < bar]
            for one, at in zip(fitted, before, strict=True)
            if at <= bar
        ]
        errors = np.concatenate(seen)
        chosen.append(int(errors.sum(axis=0).argmin()) if len(errors) else errors.shape[1] // 2)
    return chosen


# ---- the smoothing of positions


def _smoothed(
    forecasts: Sequence[RawForecast], before: Sequence[int], stitched: Stitch, positions: PositionsConfig
) -> tuple[Record, tuple[float, ...]]:
    """The record with each fold's own smoothing, and these: of SMOOTHINGS and the configured one that of the highest
    net Sharpe over the bars whose label ends before the fold's bar `before`, in the record that has it throughout; the
    configured one where these bars are fewer than MIN_INFERENCE_BARS.
    """

    def record(of_folds: Sequence[float]) -> Record:
        pairs = zip(forecasts, of_folds, strict=True)
        return stitched(forecasts, {one.fold.index: replace(positions, position_smooth=own) for one, own in pairs})

    configured = positions.position_smooth
    records = {each: record([each] * len(forecasts)) for each in sorted({*SMOOTHINGS, configured})}

    def best(bar: int) -> float:
        def net_sharpe(each: float) -> float:
            one = records[each]
            net = one.net()[one.bars + one.timing.label_bars < bar]
            if np.isfinite(net).sum() < MIN_INFERENCE_BARS:
                return -np.inf
            known = sharpe(net, periods_per_year=one.timing.periods_per_year)
            return known if np.isfinite(known) else -np.inf

        return max(records, key=lambda each: (net_sharpe(each), each == configured))

    by_bar = {bar: best(bar) for bar in set(before)}
    chosen = tuple(by_bar[bar] for bar in before)
    return record(chosen), chosen

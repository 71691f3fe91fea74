"""The walk-forward: fit each fold, forecast its test bars, summarise its validation, tabulate the folds.

Shapes: V variables, A instruments, E epochs, n bars of a block, M cells (bar, instrument) of a block, D parameters of
the distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tft.cross_section import hedged
from tft.fold_store import FoldFit
from tft.folds import Fold
from tft.forecast import on_grid, probability_of_up
from tft.market import Market
from tft.metrics import MIN_BARS, annual_volatility, sharpe
from tft.panel import Panel
from tft.positions import PositionsConfig, portfolio_return, position_path
from tft.record import RawForecast, Record, block_earnings
from tft.runtime.store import Store
from tft.train import EpochReport, Recipe, forecast_fit, map_fits, per_fold, selection_of_fit
from tft.volatility import Timing

MAX_GAIN = 5.0
"""Largest factor on raw positions"""
MAX_CAPPED = 0.1
"""Largest share of the validation block's positions that the gain may bring to the cap"""
GAIN_HALVINGS = 10


def validation_returns(
    raw_positions: NDArray[np.floating],
    bars: range,
    panel: Panel,
    sigma: NDArray[np.float64],
    positions: PositionsConfig,
    timing: Timing,
) -> NDArray[np.float64]:
    """Net portfolio returns (E, n) that the raw positions (E, n, A) forecast after each epoch would have earned.

    `bars` are the n bars of the block, `sigma` (T, A) covers the whole panel. Each epoch's path starts flat.
    """
    out = []
    traded = np.isfinite(panel.returns[bars.start : bars.stop])
    for raw in raw_positions:
        path = position_path(raw.astype(np.float64), sigma[bars.start : bars.stop], positions, timing, traded=traded)
        out.append(portfolio_return(block_earnings(path.position, bars, panel.returns, positions, timing).net))
    return np.stack(out)


def best_sharpe(returns: NDArray[np.float64], timing: Timing) -> float:
    """The highest annual Sharpe of returns (E, n) after any epoch; NaN if it is defined for none."""
    sharpes = [sharpe(epoch, periods_per_year=timing.periods_per_year) for epoch in returns]
    return max((value for value in sharpes if np.isfinite(value)), default=float("nan"))


def gain_for_volatility(
    raw: NDArray[np.float64],
    bars: range,
    panel: Panel,
    sigma: NDArray[np.float64],
    positions: PositionsConfig,
    timing: Timing,
) -> float:
    """Factor within [1, MAX_GAIN] on raw positions (n, A) over the n `bars` that brings the portfolio's annual
    volatility there nearest to `vol_target`, with at most MAX_CAPPED of the positions at the cap; 1 if it is not known.

    An honest forecast of a daily return is small, and its positions take up a fraction of the volatility aimed at.
    Instruments that offset each other, or a low cap, can put the target out of reach; beyond a few capped positions
    more gain would trade the sign of a forecast and no longer its size, which is not what was trained.
    """

    def volatility(gain: float) -> float:
        (returns,) = validation_returns(gain * raw[None], bars, panel, sigma, positions, timing)
        known = returns[np.isfinite(returns)]
        return annual_volatility(known, periods_per_year=timing.periods_per_year) if len(known) >= MIN_BARS else np.inf

    size = np.abs(raw[np.isfinite(raw)])
    largest = float(np.quantile(size, 1.0 - MAX_CAPPED)) if len(size) else 0.0
    low, high = 1.0, MAX_GAIN if largest == 0.0 else float(np.clip(positions.max_position / largest, 1.0, MAX_GAIN))
    if volatility(low) >= positions.vol_target:
        return low
    if volatility(high) <= positions.vol_target:
        return high
    for _ in range(GAIN_HALVINGS):  # volatility grows with the gain, up to where all positions are capped
        middle = 0.5 * (low + high)
        low, high = (middle, high) if volatility(middle) < positions.vol_target else (low, middle)
    return 0.5 * (low + high)


@dataclass(frozen=True, eq=False)
class FoldOutcome:
    """Forecast, learning curves and selection weights of one fitted fold."""

    forecast: RawForecast
    """Raw positions over the test bars, after the cross-sectional step and the gain"""
    distribution: NDArray[np.float64]
    """(n, A, D) distributions forecast for the labels of the test bars, in units of sigma_t * sqrt(horizon): mu and
    sigma, the quantiles, or nothing (D = 0), depending on the loss mode; NaN = no forecast"""
    probability_up: NDArray[np.float64]
    """(n, A) P(label > 0) by that distribution, of several seeds the mean; NaN = no forecast, or no distribution"""
    kept_epoch: int
    """Counted from 0"""
    train_loss: NDArray[np.float64]
    """(E,) mean over the steps of each epoch"""
    validation_score: NDArray[np.float64]
    """(E,) not smoothed; lower is better"""
    validation_position: NDArray[np.float64]
    """(n_validation, A) raw positions at the kept epoch, likewise"""
    epoch_positions: tuple[NDArray[np.float64], ...]
    """Of each seed (E, n_validation, A) raw positions after each epoch, likewise"""
    validation_returns: NDArray[np.float64]
    """(E, n_validation) net portfolio returns after each epoch"""
    val_sharpe: float
    """Annual net validation Sharpe at the kept epoch; NaN where it is not defined"""
    val_sharpe_best_epoch: float
    """The highest validation Sharpe of any epoch; NaN if it is defined for none"""
    vsn_weight: NDArray[np.float64]
    """(V,) mean VSN weight over the validation rows in which the variable is present; NaN if there are none"""
    vsn_weight_relative: NDArray[np.float64]
    """(V,) mean of the VSN weight times the number of variables present in the row; 1 is a uniform selection"""
    skipped_steps: int
    """Updates left out because a gradient was not finite"""
    seconds: float
    """Wall time of the fold's stack, shared equally among its folds"""
    stack_size: int
    """Number of folds trained in one stack, this one included"""
    gain: float = 1.0
    """Factor that the raw positions hold, see `gain_for_volatility`"""

    @property
    def fold(self) -> Fold:
        return self.forecast.fold


def walk(
    market: Market,
    folds: Sequence[Fold],
    recipe: Recipe | Sequence[Recipe],
    *,
    test_until: int | None = None,
    stack_size: int | None = None,
    store: Store | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Iterator[tuple[FoldFit, FoldOutcome]]:
    """Fit the folds and, with each fold's kept weights, forecast its test bars and summarise its validation rows.

    Yields (fit, outcome) in the order of `folds`. `recipe`, `stack_size`, `store` and `on_epoch` are those of
    `fit_folds`. The last fold that has a test block
    forecasts up to bar `test_until` (exclusive) if it is given, so that bars without a label have a forecast too.
    Raises what `fit_folds` raises.
    """
    recipes = per_fold(recipe, len(folds))
    last = max((fold.index for fold in folds if fold.test), default=None)

    def evaluated(number: int, fit: FoldFit) -> tuple[FoldFit, FoldOutcome]:
        bars = fit.fold.test
        if test_until is not None and fit.fold.index == last:
            bars = range(bars.start, max(test_until, bars.stop))
        return fit, _outcome(fit, market, recipes[number], bars)

    return map_fits(evaluated, market, folds, recipe, stack_size=stack_size, store=store, on_epoch=on_epoch)


def forecast_bars(
    fit: FoldFit, market: Market, recipe: Recipe, bars: range
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the kept weights forecast for n bars: raw positions (n, A) after the cross-sectional step, without a gain,
    and distributions (n, A, D); NaN = no forecast.
    """
    n_assets = len(market.panel.symbols)
    if not len(bars):
        return np.empty((0, n_assets)), np.empty((0, n_assets, 0))
    forecasts, cells = forecast_fit(fit, market, recipe, bars)
    raw, distribution = (
        on_grid(values, cells, bars, n_assets) for values in (forecasts.position, forecasts.distribution)
    )
    return hedged(raw, np.isfinite(raw), fit.correlation), distribution


def _outcome(fit: FoldFit, market: Market, recipe: Recipe, test_bars: range) -> FoldOutcome:
    """Forecast `test_bars` with the kept weights, and summarise the validation block."""
    panel, timing = market.panel, market.timing
    raw, distribution = forecast_bars(fit, market, recipe, test_bars)
    validation = fit.validation_position.astype(np.float64)
    validation = hedged(validation, np.isfinite(validation), fit.correlation)
    weight, relative = _selection_weights(fit, market, recipe)
    returns = validation_returns(validation, fit.fold.validation, panel, market.sigma, recipe.positions, timing)
    return FoldOutcome(
        forecast=RawForecast(fit.fold, test_bars, raw),
        distribution=distribution,
        probability_up=probability_of_up(distribution),
        kept_epoch=fit.kept_epoch,
        train_loss=fit.train_loss,
        validation_score=fit.validation_score,
        validation_position=validation[fit.kept_epoch],
        epoch_positions=(validation,),
        validation_returns=returns,
        val_sharpe=sharpe(returns[fit.kept_epoch], periods_per_year=timing.periods_per_year),
        val_sharpe_best_epoch=best_sharpe(returns, timing),
        vsn_weight=weight,
        vsn_weight_relative=relative,
        skipped_steps=fit.skipped_steps,
        seconds=fit.seconds,
        stack_size=len(fit.stack),
    )


def _selection_weights(fit: FoldFit, market: Market, recipe: Recipe) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean VSN weight (V,) by variable over the validation rows, and the mean relative to a uniform selection (V,)."""
    weights, cells = selection_of_fit(fit, market, recipe, fit.fold.validation)  # (M, V), (M,)
    rows = market.panel.features.reshape(-1, len(market.panel.feature_names))[cells]  # (M, V)
    present = np.isfinite(rows) & np.isfinite(fit.scaler.std)
    count = present.sum(axis=0)
    weights = np.where(present, weights, 0.0)
    with np.errstate(invalid="ignore"):
        mean = weights.sum(axis=0) / np.where(count > 0, count, np.nan)
        relative = (weights * present.sum(axis=1, keepdims=True)).sum(axis=0) / np.where(count > 0, count, np.nan)
    return mean, relative


@dataclass(frozen=True)
class FoldRow:
    """One row of the fold table. ISO times are those of a block's first and last bar; Sharpes are annual and net."""

    fold: int
    train_start: str
    train_end: str
    validation_start: str
    validation_end: str
    test_start: str | None
    test_end: str | None
    n_epochs: int
    kept_epoch: int
    val_sharpe: float | None
    """Validation Sharpe at the kept epoch"""
    val_sharpe_best_epoch: float | None
    """The highest validation Sharpe of any epoch, as selecting the epoch by it would have reported"""
    oos_sharpe: float | None
    val_oos_gap: float | None
    segment: str | None
    seconds: float
    skipped_steps: int = 0
    """Updates left out because a gradient was not finite"""
    stack_size: int = 1
    """Number of folds trained in one stack, this one included"""
    gain: float = 1.0
    """Factor that the raw positions hold, see `gain_for_volatility`"""


def fold_row(outcome: FoldOutcome, record: Record, times: NDArray[np.datetime64]) -> FoldRow:
    """The row of the fold table for `outcome`, with out-of-sample figures from `record`; `times` (T,) of the panel."""
    fold = outcome.fold
    val_sharpe = _known(outcome.val_sharpe)
    oos_sharpe = record.fold_sharpe(fold.index) if len(fold.test) else None

    def first(block: range) -> str:
        return str(times[block.start])

    def last(block: range) -> str:
        return str(times[block.stop - 1])

    segments = record.segment[(record.fold == fold.index).any(axis=1)]
    return FoldRow(
        fold=fold.index,
        train_start=first(fold.train),
        train_end=last(fold.train),
        validation_start=first(fold.validation),
        validation_end=last(fold.validation),
        test_start=first(fold.test) if len(fold.test) else None,
        test_end=last(fold.test) if len(fold.test) else None,
        n_epochs=len(outcome.train_loss),
        kept_epoch=outcome.kept_epoch,
        val_sharpe=val_sharpe,
        val_sharpe_best_epoch=_known(outcome.val_sharpe_best_epoch),
        oos_sharpe=oos_sharpe,
        val_oos_gap=None if val_sharpe is None or oos_sharpe is None else val_sharpe - oos_sharpe,
        segment="/".join(dict.fromkeys(segments.tolist())) or None,
        seconds=outcome.seconds,
        skipped_steps=outcome.skipped_steps,
        stack_size=outcome.stack_size,
        gain=outcome.gain,
    )


def _known(value: float) -> float | None:
    """The value; None where it is not finite."""
    return float(value) if np.isfinite(value) else None

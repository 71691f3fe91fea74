"""The walk-forward: each fold fitted, its test bars forecast, and what it leaves behind.

Shapes: V variables, A instruments, E epochs, n bars of a block, M cells (bar, instrument) of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tft.fold_store import FoldFit
from tft.folds import Fold
from tft.market import Market
from tft.metrics import sharpe
from tft.panel import Panel
from tft.positions import PositionsConfig, portfolio_return, position_path
from tft.record import RawForecast, Record, block_earnings
from tft.runtime.store import Store
from tft.train import EpochReport, Recipe, forecast_fit, map_fits, per_fold, selection_of_fit
from tft.volatility import Timing


def validation_returns(
    raw_positions: NDArray[np.floating],
    bars: range,
    panel: Panel,
    sigma: NDArray[np.float64],
    positions: PositionsConfig,
    timing: Timing,
) -> NDArray[np.float64]:
    """Net portfolio returns (E, n) of raw positions (E, n, A) after each epoch, each path starting flat."""
    out = []
    traded = np.isfinite(panel.returns[bars.start : bars.stop])
    for raw in raw_positions:
        path = position_path(raw.astype(np.float64), sigma[bars.start : bars.stop], positions, timing, traded=traded)
        out.append(portfolio_return(block_earnings(path.position, bars, panel.returns, positions, timing).net))
    return np.stack(out)


@dataclass(frozen=True, eq=False)
class FoldOutcome:
    """What a fitted fold leaves behind besides its weights."""

    forecast: RawForecast
    """Raw positions of its test bars."""
    kept_epoch: int
    train_loss: NDArray[np.float64]
    """(E,)"""
    validation_score: NDArray[np.float64]
    """(E,)"""
    validation_position: NDArray[np.float64]
    """(n_validation, A) raw, at the kept epoch"""
    validation_returns: NDArray[np.float64]
    """(E, n_validation) net portfolio returns after each epoch"""
    val_sharpe: float
    """Annual, net, at the kept epoch; NaN where it is not defined."""
    val_sharpe_best_epoch: float
    """The best over epochs; NaN where none is defined."""
    vsn_weight: NDArray[np.float64]
    """(V,) mean over the validation rows in which the variable is present; NaN if in none"""
    vsn_weight_relative: NDArray[np.float64]
    """(V,) the same, each row times its number of variables present: 1 is uniform"""
    skipped_steps: int
    seconds: float
    stack_size: int

    @property
    def fold(self) -> Fold:
        return self.forecast.fold


def walk(
    market: Market,
    folds: Sequence[Fold],
    recipe: Recipe | Sequence[Recipe],
    positions: PositionsConfig | Sequence[PositionsConfig],
    *,
    test_until: int | None = None,
    stack: int | None = None,
    store: Store | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Iterator[tuple[FoldFit, FoldOutcome]]:
    """Fit the folds, forecast each one's test bars with its kept weights, and read its VSN off its validation rows.

    Yields them in the order of the folds. `recipe`, `stack`, `keep` and `on_epoch` are those of `fit_folds`;
    `positions` is one for all folds, or one each. `test_until`: the last fold that has a test block forecasts up to
    this bar, so that the bars without a label have a forecast too.
    In the order of the folds; `recipe`, `stack`, `store` and `on_epoch` as in `fit_folds`; `positions` of all folds, or
    one each. `test_until`: the last fold that tests any bars goes on forecasting up to this one, for the bars that have
    no label yet.
    """
    recipes, all_positions = per_fold(recipe, len(folds)), per_fold(positions, len(folds))
    last = max((fold.index for fold in folds if fold.test), default=None)

    def followed(number: int, fit: FoldFit) -> tuple[FoldFit, FoldOutcome]:
        bars = fit.fold.test
        if test_until is not None and fit.fold.index == last:
            bars = range(bars.start, max(test_until, bars.stop))
        return fit, _outcome(fit, market, recipes[number], all_positions[number], bars)

    return map_fits(followed, market, folds, recipe, stack=stack, store=store, on_epoch=on_epoch)


def _outcome(fit: FoldFit, market: Market, recipe: Recipe, positions: PositionsConfig, test_bars: range) -> FoldOutcome:
    panel, timing, n_assets = market.panel, market.timing, len(market.panel.symbols)
    raw = np.full((len(test_bars), n_assets), np.nan)
    if len(test_bars):
        forecasts, cells = forecast_fit(fit, market, recipe, test_bars)
        raw.reshape(-1)[cells - test_bars.start * n_assets] = forecasts.position
    weight, relative = _selection_weights(fit, market, recipe)
    returns = validation_returns(fit.validation_position, fit.fold.validation, panel, market.sigma, positions, timing)
    sharpes = [sharpe(one, periods_per_year=timing.periods_per_year) for one in returns]
    return FoldOutcome(
        forecast=RawForecast(fit.fold, test_bars, raw),
        kept_epoch=fit.kept_epoch,
        train_loss=fit.train_loss,
        validation_score=fit.validation_score,
        validation_position=fit.validation_position[fit.kept_epoch].astype(np.float64),
        validation_returns=returns,
        val_sharpe=sharpes[fit.kept_epoch],
        val_sharpe_best_epoch=max((one for one in sharpes if np.isfinite(one)), default=float("nan")),
        vsn_weight=weight,
        vsn_weight_relative=relative,
        skipped_steps=fit.skipped_steps,
        seconds=fit.seconds,
        stack_size=len(fit.stack),
    )


def _selection_weights(fit: FoldFit, market: Market, recipe: Recipe) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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
    """One line of the fold table. Bounds are first and last bar of a block (ISO times); Sharpes are annual and net."""

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
    """At the kept epoch."""
    val_sharpe_best_epoch: float | None
    """The best over epochs: what picking the epoch by it would have shown."""
    oos_sharpe: float | None
    val_oos_gap: float | None
    segment: str | None
    seconds: float
    skipped_steps: int = 0
    """Updates left out because a gradient was not finite."""
    stack_size: int = 1
    """Folds trained as one with it."""


def fold_row(outcome: FoldOutcome, record: Record, times: NDArray[np.datetime64]) -> FoldRow:
    """The fold's line of the fold table, its out-of-sample figures from `record`; `times` (T,) are the panel's."""
    fold = outcome.fold
    val_sharpe = _known(outcome.val_sharpe)
    oos_sharpe = record.fold_sharpe(fold.index) if len(fold.test) else None

    def first(block: range) -> str:
        return str(times[block.start])

    def last(block: range) -> str:
        return str(times[block.stop - 1])

    own = record.segment[(record.fold == fold.index).any(axis=1)]
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
        segment="/".join(dict.fromkeys(own.tolist())) or None,
        seconds=outcome.seconds,
        skipped_steps=outcome.skipped_steps,
        stack_size=outcome.stack_size,
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

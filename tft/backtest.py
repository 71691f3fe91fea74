"""Folds to one stitched out-of-sample record.

Shapes: T bars of the panel, A instruments, V variables, E epochs, n bars of a block, M targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tft.fold_store import FoldFit
from tft.folds import Fold
from tft.market import Market
from tft.metrics import MIN_BARS, Performance, performance, sharpe
from tft.panel import Panel
from tft.positions import Earnings, PositionsConfig, earnings, portfolio_return, position_path
from tft.runtime.store import Store
from tft.train import EpochReport, Recipe, forecast_fit, map_fits, per_fold, selection_of_fit
from tft.volatility import Timing

Segment = Literal["development", "between", "holdout"]
SEGMENTS: tuple[Segment, ...] = ("development", "between", "holdout")


@dataclass(frozen=True, eq=False)
class RawForecast:
    """Raw positions (n, A) of one fold's test bars, NaN = no forecast."""

    fold: Fold
    bars: range
    raw_position: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Record:
    """The out-of-sample record over the bars [start, stop) of the panel; arrays (n, A) unless said otherwise."""

    bars: range
    times: NDArray[np.datetime64]
    """(n,) of decision"""
    symbols: tuple[str, ...]
    fold: NDArray[np.int64]
    """Index of the fold that owns the forecast; -1 where there is none and the position is carried."""
    raw_position: NDArray[np.float64]
    position: NDArray[np.float64]
    earned: Earnings
    segment: NDArray[np.str_]
    """(n,)"""
    timing: Timing

    def net(self) -> NDArray[np.float64]:
        """(n,) portfolio return by bar of decision, after costs; NaN where it is not known."""
        return portfolio_return(self.earned.net)

    def gross(self) -> NDArray[np.float64]:
        """(n,) before costs."""
        return portfolio_return(self.earned.gross)

    def performance(self, segment: Segment) -> Performance | None:
        """Figures over one segment; None where it has fewer than MIN_BARS known bars."""
        return self._performance(self.segment == segment)

    def _performance(self, rows: NDArray[np.bool_]) -> Performance | None:
        return performance(
            self.net()[rows],
            self.gross()[rows],
            self.position[rows],
            self.earned.held_return[rows],
            self.earned.change[rows],
            periods_per_year=self.timing.periods_per_year,
        )

    def fold_sharpe(self, fold: int) -> float | None:
        """Annual net Sharpe over the (bar, instrument) cells the fold owns; None under MIN_BARS bars."""
        own = np.where(self.fold == fold, self.earned.net, np.nan)
        returns = portfolio_return(own)
        if np.isfinite(returns).sum() < MIN_BARS:
            return None
        return sharpe(returns, periods_per_year=self.timing.periods_per_year)

    def to_columns(self) -> Mapping[str, NDArray[np.generic]]:
        """Long table, one row per (bar, instrument) that holds a position, in order of time."""
        row, asset = np.nonzero(np.isfinite(self.position))
        cell = (row, asset)
        return {
            "time": self.times[row],
            "symbol": np.array(self.symbols)[asset],
            "fold": self.fold[cell],
            "raw_position": self.raw_position[cell],
            "position": self.position[cell],
            "return": self.earned.held_return[cell],
            "pnl": self.earned.net[cell],
            "pnl_gross": self.earned.gross[cell],
            "segment": self.segment[row],
        }


def segments(bars: range, *, n_development: int, timing: Timing) -> NDArray[np.str_]:
    """(n,) development where the label ends before bar n_development, holdout from there on, between otherwise."""
    decision = np.arange(bars.start, bars.stop)
    return np.where(
        decision + timing.label_bars < n_development,
        "development",
        np.where(decision >= n_development, "holdout", "between"),
    )


def stitch(
    forecasts: Sequence[RawForecast],
    panel: Panel,
    sigma: NDArray[np.float64],
    positions: PositionsConfig,
    timing: Timing,
    *,
    n_development: int,
) -> Record:
    """One path per instrument across fold borders, starting flat at the first test bar.

    Where test blocks overlap, a (bar, instrument) belongs to the most recently fitted fold that forecasts it. Bars
    between test blocks that do not touch are no part of the record.
    """
    bars = range(min(f.bars.start for f in forecasts), max(f.bars.stop for f in forecasts))
    raw = np.full((len(bars), len(panel.symbols)), np.nan)
    owner = np.full(raw.shape, -1, dtype=np.int64)
    for one in sorted(forecasts, key=lambda f: f.fold.index):
        rows = slice(one.bars.start - bars.start, one.bars.stop - bars.start)
        known = np.isfinite(one.raw_position)
        raw[rows][known] = one.raw_position[known]
        owner[rows][known] = one.fold.index
    rows_of_panel = slice(bars.start, bars.stop)
    traded = np.isfinite(panel.returns[rows_of_panel])
    position = position_path(raw, sigma[rows_of_panel], positions, timing, traded=traded).position
    earned = block_earnings(position, bars, panel.returns, positions, timing)
    tested = np.zeros(len(bars), dtype=bool)
    for one in forecasts:
        tested[one.bars.start - bars.start : one.bars.stop - bars.start] = True
    return Record(
        bars=bars,
        times=panel.times[bars.start : bars.stop],
        symbols=panel.symbols,
        fold=owner,
        raw_position=raw,
        position=_only(position, tested),
        earned=Earnings(*(_only(getattr(earned, each.name), tested) for each in fields(Earnings))),
        segment=segments(bars, n_development=n_development, timing=timing),
        timing=timing,
    )


def _only(values: NDArray[np.float64], rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(rows[:, None], values, np.nan)


def block_earnings(
    position: NDArray[np.float64],
    bars: range,
    returns: NDArray[np.float64],
    positions: PositionsConfig,
    timing: Timing,
) -> Earnings:
    """What positions (n, A) of `bars` earn in returns (T, A); the last bars of the panel have no return yet."""
    lead = timing.label_bars
    known = returns[bars.start : bars.stop + lead]
    longer = np.concatenate([position, np.full((len(known) - len(position), position.shape[1]), np.nan)])
    earned = earnings(longer, known, positions, timing)
    return Earnings(*(getattr(earned, each.name)[: len(position)] for each in fields(Earnings)))


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
    """Of the test bars."""
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
    """The best over epochs."""
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

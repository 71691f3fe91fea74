"""Joins the folds' forecasts to one record, each fold with its own cap and smoothing, and averages seeds.

Shapes: A instruments, E epochs, n bars of a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tft.backtest import FoldOutcome, best_sharpe, gain_for_volatility, validation_returns
from tft.forecast import mean_of_seeds, mixture
from tft.market import Market
from tft.metrics import sharpe
from tft.positions import PositionPath, PositionsConfig, position_path
from tft.recipe import Recipe
from tft.record import RawForecast, Record, block_earnings, stitch


def stitch_by_fold(
    forecasts: Sequence[RawForecast], positions: Mapping[int, PositionsConfig], market: Market, *, n_development: int
) -> Record:
    """Join forecasts to one record as `tft.record.stitch` does, with the cap and smoothing of each fold.

    positions: by index of the fold. A fold's cap and smoothing apply from the first bar that it tests to the first bar
    that the next fold tests; the path of positions continues across the border. Volatility target, leverage and costs
    are not tuned, and are the same for all folds.
    """
    panel, sigma, timing = market.panel, market.sigma, market.timing
    common = positions[forecasts[0].fold.index]
    record = stitch(forecasts, panel, sigma, common, timing, n_development=n_development)
    bars = range(forecasts[0].bars.start, forecasts[-1].bars.stop)
    borders = [*(one.bars.start for one in forecasts), bars.stop]
    paths: list[NDArray[np.float64]] = []
    before: PositionPath | None = None
    for one, (start, stop) in zip(forecasts, pairwise(borders), strict=True):
        assert start <= stop <= one.bars.stop, "test blocks in order, without bars between them"
        before = position_path(
            record.raw_position[start - bars.start : stop - bars.start],
            sigma[start:stop],
            positions[one.fold.index],
            timing,
            traded=np.isfinite(panel.returns[start:stop]),
            before=before,
        )
        paths.append(before.position)
    position = np.concatenate(paths)
    earned = block_earnings(position, bars, panel.returns, common, timing)
    return replace(record, position=position, earned=earned)


def with_gain(outcome: FoldOutcome, market: Market, recipe: Recipe) -> FoldOutcome:
    """The outcome with its raw positions multiplied by one factor, chosen on the validation block, so that the
    portfolio comes near the volatility that it aims at; with objective pooled the outcome as it is.
    """
    if recipe.training.objective == "pooled":
        return outcome
    block = outcome.fold.validation, market.panel, market.sigma, recipe.positions, market.timing
    gain = gain_for_volatility(outcome.validation_position, *block)
    if gain == 1.0:
        return outcome
    position = gain * outcome.validation_position
    (returns,) = validation_returns(position[None], *block)
    epochs = tuple(gain * of_seed for of_seed in outcome.epoch_positions)
    by_seed = [validation_returns(of_seed, *block) for of_seed in epochs]
    n_epochs = len(outcome.validation_returns)
    forecast = outcome.forecast
    return replace(
        outcome,
        forecast=RawForecast(forecast.fold, forecast.bars, gain * forecast.raw_position),
        validation_position=position,
        epoch_positions=epochs,
        validation_returns=np.stack([of_seed[:n_epochs] for of_seed in by_seed]).mean(axis=0),
        val_sharpe=sharpe(returns, periods_per_year=market.timing.periods_per_year),
        val_sharpe_best_epoch=float(np.mean([best_sharpe(of_seed, market.timing) for of_seed in by_seed])),
        gain=gain,
    )


def average(outcomes: Sequence[FoldOutcome], market: Market, positions: PositionsConfig) -> FoldOutcome:
    """Outcomes of one fold under several seeds as one: raw positions averaged, each seed's at its own kept epoch.

    The distribution is the seeds' mixture, averaged as `tft.predict` averages it for a live decision.
    The Sharpe of the validation block is that of the averaged positions; of the best epochs, the seeds' mean.
    """
    if len(outcomes) == 1:
        return outcomes[0]
    first = outcomes[0]
    n_epochs = min(len(outcome.train_loss) for outcome in outcomes)

    def mean(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.asarray(np.stack(values).mean(axis=0))

    position = mean([outcome.validation_position for outcome in outcomes])
    (returns,) = validation_returns(
        position[None], first.fold.validation, market.panel, market.sigma, positions, market.timing
    )
    raw = mean_of_seeds([outcome.forecast.raw_position for outcome in outcomes])  # as for a live decision
    return replace(
        first,
        forecast=RawForecast(first.fold, first.forecast.bars, raw),
        distribution=mixture([outcome.distribution for outcome in outcomes]),
        probability_up=mean_of_seeds([outcome.probability_up for outcome in outcomes]),
        kept_epoch=min(round(float(np.mean([outcome.kept_epoch for outcome in outcomes]))), n_epochs - 1),
        train_loss=mean([outcome.train_loss[:n_epochs] for outcome in outcomes]),
        validation_score=mean([outcome.validation_score[:n_epochs] for outcome in outcomes]),
        validation_position=position,
        epoch_positions=tuple(epochs for outcome in outcomes for epochs in outcome.epoch_positions),
        validation_returns=mean([outcome.validation_returns[:n_epochs] for outcome in outcomes]),
        val_sharpe=sharpe(returns, periods_per_year=market.timing.periods_per_year),
        val_sharpe_best_epoch=float(np.mean([outcome.val_sharpe_best_epoch for outcome in outcomes])),
        vsn_weight=mean([outcome.vsn_weight for outcome in outcomes]),
        vsn_weight_relative=mean([outcome.vsn_weight_relative for outcome in outcomes]),
        skipped_steps=sum(outcome.skipped_steps for outcome in outcomes),
        seconds=sum(outcome.seconds for outcome in outcomes),
    )

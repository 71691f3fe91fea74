"""The walk-forward with what phases 1-4 decided, and its out-of-sample record.

`selection: holdout`: phases 1-4 decide once, on development bars; of the record only the holdout is clean.
`selection: nested`: they decide anew for every fold, on nothing but the decisions whose label ends before the end of
that fold's validation block, t + delay + h < end; the whole record is clean.

Shapes: A instruments, E epochs, n bars of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config.bars import MIN_RECORD_BARS, min_inner_bars, min_nested_bars
from pipeline.config.schema import Config, Selection, sha256_of
from pipeline.job import Job
from pipeline.phases import exploration, prefilter, pruning, tuning
from pipeline.phases.prefilter import Prefiltered
from pipeline.phases.pruning import Pruned
from pipeline.phases.tuning import Tuned
from pipeline.reporting.figures import bar_label
from tft.backtest import FoldOutcome, RawForecast, Record, block_earnings, stitch, validation_returns, walk
from tft.fold_store import FoldFit
from tft.folds import Fold, final_fold
from tft.metrics import sharpe
from tft.positions import Path as PositionPath
from tft.positions import PositionsConfig, position_path
from tft.train import EpochReport, Market, Recipe


@dataclass(frozen=True, eq=False)
class Choice:
    """What phases 1-4 decided, and the results they decided by."""

    features: tuple[str, ...]
    config: Config
    """With the tuned parameters in their sections."""
    filtered: Prefiltered
    pruned: Pruned
    tuned: Tuned

    @property
    def sha256(self) -> str:
        """Equal ones train alike."""
        return sha256_of(self.features, self.config)


def choose(job: Job) -> Choice:
    """Phases 1-4, on the job's development bars."""
    filtered = prefilter.run(job)
    exploration.run(job)
    pruned = pruning.run(job)
    tuned = tuning.run(job)
    return Choice(pruned.selected, job.config.with_tuned(tuned.best), filtered, pruned, tuned)


@dataclass(frozen=True, eq=False)
class Walked:
    """A walk-forward and its record."""

    selection: Selection
    choices: Mapping[int, Choice]
    """By index of the fold that was fitted with it; of `selection: holdout` the same one for all."""
    outcomes: tuple[FoldOutcome, ...]
    """In order of the folds; the seeds averaged."""
    seed_outcomes: tuple[tuple[FoldOutcome, ...], ...]
    """The same by seed."""
    record: Record
    seed_records: tuple[Record, ...]
    """Of each seed alone."""
    n_development: int
    """The record is clean from this bar on: 0 of `selection: nested`."""
    market: Market
    """Of the last fold's columns; returns, volatility and labels are those of every fold."""
    final: tuple[FoldFit, ...] = ()
    """The final fit by seed, where it was asked for."""

    @property
    def folds(self) -> tuple[Fold, ...]:
        return tuple(outcome.fold for outcome in self.outcomes)

    @property
    def positions(self) -> dict[int, PositionsConfig]:
        """By index of the fold."""
        return {fold: choice.config.positions for fold, choice in self.choices.items()}


def out_of_sample(job: Job, *, final: Choice | None = None, keep: Path | None = None) -> Walked:
    """Choose and walk forward. `final`: what the final fit is made with, beside the folds; without one there is none.
    `keep`: where finished folds wait in case the process dies.

    Raises ValueError where `selection: nested` finds too few bars.
    """
    folds = record_folds(job)
    nested = job.config.selection == "nested"
    choices = _choose_for_each(job, folds) if nested else dict.fromkeys((fold.index for fold in folds), choose(job))
    n_development = 0 if nested else job.n_development
    production = job.config.production
    to_fit = [(fold, choices[fold.index]) for fold in folds]
    if final:
        to_fit.append((_final_fold(job, folds[-1].index + 1), final))
    job.reporter.start("production", len(to_fit) * production.epochs * production.seeds)
    on_epoch = job.epoch_reporter(len(to_fit), production.epochs)
    outcomes, by_seed, market, final_fits = _walk(job, to_fit, folds[-1], keep=keep, on_epoch=on_epoch)
    positions = {fold: choice.config.positions for fold, choice in choices.items()}

    def stitched(own: Sequence[FoldOutcome]) -> Record:
        return stitch_by_fold([outcome.forecast for outcome in own], positions, market, n_development=n_development)

    return Walked(
        selection=job.config.selection,
        choices=choices,
        outcomes=tuple(outcomes),
        seed_outcomes=tuple(tuple(own) for own in by_seed),
        record=stitched(outcomes),
        seed_records=tuple(stitched(own) for own in by_seed),
        n_development=n_development,
        market=market,
        final=tuple(final_fits),
    )


def untuned_record(job: Job, walked: Walked, *, keep: Path | None = None) -> Record | None:
    """The record of the untuned configuration on the same columns and folds, as far as they own holdout bars.

    None where no fold owns any, or the untuned configuration (trial 0) is what tuning chose for all of them.
    """
    holdout = np.unique(walked.record.fold[walked.record.segment == "holdout"])
    walked_outcomes = {outcome.fold.index: outcome for outcome in walked.outcomes if outcome.fold.index in holdout}
    untuned = {
        fold: choice if choice.tuned.best_trial == 0 else replace(choice, config=job.config)
        for fold, choice in walked.choices.items()
        if fold in walked_outcomes
    }
    again = [fold for fold in walked.folds if fold.index in untuned and walked.choices[fold.index].tuned.best_trial]
    if not again:
        return None
    production = job.config.production
    job.reporter.start("untuned", len(again) * production.epochs * production.seeds)
    on_epoch = job.epoch_reporter(len(again), production.epochs)
    to_fit = [(fold, untuned[fold.index]) for fold in again]
    refitted, *_ = _walk(job, to_fit, walked.folds[-1], keep=keep, on_epoch=on_epoch)
    outcomes = walked_outcomes | {outcome.fold.index: outcome for outcome in refitted}
    return stitch_by_fold(
        [outcome.forecast for outcome in outcomes.values()],
        {fold: choice.config.positions for fold, choice in untuned.items()},
        walked.market,
        n_development=walked.n_development,
    )


def record_folds(job: Job) -> list[Fold]:
    """The production folds that are reported. Raises ValueError where `selection: nested` finds too few bars.

    With `selection: nested` they begin with the first fold whose own past holds three exploration folds and bars
    enough for tuning.
    """
    config, n_bars = job.config, len(job.data.panel.times)
    folds = job.folds(n_bars, step_size=config.production.step_size, max_folds=config.production.max_folds)
    if config.selection == "holdout":
        return folds
    reported = [fold for fold in folds if fold.validation.stop >= min_inner_bars(config)]
    n_record = n_bars - config.timing.label_bars - reported[0].test.start if reported else 0
    if n_record < MIN_RECORD_BARS:
        raise ValueError(
            f"selection: nested leaves {n_record} bars of record, {MIN_RECORD_BARS} are needed: "
            + (
                f"the table has {n_bars} bars, bring {min_nested_bars(config)}, or shorten walk_forward.train_window "
                f"or exploration.step_size"
                if n_bars < min_nested_bars(config)
                else f"raise production.max_folds ({config.production.max_folds})"
            )
        )
    return reported


def _choose_for_each(job: Job, folds: Sequence[Fold]) -> dict[int, Choice]:
    """The choice of each fold by index, made on the bars before the end of its validation block."""
    choices = {}
    for number, fold in enumerate(folds, start=1):
        end = fold.validation.stop
        before = f"the bars before {bar_label(str(job.data.panel.times[end]))}"
        inner = job.inner(job.data.first_bars(end), n_development=end)
        try:
            choice = choose(inner)
        except ValueError as error:
            raise ValueError(f"selection of fold {fold.index} on {before}: {error}") from error
        choices[fold.index] = choice
        job.reporter.say(
            f"selection: fold {fold.index} ({number} of {len(folds)}) takes {len(choice.features)} columns and the "
            f"parameters of trial {choice.tuned.best_trial}, chosen on {before}"
        )
    return choices


def _walk(
    job: Job,
    to_fit: Sequence[tuple[Fold, Choice]],
    last: Fold,
    *,
    keep: Path | None,
    on_epoch: Callable[[EpochReport], None],
) -> tuple[list[FoldOutcome], list[list[FoldOutcome]], Market, list[FoldFit]]:
    """Outcomes of the folds that are tested, seeds averaged and by seed, the last one's market, and the fits by seed of
    the fold that is not. Folds of one choice go side by side.

    The `last` fold of the record goes on forecasting where there is no label yet.
    """
    averaged: list[FoldOutcome] = []
    by_seed: list[list[FoldOutcome]] = [[] for _ in range(job.config.production.seeds)]
    markets: list[Market] = []
    final: list[FoldFit] = []
    for sha256, group in groupby(to_fit, key=lambda pair: pair[1].sha256):
        folds, choices = zip(*group, strict=True)
        config = choices[0].config
        market = job.market(job.data.panel.select(choices[0].features))
        test_until = len(market.panel.times) if last in folds else None
        outcomes: list[list[FoldOutcome]] = []
        for recipe in recipes(config):
            kept = keep / f"{sha256[:16]}-seed-{recipe.seed}" if keep else None
            of_seed = []
            for fit, outcome in walk(
                market, folds, recipe, config.positions, test_until=test_until, keep=kept, on_epoch=on_epoch
            ):
                if fit.fold.test:
                    of_seed.append(outcome)
                else:
                    final.append(fit)
            outcomes.append(of_seed)
        averaged += [average(same_fold, market, config.positions) for same_fold in zip(*outcomes, strict=True)]
        for all_of_seed, of_seed in zip(by_seed, outcomes, strict=True):
            all_of_seed += of_seed
        if folds[0].test:
            markets.append(market)
    return averaged, by_seed, markets[-1], final


def _final_fold(job: Job, index: int) -> Fold:
    """One more fold whose validation ends at the last labelled bar, with nothing left to test."""
    config = job.config
    end = len(job.data.panel.times) - config.timing.label_bars - config.warm_up_bars
    fold = final_fold(
        index,
        end,
        train_window=config.walk_forward.train_window,
        validation_window=config.walk_forward.validation_window,
        purge_gap=config.purge_gap,
        expanding=config.walk_forward.expanding,
    )
    return fold.shifted(config.warm_up_bars)


def recipes(config: Config) -> list[Recipe]:
    """How production fits a fold, by seed."""
    return [
        Recipe(config.model, config.training, config.timing, config.production.epochs, config.seed + number)
        for number in range(config.production.seeds)
    ]


def stitch_by_fold(
    forecasts: Sequence[RawForecast], positions: Mapping[int, PositionsConfig], market: Market, *, n_development: int
) -> Record:
    """As `tft.backtest.stitch`, with a cap and a smoothing of each fold's own, by its index.

    They rule from the first bar that the fold tests to the first of the next one; the path goes on across the border.
    Volatility target, leverage and costs are no part of what is tuned: they are the same for all.
    """
    panel, sigma, timing = market.panel, market.sigma, market.timing
    common = positions[forecasts[0].fold.index]
    record = stitch(forecasts, panel, sigma, common, timing, n_development=n_development)
    borders = [*(one.bars.start for one in forecasts), record.bars.stop]
    paths: list[NDArray[np.float64]] = []
    before: PositionPath | None = None
    for one, (start, stop) in zip(forecasts, pairwise(borders), strict=True):
        assert start <= stop <= one.bars.stop, "test blocks in order, without bars between them"
        before = position_path(
            record.raw_position[start - record.bars.start : stop - record.bars.start],
            sigma[start:stop],
            positions[one.fold.index],
            timing,
            traded=np.isfinite(panel.returns[start:stop]),
            before=before,
        )
        paths.append(before.position)
    position = np.concatenate(paths)
    earned = block_earnings(position, record.bars, panel.returns, common, timing)
    return replace(record, position=position, earned=earned)


def average(outcomes: Sequence[FoldOutcome], market: Market, positions: PositionsConfig) -> FoldOutcome:
    """Outcomes of one fold under several seeds as one: raw positions averaged, each seed's at its own kept epoch.

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
    raw = mean([outcome.forecast.raw_position for outcome in outcomes])
    return replace(
        first,
        forecast=RawForecast(first.fold, first.forecast.bars, raw),
        kept_epoch=min(round(float(np.mean([outcome.kept_epoch for outcome in outcomes]))), n_epochs - 1),
        train_loss=mean([outcome.train_loss[:n_epochs] for outcome in outcomes]),
        validation_score=mean([outcome.validation_score[:n_epochs] for outcome in outcomes]),
        validation_position=position,
        validation_returns=mean([outcome.validation_returns[:n_epochs] for outcome in outcomes]),
        val_sharpe=sharpe(returns, periods_per_year=market.timing.periods_per_year),
        val_sharpe_best_epoch=float(np.mean([outcome.val_sharpe_best_epoch for outcome in outcomes])),
        vsn_weight=mean([outcome.vsn_weight for outcome in outcomes]),
        vsn_weight_relative=mean([outcome.vsn_weight_relative for outcome in outcomes]),
        skipped_steps=sum(outcome.skipped_steps for outcome in outcomes),
        seconds=sum(outcome.seconds for outcome in outcomes),
    )

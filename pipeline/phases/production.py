"""Phase 5: the walk-forward with what phases 1-4 decided, its out-of-sample record, and the final fit.

`selection: holdout`: phases 1-4 decide once, on development bars; of the record only the holdout is clean.
`selection: nested`: they decide anew for every fold, on nothing but the decisions whose label ends before the end of
that fold's validation block, t + delay + h < end; the whole record is clean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import numpy as np
import torch

from pipeline.config.schema import Config, Separation, sha256_of
from pipeline.phases.prefilter import Prefiltered
from pipeline.phases.pruning import Pruned
from pipeline.phases.stitching import average, stitch_by_fold, with_gain
from pipeline.phases.training_data import TrainingData
from pipeline.phases.tuning import Tuned
from tft.backtest import FoldOutcome, walk
from tft.checkpoint import TrainedModel
from tft.fold_store import FoldFit
from tft.folds import Fold
from tft.market import Market
from tft.panel import AHEAD, Panel
from tft.positions import PositionsConfig
from tft.record import Record
from tft.runtime.store import Store
from tft.table import TableFormat
from tft.train import EpochReport, Recipe


@dataclass(frozen=True, eq=False)
class Choice:
    """The decisions of phases 1-4, and the results that they rest on."""

    features: tuple[str, ...]
    config: Config
    """With the tuned parameters in their sections."""
    filtered: Prefiltered
    pruned: Pruned
    tuned: Tuned

    @property
    def sha256(self) -> str:
        """Equal for choices that train alike."""
        return sha256_of(self.features, self.config)

    def under(self, config: Config) -> Choice:
        """This choice of columns and tuned parameters, with everything else taken from another configuration."""
        return replace(self, config=config.with_tuned(self.tuned.best))


class Deployable(Protocol):
    """What a final fit is made with."""

    @property
    def features(self) -> tuple[str, ...]: ...
    @property
    def config(self) -> Config: ...


@dataclass(frozen=True, eq=False)
class Final:
    """What is deployed: the final fit of every seed, and the gain of their averaged positions."""

    fits: tuple[FoldFit, ...]
    gain: float


@dataclass(frozen=True, eq=False)
class Walked:
    """A walk-forward and its record."""

    selection: Separation
    choices: Mapping[int, Choice]
    """The choice that each fold was fitted with, by the fold's index; all the same with `selection: holdout`."""
    outcomes: tuple[FoldOutcome, ...]
    """In order of the folds; the seeds averaged."""
    seed_outcomes: tuple[tuple[FoldOutcome, ...], ...]
    """The outcomes of each seed alone."""
    seed_fits: tuple[tuple[FoldFit, ...], ...]
    """What each seed learned, in order of the folds."""
    record: Record
    seed_records: tuple[Record, ...]
    """The record of each seed alone."""
    n_development: int
    """The record is clean from this bar on: 0 with `selection: nested`."""
    market: Market
    """The market of the last fold's columns; its returns, volatility and labels are those of every fold."""
    final: Final | None = None
    """Where it was asked for."""

    @property
    def folds(self) -> tuple[Fold, ...]:
        return tuple(outcome.fold for outcome in self.outcomes)

    @property
    def positions(self) -> dict[int, PositionsConfig]:
        """Cap, smoothing and costs by index of the fold."""
        return {fold: choice.config.positions for fold, choice in self.choices.items()}

    @property
    def last_positions(self) -> PositionsConfig:
        """Cap, smoothing, volatility scaling and costs of the last fold."""
        return self.choices[self.folds[-1].index].config.positions


def choose_for_folds(
    config: Config, folds: Sequence[Fold], *, once: Callable[[], Choice], before: Callable[[Fold, int], Choice]
) -> list[Choice]:
    """The choice that each fold is fitted with.

    once: decides on development bars, for all folds · before: with `selection: nested` decides for one fold on the bars
    before the given one, which is the end of the fold's validation block.
    """
    if config.selection == "nested":
        return [before(fold, fold.validation.stop) for fold in folds]
    return [once()] * len(folds)


def walk_forward(
    data: TrainingData,
    config: Config,
    folds: Sequence[tuple[Fold, Choice]],
    *,
    final: tuple[Fold, Choice] | None = None,
    n_development: int,
    store: Store | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Walked:
    """Fit every fold with its choice, forecast its test bars, and stitch the record.

    final: the fold of the final fit and its choice, fitted beside the others; without one there is none. n_development:
    the first bar of the holdout. store: where finished folds wait in case the process dies.
    """
    to_fit = [*folds, *([final] if final else [])]
    fitted = _fit(data, config, to_fit, folds[-1][0], store=store, on_epoch=on_epoch)
    choices = {fold.index: choice for fold, choice in folds}
    positions = {fold: choice.config.positions for fold, choice in choices.items()}

    def stitched(own: Sequence[FoldOutcome]) -> Record:
        forecasts = [outcome.forecast for outcome in own]
        return stitch_by_fold(forecasts, positions, fitted.market, n_development=n_development)

    return Walked(
        selection=config.separation,
        choices=choices,
        outcomes=tuple(fitted.outcomes),
        seed_outcomes=tuple(tuple(own) for own in fitted.by_seed),
        seed_fits=tuple(tuple(own) for own in fitted.fits),
        record=stitched(fitted.outcomes),
        seed_records=tuple(stitched(own) for own in fitted.by_seed),
        n_development=n_development,
        market=fitted.market,
        final=fitted.final,
    )


def folds_to_refit_untuned(walked: Walked) -> list[Fold]:
    """Folds that own holdout bars and that tuning gave other parameters than the configured ones (trial 0)."""
    holdout = np.unique(walked.record.fold[walked.record.segment == "holdout"])
    return [fold for fold in walked.folds if fold.index in holdout and walked.choices[fold.index].tuned.best_trial]


def untuned_record(
    data: TrainingData,
    config: Config,
    walked: Walked,
    *,
    store: Store | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Record | None:
    """The record of the untuned configuration on the same columns and folds, as far as they own holdout bars.

    None where no fold owns any, or the untuned configuration (trial 0) is what tuning chose for all of them.
    """
    again = folds_to_refit_untuned(walked)
    if not again:
        return None
    holdout = np.unique(walked.record.fold[walked.record.segment == "holdout"])
    outcomes = {outcome.fold.index: outcome for outcome in walked.outcomes if outcome.fold.index in holdout}
    untuned = {
        fold: choice if choice.tuned.best_trial == 0 else replace(choice, config=config)
        for fold, choice in walked.choices.items()
        if fold in outcomes
    }
    to_fit = [(fold, untuned[fold.index]) for fold in again]
    refitted = _fit(data, config, to_fit, walked.folds[-1], store=store, on_epoch=on_epoch)
    outcomes |= {outcome.fold.index: outcome for outcome in refitted.outcomes}
    return stitch_by_fold(
        [outcome.forecast for outcome in outcomes.values()],
        {fold: choice.config.positions for fold, choice in untuned.items()},
        walked.market,
        n_development=walked.n_development,
    )


@dataclass(frozen=True, eq=False)
class _Fitted:
    """The tested folds in order, and the final fit, which is that of the fold without a test block."""

    outcomes: list[FoldOutcome]
    """Seeds averaged"""
    by_seed: list[list[FoldOutcome]]
    fits: list[list[FoldFit]]
    """By seed"""
    market: Market
    """The last fold's"""
    final: Final | None


def _fit(
    data: TrainingData,
    config: Config,
    to_fit: Sequence[tuple[Fold, Choice]],
    last: Fold,
    *,
    store: Store | None,
    on_epoch: Callable[[EpochReport], None] | None,
) -> _Fitted:
    """Fit every fold with its choice. Folds of one choice are fitted side by side, with all seeds.

    The `last` fold of the record goes on forecasting where there is no label yet.
    """
    averaged: list[FoldOutcome] = []
    by_seed: list[list[FoldOutcome]] = [[] for _ in range(config.production.seeds)]
    tested_fits: list[list[FoldFit]] = [[] for _ in range(config.production.seeds)]
    markets: list[Market] = []
    final: list[FoldFit] = []
    for sha256, group in groupby(to_fit, key=lambda pair: pair[1].sha256):
        folds, choices = zip(*group, strict=True)
        own = choices[0].config
        market = data.select(choices[0].features).market(own.timing)
        test_until = len(market.panel.times) if last in folds else None
        seeds = recipes(own)
        walked = walk(
            market,
            [fold for fold in folds for _ in seeds],  # folds of one length are neighbours, and share stacks
            seeds * len(folds),
            test_until=test_until,
            store=store.within(sha256[:16]) if store else None,
            on_epoch=on_epoch,
        )
        fits, fitted = zip(*walked, strict=True)
        final += [fit for fit in fits if not fit.fold.test]
        for number, of_seed in enumerate(tested_fits):
            of_seed += [fit for fit in fits[number :: len(seeds)] if fit.fold.test]
        outcomes = [list(fitted[number :: len(seeds)]) for number in range(len(seeds))]  # of each seed, by fold
        of_folds = [average(same_fold, market, own.positions) for same_fold in zip(*outcomes, strict=True)]
        of_folds, *outcomes = (
            [with_gain(outcome, market, seeds[0]) for outcome in each] for each in (of_folds, *outcomes)
        )
        averaged += of_folds
        for all_of_seed, newest in zip(by_seed, outcomes, strict=True):
            all_of_seed += [outcome for outcome in newest if outcome.fold.test]
        if folds[0].test:
            markets.append(market)
    tested = [outcome for outcome in averaged if outcome.fold.test]
    untested = [outcome.gain for outcome in averaged if not outcome.fold.test]
    return _Fitted(tested, by_seed, tested_fits, markets[-1], Final(tuple(final), untested[0]) if final else None)


def recipes(config: Config) -> list[Recipe]:
    """How production fits a fold, seed by seed."""
    return [config.recipe(config.production.epochs, number=number) for number in range(config.production.seeds)]


def trained_model(
    panel: Panel,
    data_sha256: str,
    table_format: TableFormat,
    choice: Deployable,
    final: Final,
    metrics: Mapping[str, float],
) -> TrainedModel:
    """The model to deploy: the final fit of every seed, and all that a live process needs.

    panel: all columns and bars of the table · table_format: how it was read.
    """
    config, last = choice.config, final.fits[0].fold
    return TrainedModel(
        config=config.model,
        loss_mode=config.training.loss_mode,
        feature_names=choice.features,
        known=tuple(name for name in config.data.known if name + AHEAD in choice.features),
        symbols=panel.symbols,
        scaler=final.fits[0].scaler,
        parameters={
            name: torch.stack([fit.parameters[name] for fit in final.fits]) for name in final.fits[0].parameters
        },
        correlation=final.fits[0].correlation,
        gain=final.gain,
        timing=config.timing,
        positions=config.positions,
        regime=config.regime,
        seed=config.seed,
        fit_end=str(panel.times[-1]),
        data_sha256=data_sha256,
        table_format=replace(
            table_format,
            offsets={
                name: offset
                for name, offset in table_format.offsets.items()
                if {name, name + AHEAD} & {*choice.features}
            },
        ),
        fold_bounds={
            "train_start": str(panel.times[last.train.start]),
            "train_end": str(panel.times[last.train.stop - 1]),
            "validation_start": str(panel.times[last.validation.start]),
            "validation_end": str(panel.times[last.validation.stop - 1]),
        },
        metrics=metrics,
    )

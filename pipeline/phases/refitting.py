"""The final fit alone: a recipe that is there already, on newer bars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.config.schema import Config
from pipeline.phases.production import Final, recipes
from pipeline.phases.stitching import average, with_gain
from pipeline.phases.training_data import TrainingData
from tft.backtest import FoldOutcome, walk
from tft.folds import Fold
from tft.market import Market
from tft.positions import PositionsConfig
from tft.runtime.store import Store
from tft.train import EpochReport


@dataclass(frozen=True, eq=False)
class Refitted:
    """The fit, and what it says of its validation block.

    The weights have not seen that block, the three numbers of its recalibration and its gain were set there: it shows a
    broken fit, not a Sharpe.
    """

    final: Final
    outcome: FoldOutcome
    """Outcome of the seeds averaged; the bars forecast are those of the validation block."""
    market: Market
    positions: PositionsConfig


def refit(
    data: TrainingData,
    config: Config,
    fold: Fold,
    *,
    store: Store | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Refitted:
    """Fit every seed on the deployment fold, as production does beside its walk-forward.

    data: the columns of the recipe, in its order. store: where finished seeds wait in case the process dies.
    """
    market, seeds = data.market(config.timing), recipes(config)
    judged = replace(fold, test=fold.validation)  # a test block is forecast, and nothing else
    walked = list(walk(market, [judged] * len(seeds), seeds, store=store, on_epoch=on_epoch))
    outcome = with_gain(average([own for _, own in walked], market, config.positions), market, seeds[0])
    return Refitted(Final(tuple(fit for fit, _ in walked), outcome.gain), outcome, market, config.positions)

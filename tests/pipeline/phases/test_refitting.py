"""The final fit alone is the one that production makes beside its walk-forward."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.phases.folds import deployment_fold
from pipeline.phases.production import walk_forward
from pipeline.phases.refitting import refit
from tests.pipeline.phases.test_production import (
    DATA,
    HOLDOUT,
    N_DEVELOPMENT,
    TWO_SEEDS,
    choice_of,
    holdout_choices,
)


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_a_refit_on_the_same_bars_is_the_final_fit_of_production(n_seeds: int) -> None:
    """The same weights, seed by seed, and the same gain; the weights do not depend on what is forecast afterwards.

    Stacks of other folds round differently.
    """
    config = HOLDOUT if n_seeds == 1 else TWO_SEEDS
    choice = choice_of(config, [0, 2, 4], lr=0.004)
    pairs = holdout_choices(config, lr=0.004)[-2:]
    fold = deployment_fold(config, DATA.n_bars, pairs[-1][0].index + 1)
    walked = walk_forward(DATA, config, pairs, final=(fold, choice), n_development=N_DEVELOPMENT)
    alone = refit(DATA.select(choice.features), choice.config, fold)
    assert walked.final is not None and len(alone.final.fits) == n_seeds
    assert alone.final.gain == pytest.approx(walked.final.gain, rel=1e-4)
    for own, expected in zip(alone.final.fits, walked.final.fits, strict=True):
        assert (own.fold.train, own.fold.validation) == (expected.fold.train, expected.fold.validation)
        for name, value in expected.parameters.items():
            np.testing.assert_allclose(own.parameters[name], value, atol=1e-5, err_msg=name)


def test_what_it_says_of_the_validation_block_is_out_of_the_weights_reach() -> None:
    """Forecasts of exactly the validation bars, by the recipe's positions."""
    choice = choice_of(HOLDOUT, [0, 2, 4], max_position=0.3)
    fold = deployment_fold(HOLDOUT, DATA.n_bars, 4)
    alone = refit(DATA.select(choice.features), choice.config, fold)
    assert alone.outcome.forecast.bars == fold.validation
    assert alone.positions.max_position == 0.3
    np.testing.assert_allclose(alone.outcome.forecast.raw_position, alone.outcome.validation_position, atol=1e-6)

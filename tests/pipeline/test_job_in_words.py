"""What a production run says before it trains."""

from __future__ import annotations

from dataclasses import replace

from pipeline.job import Job
from pipeline.job_in_words import what_is_trained
from tests.conftest import CPU, small_panel
from tests.pipeline.experiments.test_repetitions import SMALLEST
from tests.pipeline.jobs import dataset_of


def test_numbers_agree_with_their_nouns_and_everything_that_takes_long_is_named() -> None:
    """One fold of one epoch, one trial; and that whatever is finished already is not trained again."""
    job = Job(SMALLEST, dataset_of(small_panel(80)), CPU)
    assert what_is_trained(job) == (
        "what is not there yet of: 1 fold of 1 epoch on all columns; 1 trial of 1 fold and 1 epoch; 1 fold and the "
        "model that is registered, 1 epoch and 1 network each; the holdout's folds once more as untuned, if tuning "
        "chose other parameters; forecasts with each group of columns permuted"
    )
    tuning = replace(SMALLEST.tuning, n_trials=3, epochs=2)
    several = what_is_trained(replace(job, config=replace(SMALLEST, tuning=tuning)))
    assert "; 3 trials of 1 fold and 2 epochs; " in several

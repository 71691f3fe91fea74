"""A job in words: what it is about to train, what its page says of its inputs, what its run's description says."""

from __future__ import annotations

from typing import Any

from pipeline.counted import counted
from pipeline.job import PHASES, Job
from pipeline.phase_run import phase_title
from pipeline.phases.folds import exploration_folds, production_folds, tuning_folds
from pipeline.phases.production import Walked
from pipeline.reporting import page
from pipeline.reporting.description import description
from pipeline.reporting.produced import Produced
from pipeline.tracking.runs import Run


def what_is_trained(job: Job) -> str:
    """What a production run trains and forecasts, phase by phase, unless it is there already."""
    config, n_development = job.config, job.n_development
    explored, tuned = exploration_folds(config, n_development), tuning_folds(config, n_development)
    walked = production_folds(config, len(job.data.panel.times))
    again = ", the first two of these anew for every fold that follows" if config.selection == "nested" else ""
    each = f"{counted(config.production.epochs, 'epoch')} and {counted(config.production.seeds, 'network')} each"
    return (
        f"what is not there yet of: {counted(len(explored), 'fold')} of {counted(config.exploration.epochs, 'epoch')} "
        f"on all columns; {counted(config.tuning.n_trials, 'trial')} of {counted(len(tuned), 'fold')} and "
        f"{counted(config.tuning.epochs, 'epoch')}{again}; {counted(len(walked), 'fold')} and the model that is "
        f"registered, {each}; the holdout's folds once more as untuned, if tuning chose other parameters; forecasts "
        f"with each group of columns permuted"
    )


def facts_of(job: Job, walked: Walked, settings: dict[str, Any]) -> page.Facts:
    """What the page says of the job's inputs."""
    panel = job.data.panel
    return page.Facts(
        source=job.data.source,
        data_sha256=job.data.sha256,
        symbols=panel.symbols,
        first_bar=str(panel.times[0]),
        last_bar=str(panel.times[-1]),
        n_bars=len(panel.times),
        n_development=job.n_development,
        selection=walked.selection,
        tags=job.tags(),
        settings=settings,
    )


def describe_job(sink: Run, result: Produced) -> None:
    """Write the description of a job's own run, in the order of its phases."""
    below = sink.phases()
    sink.describe(
        description(
            result,
            experiment_id=sink.client.get_run(sink.run_id).info.experiment_id,
            run_id=sink.run_id,
            children={phase_title(name): below[name] for name in PHASES if name in below},
        )
    )

"""A job in words: what it is about to train, what its page says of its inputs, what its run's description says."""

from __future__ import annotations

from typing import Any

from pipeline.job import PHASES, Job
from pipeline.phase_run import phase_title
from pipeline.phases.folds import exploration_folds, production_folds, tuning_folds
from pipeline.phases.production import Walked
from pipeline.reporting import page
from pipeline.reporting.description import description
from pipeline.reporting.produced import Produced
from pipeline.tracking.runs import Run


def what_is_trained(job: Job) -> str:
    """What a production run is about to train, phase by phase."""
    config, n_development = job.config, job.n_development
    explored, tuned = exploration_folds(config, n_development), tuning_folds(config, n_development)
    walked = production_folds(config, len(job.data.panel.times))
    again = ", the first two of these anew for every fold that follows" if config.selection == "nested" else ""
    return (
        f"about to train {len(explored)} folds of {config.exploration.epochs} epochs on all columns, "
        f"{config.tuning.n_trials} trials of {len(tuned)} folds and {config.tuning.epochs} epochs{again}, then "
        f"{len(walked)} folds and the model that is registered, {config.production.epochs} epochs and "
        f"{config.production.seeds} network{'s' * (config.production.seeds > 1)} each"
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

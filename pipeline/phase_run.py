"""How any phase is run: its key, reuse or compute, keep, draw."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipeline.config.reading import from_json, to_json, to_mapping
from pipeline.counted import counted
from pipeline.job import PHASES, Job, flattened
from pipeline.tracking.kept import Kept
from pipeline.tracking.keys import key_of
from pipeline.tracking.progress import Reporter
from pipeline.tracking.sink import Sink
from tft.runtime.store import Store

JOB_KEY = "job_key"
"""Tag of a job's own run: the key of its record."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Finished(Generic[Result]):
    """A phase's result, the key it can be found again by, and the MLflow run that shows it."""

    result: Result
    key: str
    run_id: str


def run_phase(
    name: str,
    kind: type[Result],
    job: Job,
    sink: Sink,
    reporter: Reporter,
    *,
    settings: dict[str, Any],
    upstream: Sequence[str] = (),
    compute: Callable[[Sink, Store], Result],
    draw: Callable[[Sink, Result], None],
    complete: Callable[[Result], bool] = lambda result: True,
) -> Finished[Result]:
    """The phase's result: reused if one was finished under its key, or computed; either way it is drawn in a run of
    its own, so that every production run shows all of its phases.

    settings: the part of the configuration that the phase reads · upstream: keys of the results it starts from ·
    compute: takes the phase's run and the store in which finished folds wait in case the process dies · complete: a
    result that is not serves this job and is not found again.
    """
    key, kept = phase_key(name, job, settings, upstream), Kept()
    if job.fresh:
        kept.drop_folds(key)
    found = None if job.fresh else sink.find_result(key)
    with sink.phase(name, phase_title(name)) as run:
        describe(run, job, settings)
        if found:
            result = from_json(kind, found.text)
            run.tags({"reused_from": found.source})
            reporter.say(f"{name}: nothing it depends on has changed, reusing run {found.source}")
        else:
            reporter.say(f"{name}: running")
            result = compute(run, kept.folds(key))
        draw(run, result)
        run.finish(to_json(result), key if complete(result) else None)
    kept.drop_folds(key)  # the result is delivered
    return Finished(result, key, run.run_id)


def phase_key(name: str, job: Job, settings: dict[str, Any], upstream: Sequence[str], *, whole: bool = False) -> str:
    """A phase's key. `whole`: it reads all bars of the table, not development alone."""
    return key_of(
        name,
        modules=PHASES[name],
        data_sha256=job.data.sha256 if whole else job.development_sha256,
        settings=settings,
        upstream=upstream,
        device=job.device,
    )


def run_name(job: Job, config_path: str, what: str = "", *, purge_gap: str = "") -> str:
    """The name of a command's run: what it does unless that is the whole job, on which configuration and data, when.

    purge_gap: in bars, where it is not that of the job's configuration.
    """
    parts = (
        what,
        Path(config_path).stem,
        counted(len(job.data.panel.symbols), "instrument"),
        f"purge {purge_gap or job.config.purge_gap}",
        f"{datetime.now():%Y-%m-%d %H:%M}",
    )
    return " · ".join(part for part in parts if part)


def phase_title(name: str) -> str:
    """A phase's run in the UI: its number and name."""
    return f"{list(PHASES).index(name) + 1} {name}"


def describe(run: Sink, job: Job, settings: dict[str, Any]) -> None:
    """Write the inputs of a phase into its own run."""
    run.tags(job.tags())
    _log_table(run, job)
    run.params(flattened(settings))


def log_inputs(job: Job, sink: Sink, **tags: str) -> None:
    """Write the inputs of the job, and these tags, into the job's own run."""
    settings = to_mapping(job.config)
    sink.tags(job.tags() | {JOB_KEY: job.key} | tags)
    _log_table(sink, job)
    sink.params(flattened(settings))
    sink.text("config.json", json.dumps(settings, indent=2))


def _log_table(run: Sink, job: Job) -> None:
    run.dataset("feature table", job.data.source, job.data.sha256, job.data.first, job.data.n_rows)

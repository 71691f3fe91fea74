"""The five phases as commands."""

from __future__ import annotations

from collections.abc import Sequence

import click

from pipeline.cli.errors import EXIT_TROUBLE
from pipeline.cli.opening import job_options, opened, ui_command

PHASES = {
    "prefilter": "Phase 1: drop columns without information.",
    "exploration": "Phase 2: train on all columns, read their VSN weights.",
    "pruning": "Phase 3: keep columns that beat what noise gets.",
    "tuning": "Phase 4: search hyper-parameters, fold by fold.",
    "production": "Phase 5, and the whole job: walk forward and register.",
}


def phase_command(name: str) -> click.Command:
    """The command that runs a phase and whatever it needs before it."""

    @job_options(
        "YAML file; configs/default.yaml is the reference run.",
        "MLflow run to go on with instead of opening a new one.",
        "Rerun phases even if nothing has changed.",
    )
    def command(path: str, overrides: Sequence[str], run_id: str, fresh: bool) -> None:
        raise click.exceptions.Exit(run_phase(name, path, overrides, run_id=run_id or None, fresh=fresh))

    return click.command(name, help=PHASES[name])(command)


def run_phase(name: str, path: str, overrides: Sequence[str], *, run_id: str | None, fresh: bool) -> int:
    """Run a phase and what it needs; returns the exit code."""
    from pipeline import flow
    from pipeline.phase_run import log_inputs
    from pipeline.reporting.terminal import print_headline
    from pipeline.tracking.runs import parent_run

    with opened(path, overrides, fresh=fresh) as (job, reporter), parent_run(name, run_id) as parent:
        if name == "production":
            result = flow.whole_job(job, parent, reporter, path).result
        else:
            log_inputs(job, parent, command=name, config=path)
            flow.check(job, parent, reporter)
            finished = getattr(flow, name)(job, parent, reporter)
    if name != "production":
        click.echo(f"{name} is done: MLflow run {finished.run_id}. Look at it with: {ui_command()}")
        return 0
    print_headline(
        parent.run_id,
        result,
        nested=job.config.selection == "nested",
        n_columns=job.data.panel.features.shape[2],
        ui_command=ui_command(),
    )
    for sentence in result.trouble:
        click.echo(f"Error: {sentence}", err=True)
    return EXIT_TROUBLE if result.trouble else 0


COMMANDS = tuple(phase_command(name) for name in PHASES)

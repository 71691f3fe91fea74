"""The five phases as commands, and the last fit alone."""

from __future__ import annotations

from collections.abc import Sequence

import click

from pipeline.cli.errors import EXIT_TROUBLE
from pipeline.cli.opening import job_options, opened

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
    from pipeline.phase_run import run_name
    from pipeline.reporting.terminal import print_headline, print_links
    from pipeline.tracking.runs import parent_run

    with opened(path, overrides, fresh=fresh) as (job, reporter):
        title = run_name(job, path, "" if name == "production" else name)
        with parent_run(title, run_id) as parent:
            finished = flow.asked_for(name, job, parent, reporter, path)
    if name != "production":
        _say_where(name, finished.run_id)
        return 0
    result = finished.result
    print_headline(
        result,
        nested=job.config.selection == "nested",
        n_columns=job.data.panel.features.shape[2],
    )
    print_links(result)
    for sentence in result.trouble:
        click.echo(f"Error: {sentence}", err=True)
    return EXIT_TROUBLE if result.trouble else 0


@click.command("refit")
@job_options(
    "YAML file that names the table (data), the model (registry.name) and the rule; the recipe is the version's own.",
    "MLflow run to go on with instead of opening a new one.",
    "Fit anew even what an interrupted refit had finished.",
)
@click.option("--version", default="", help="Version whose recipe is fitted again; by default the one in Production.")
def refit(path: str, overrides: Sequence[str], run_id: str, fresh: bool, version: str) -> None:
    """Refresh a registered model on the newest bars: its final fit alone.

    Recipe, columns and parameters are those of the version in Production. What comes of it is registered, and promoted
    if it passes the gates of a refresh.
    """
    from pipeline.config.reading import load_config, split_overrides
    from pipeline.job import open_job
    from pipeline.phase_run import run_name
    from pipeline.refit import refresh
    from pipeline.registry.recipe import recipe_of
    from pipeline.registry.versions import ALIAS, find_version
    from pipeline.tracking.progress import Reporter
    from pipeline.tracking.runs import configure, parent_run

    configure()
    config = load_config(path, split_overrides(overrides))
    name = config.registry.name
    version = find_version(name, version=version or None, alias=None if version else ALIAS)
    recipe = recipe_of(name, version).on(config)
    with Reporter() as reporter:
        job = open_job(recipe.config, reporter.say, fresh=fresh)
        with parent_run(run_name(job, path, f"refit of version {version}"), run_id or None) as parent:
            done = refresh(job, parent, reporter, recipe, version)
    registered = done.registered
    if registered.version:
        state = "promoted to Production" if registered.promoted else "not promoted"
        click.echo(f"Registered model {name} version {registered.version}: {state}, {registered.reason}.")
    _say_where("refit", parent.run_id)
    for sentence in done.trouble:
        click.echo(f"Error: {sentence}", err=True)
    raise click.exceptions.Exit(EXIT_TROUBLE if done.trouble else 0)


def _say_where(name: str, run_id: str) -> None:
    from pipeline.tracking.runs import how_to_look

    click.echo("\n".join([f"{name} is done: MLflow run {run_id}.", *how_to_look(run_id)]))


COMMANDS = (*(phase_command(name) for name in PHASES), refit)

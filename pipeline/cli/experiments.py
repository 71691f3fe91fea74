"""Commands that set a production run against luck, a known signal, or another run.

Heavy imports wait until a command needs them. Faults are raised as ValueError, and said in a sentence (errors.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from pipeline.cli.opening import job_options, opened

if TYPE_CHECKING:
    from pipeline.experiments.trainings import Kind
    from pipeline.job import Job
    from pipeline.tracking.progress import Reporter
    from pipeline.tracking.runs import Run

_options = job_options(
    "YAML file of the production run that is judged.",
    "Production run to judge; by default the newest finished one on this table and configuration.",
    "Compute finished repetitions anew.",
)


@click.command("placebo")
@_options
@click.option("--repetitions", default="", help="At most this many, 1 to 99; by default placebo.repetitions.")
def placebo(path: str, overrides: Sequence[str], run_id: str, fresh: bool, repetitions: str) -> None:
    """Judge a run by what luck would have given.

    The whole job again, with the same budget, on targets that can hold no signal; how often that does as well as the
    production run is its p-value. Killed, the next call goes on from the repetitions that are finished.
    """
    from pipeline.experiments.null_targets import checked_null_targets
    from pipeline.experiments.placebo import run

    chosen = [f"placebo.repetitions={repetitions}"] if repetitions else []
    with opened(path, [*overrides, *chosen], fresh=fresh) as (job, reporter):
        null = checked_null_targets(job)  # what cannot be judged is refused before anything is trained
        with _below_a_production_run(job, reporter, "placebo", path, run_id) as (own, production):
            result = run(job, own, production, reporter, null)
    click.echo(result.sentence)
    _say_where(own, production)


@click.command("planted")
@_options
@click.option("--oracle-sharpe", default=4.0, show_default=True, help="Annual Sharpe of a trader who knew the signal.")
@click.option(
    "--columns", default="5", show_default=True, help="Columns that carry it: names with commas, or how many to draw."
)
@click.option("--repetitions", default=5, show_default=True, type=int, help="1 to 99.")
def planted(
    path: str, overrides: Sequence[str], run_id: str, fresh: bool, oracle_sharpe: float, columns: str, repetitions: int
) -> None:
    """Would the job find a signal that is there?

    The whole job on noise with a signal of known strength in some of the table's own columns: how often it is found,
    how much of its Sharpe is earned, and how many of its columns pruning keeps.
    """
    from pipeline.experiments.null_targets import checked_null_targets
    from pipeline.experiments.planted import run
    from pipeline.experiments.planted_targets import Plan

    plan = Plan.of(oracle_sharpe, columns, repetitions)
    with opened(path, overrides, fresh=fresh) as (job, reporter):
        plan.check(job.data.panel.feature_names)
        null = checked_null_targets(job)
        with _below_a_production_run(job, reporter, "planted", path, run_id) as (own, production):
            result = run(job, own, production, reporter, null, plan)
    click.echo(result.sentence)
    _say_where(own, production)


@click.command("compare")
@click.option(
    "--baseline",
    default="",
    help="MLflow runs of finished production runs, or how their ids begin: one recipe with several seeds, with commas.",
)
@click.option("--candidate", default="", help="The production runs that are compared with them.")
@click.option(
    "--purge-gaps",
    default="",
    metavar="BASELINE,CANDIDATE",
    help="Instead of finished runs: two purge gaps in bars, such as 0,5; both are trained, everything else equal.",
)
@click.option(
    "--comparison",
    "kind",
    type=click.Choice(["fixed-selection", "whole-job"]),
    default="fixed-selection",
    show_default=True,
    help="With --purge-gaps: choose columns and parameters once and vary the networks' seeds, or redo the whole job.",
)
@click.option(
    "--seeds",
    type=int,
    default=5,
    show_default=True,
    help="With --purge-gaps: trainings of each arm; fewer than 5 give no p-value.",
)
@click.option(
    "--config",
    "path",
    default="configs/quickstart.yaml",
    show_default=True,
    help="YAML file of the trainings that --purge-gaps makes.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As for the phases; with --purge-gaps.")
@click.option(
    "--holdout",
    type=click.BOOL,
    default=False,
    show_default=True,
    help="Compare on the holdout instead of development; every training is counted as a look at it.",
)
@click.option(
    "--fresh",
    type=click.BOOL,
    default=False,
    show_default=True,
    help="With --purge-gaps: make all trainings even if nothing has changed.",
)
def compare(
    baseline: str,
    candidate: str,
    purge_gaps: str,
    kind: Kind,
    seeds: int,
    path: str,
    overrides: Sequence[str],
    holdout: bool,
    fresh: bool,
) -> None:
    """Compare two recipes over several seeds, bar by bar.

    The difference of their Sharpes with an error of seeds and bars, its interval, p, and the smallest difference that
    would have been found. Killed, the next call goes on from the trainings that are finished.
    """
    if purge_gaps and (baseline or candidate):
        raise ValueError("both runs and --purge-gaps are given: give --baseline and --candidate, or --purge-gaps alone")
    if not purge_gaps and not (baseline and candidate):
        raise ValueError("two recipes are compared: give --baseline and --candidate, or --purge-gaps such as 0,5")

    from pipeline.config.reading import split_overrides
    from pipeline.experiments.compare import compare_purge_gaps, compare_runs
    from pipeline.tracking.runs import configure, how_to_look

    configure()
    if purge_gaps:
        done = compare_purge_gaps(
            purge_gaps, path, split_overrides(overrides), kind=kind, n_seeds=seeds, holdout=holdout, fresh=fresh
        )
    else:
        done = compare_runs(baseline, candidate, holdout=holdout)
    for sentence in done.sentences:
        click.echo(sentence)
    click.echo("\n".join([f"Figure and tables: MLflow run {done.run_id}.", *how_to_look(done.run_id)]))


@contextmanager
def _below_a_production_run(
    job: Job, reporter: Reporter, name: str, path: str, run_id: str
) -> Iterator[tuple[Run, Run]]:
    """The experiment's own run, nested below the production run that it is about, and that one; made if need be."""
    from pipeline import flow
    from pipeline.experiments.production_runs import production_run_of
    from pipeline.phase_run import log_inputs, run_name
    from pipeline.tracking.commit import git_commit
    from pipeline.tracking.runs import parent_run

    production = production_run_of(job, run_id)
    if production is None:
        reporter.say(f"{name}: no finished production run on this table and configuration: running one first")
        # What `mlflow run` started is this command's run, not the production run's.
        started = {key: os.environ.pop(key) for key in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID") if key in os.environ}
        with parent_run(run_name(job, path), None) as production:
            flow.whole_job(job, production, reporter, path)
        os.environ.update(started)
    with parent_run(run_name(job, path, name), None) as own:
        log_inputs(job, own, command=name, config=path)
        own.tags({"mlflow.parentRunId": production.run_id, "judged_run": production.run_id, "phase": name})
        made_by = production.client.get_run(production.run_id).data.tags.get("git_commit")
        reporter.say(f"{name}: judging production run {production.run_id}")
        if made_by != git_commit():
            reporter.say(f"{name}: that run was made by the code of commit {made_by}, the repetitions by another")
        yield own, production


def _say_where(own: Run, production: Run) -> None:
    from pipeline.tracking.runs import how_to_look

    click.echo(f"Table and figure: MLflow run {own.run_id}, and production run {production.run_id}.")
    click.echo("\n".join(how_to_look(own.run_id)))


COMMANDS = (compare, placebo, planted)

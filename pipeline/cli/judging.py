"""Commands that judge: production runs by each other and by luck, feature code by its own past. cli.py adds them.

Heavy imports wait, as there. Faults are raised as ValueError, and cli.py says them in a sentence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pipeline.job import Job
    from pipeline.tracking.runs import Run


EXIT_LOOKAHEAD = 1
"""The function looks ahead."""
EXIT_TROUBLE = 3
"""The work is finished and safe, but something after it could not be done."""


def _judging(command: Callable[..., None]) -> Callable[..., None]:
    """The options that such commands share."""
    options = [
        click.option(
            "--config",
            "path",
            default="configs/quickstart.yaml",
            show_default=True,
            help="YAML file of the production run that is judged.",
        ),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As for the phases."),
        click.option(
            "--run-id",
            default="",
            help="Production run to judge; by default the newest finished one on this table and configuration.",
        ),
        click.option(
            "--fresh", type=click.BOOL, default=False, show_default=True, help="Compute finished repetitions anew."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command("placebo")
@_judging
@click.option("--repetitions", default="", help="At most this many, 1 to 99; by default placebo.repetitions.")
def placebo(path: str, overrides: Sequence[str], run_id: str, fresh: bool, repetitions: str) -> None:
    """Judge a run by what luck would have given.

    The whole job again, with the same budget, on targets that can hold no signal; how often that does as well as the
    production run is its p-value. Killed, the next call goes on from the repetitions that are finished.
    """
    from pipeline.experiments.placebo import run
    from pipeline.experiments.repetitions import null_targets

    chosen = [f"placebo.repetitions={repetitions}"] if repetitions else []
    with _prepared(path, [*overrides, *chosen], fresh=fresh) as job:
        null = null_targets(job)  # what cannot be judged is refused before anything is trained
        with _under_the_judged(job, "placebo", path, run_id) as (judging, judged):
            result = run(judging, judged, null)
    click.echo(result.sentence)
    _say_where(judging, judged)


@click.command("planted")
@_judging
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
    from pipeline.experiments.planted import Plan, run
    from pipeline.experiments.repetitions import null_targets

    plan = Plan.of(oracle_sharpe, columns, repetitions)
    with _prepared(path, overrides, fresh=fresh) as job:
        plan.check(job.data.panel.feature_names)
        null = null_targets(job)
        with _under_the_judged(job, "planted", path, run_id) as (judging, judged):
            result = run(judging, judged, null, plan)
    click.echo(result.sentence)
    _say_where(judging, judged)


@click.command("compare")
@click.option("--baseline", default="", help="MLflow run of the production run to compare with, or how its id begins.")
@click.option("--candidate", default="", help="MLflow run of the production run that is compared.")
@click.option(
    "--purge-gaps",
    default="",
    metavar="BASELINE,CANDIDATE",
    help="Instead of two runs: two purge gaps in bars, such as 0,5; both are run, everything else equal.",
)
@click.option(
    "--config",
    "path",
    default="configs/quickstart.yaml",
    show_default=True,
    help="YAML file of the runs that --purge-gaps makes.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As for the phases; with --purge-gaps.")
@click.option(
    "--holdout",
    type=click.BOOL,
    default=False,
    show_default=True,
    help="Compare on the holdout instead of development, which is counted as a look at it.",
)
@click.option(
    "--fresh",
    type=click.BOOL,
    default=False,
    show_default=True,
    help="With --purge-gaps: run both even if nothing has changed.",
)
def compare(
    baseline: str, candidate: str, purge_gaps: str, path: str, overrides: Sequence[str], holdout: bool, fresh: bool
) -> None:
    """Compare two production runs, bar by bar.

    The difference of their Sharpes with its interval, p, and the smallest difference that the sample could have shown.
    """
    if purge_gaps and (baseline or candidate):
        raise ValueError("both runs and --purge-gaps are given: give --baseline and --candidate, or --purge-gaps alone")
    if not purge_gaps and not (baseline and candidate):
        raise ValueError("two runs are compared: give --baseline and --candidate, or --purge-gaps such as 0,5")

    from pipeline.config.reading import split_overrides
    from pipeline.experiments.compare import compare_purge_gaps, compare_runs
    from pipeline.tracking.runs import configure, store

    configure()
    if purge_gaps:
        done = compare_purge_gaps(purge_gaps, path, split_overrides(overrides), holdout=holdout, fresh=fresh)
    else:
        done = compare_runs(baseline, candidate, holdout=holdout)
    for sentence in done.sentences:
        click.echo(sentence)
    click.echo(f"Figure and tables: MLflow run {done.run_id}. Look at it with:")
    click.echo(f"  mlflow ui --workers 1 --backend-store-uri {store()}")
    for sentence in done.trouble:
        click.echo(f"Error: {sentence}", err=True)
    if done.trouble:
        raise click.exceptions.Exit(EXIT_TROUBLE)


@click.command("check-lookahead")
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option("--data", "source", required=True, help="The price table: file, glob or s3://bucket/key.")
@click.option("--prefixes", "n_prefixes", default=10, show_default=True, help="Beginnings of the table, evenly spread.")
@click.option("--out", default="", help="Write every bar, symbol and column that changed to this .csv file.")
def check_lookahead(function: str, source: str, n_prefixes: int, out: str) -> None:
    """Does your feature code look ahead?

    MODULE:FUNCTION takes the price table (polars, with date or timestamp, and symbol) and returns the features with
    these keys (polars or pandas). It is run on beginnings of the table and on all of it; whatever a later bar changes
    is named. Exit code 0: nothing, 1: something looks ahead, 2: the function could not be judged.
    """
    from rich.console import Console
    from rich.table import Table

    from pipeline.config.sections import DataConfig
    from pipeline.data.files import read_table
    from pipeline.data.lookahead import compare_prefixes, load_function, write_cells

    prices = read_table(DataConfig(source=source))
    found = compare_prefixes(load_function(function), prices, n_prefixes=n_prefixes)
    scope = f"{found.n_columns} columns and {found.n_rows} rows, recomputed on {found.n_prefixes} prefixes of the table"
    if out:
        write_cells(found, out)
    if not found.changes:
        click.echo(f"{function} does not look ahead: {scope}, are the same as with all bars.")
        return
    table = Table(title=f"{function} looks ahead")
    for heading in ("column", "values changed", "first bar", "symbol", "with bars up to", "it was", "with all bars"):
        table.add_column(heading, overflow="fold")
    for change in found.changes:
        table.add_row(
            change.column,
            str(change.n_values),
            change.first_bar,
            change.first_symbol,
            change.prefix_end,
            change.on_prefix,
            change.with_all_bars,
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    click.echo(f"Of {scope}, these change with later bars: a feature may only use what was known at its bar.")
    raise click.exceptions.Exit(EXIT_LOOKAHEAD)


COMMANDS = (compare, placebo, planted, check_lookahead)


@contextmanager
def _prepared(path: str, overrides: Sequence[str], *, fresh: bool) -> Iterator[Job]:
    """The job on the real data, with nowhere to log to."""
    from pipeline.config.reading import load_config, split_overrides
    from pipeline.job import Job
    from pipeline.prepare import prepare
    from pipeline.tracking.progress import Reporter
    from pipeline.tracking.runs import Silent, configure

    configure()
    config = load_config(path, split_overrides(overrides))
    with Reporter() as reporter:
        data, device = prepare(config, reporter)
        yield Job(config=config, data=data, parent=Silent(), reporter=reporter, device=device, fresh=fresh)


@contextmanager
def _under_the_judged(job: Job, name: str, path: str, run_id: str) -> Iterator[tuple[Job, Run]]:
    """The job with a run of its own, nested below the production run that it judges, and that one; made if need be."""
    from dataclasses import replace

    from pipeline.experiments.repetitions import judged_run
    from pipeline.phases import production
    from pipeline.tracking.runs import git_commit, parent_run

    judged = judged_run(job, run_id)
    if judged is None:
        job.reporter.say(f"{name}: no finished production run on this table and configuration: running one first")
        # What `mlflow run` started is this command's run, not the production run's.
        started = {key: os.environ.pop(key) for key in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID") if key in os.environ}
        with parent_run("production", None) as judged:
            producing = replace(job, parent=judged)
            producing.log_inputs(command="production", config=path)
            producing.check()
            production.run(producing)
        os.environ.update(started)
    with parent_run(name, None) as own:
        judging = replace(job, parent=own)
        judging.log_inputs(command=name, config=path)
        own.tags({"mlflow.parentRunId": judged.run_id, "judged_run": judged.run_id, "phase": name})
        made_by = judged.client.get_run(judged.run_id).data.tags.get("git_commit")
        job.reporter.say(f"{name}: judging production run {judged.run_id}")
        if made_by != git_commit():
            job.reporter.say(f"{name}: that run was made by the code of commit {made_by}, the repetitions by another")
        yield judging, judged


def _say_where(judging: Job, judged: Run) -> None:
    from pipeline.tracking.runs import store

    click.echo(f"Table and figure: MLflow run {judging.parent.run_id}, and production run {judged.run_id}. Look at it:")
    click.echo(f"  mlflow ui --workers 1 --backend-store-uri {store()}")

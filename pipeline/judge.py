"""Commands that judge what production runs show. cli.py adds them to its own; heavy imports wait as they do there."""

from __future__ import annotations

from collections.abc import Sequence

import click

EXIT_TROUBLE = 3
"""The work is finished and safe, but something after it could not be done."""


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

    from pipeline.compare import compare_purge_gaps, compare_runs
    from pipeline.config import split_overrides
    from pipeline.tracking import configure, store

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


COMMANDS = (compare,)

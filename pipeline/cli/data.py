"""Commands about tables: a configuration for one, a generated one, and whether feature code looks ahead."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.cli.errors import EXIT_LOOKAHEAD
from pipeline.cli.opening import config_of, config_options


@click.command("sample-data")
@config_options("Take file and sizes from data.source and data.sample of this YAML file; the options below prevail.")
@click.option("--out", default=None, help="A .parquet, .csv or .arrow file (data/sample.parquet).")
@click.option("--seed", default=None, type=int, help="The same seed and sizes give the same table (7).")
@click.option(
    "--oracle-sharpe",
    default=None,
    type=float,
    help="Annual Sharpe of a trader who knew the truth, before costs; 0 is pure noise without drift (0).",
)
@click.option("--n-bars", default=None, type=int, help="Trading days (600).")
@click.option("--n-symbols", default=None, type=int, help="Instruments (4).")
@click.option("--n-features", default=None, type=int, help="Columns that survive prefilter (276).")
@click.option("--n-degenerate", default=None, type=int, help="Columns that prefilter is there for (36).")
def sample_data(path: str, overrides: Sequence[str], out: str | None, **sizes: float | None) -> None:
    """Write a seeded table that looks like a real one.

    What is true of it goes beside it as JSON: the planted columns, their weights, the oracle's Sharpe.
    """
    from dataclasses import asdict

    from pipeline.config.schema import Config
    from pipeline.config.sections import SampleConfig
    from pipeline.data.sample import write_sample

    config = config_of(path, overrides) or Config()
    chosen = asdict(config.data.sample or SampleConfig())
    chosen |= {name: value for name, value in sizes.items() if value is not None}
    file = Path(out or config.data.source)
    truth = write_sample(
        file,
        **chosen,
        execution_delay_bars=config.execution_delay_bars,
        periods_per_year=config.periods_per_year,
    )
    planted = f"; planted columns: {', '.join(truth.planted)}" if truth.planted else ""
    click.echo(f"Wrote {file} and {file.with_suffix('.truth.json')}{planted}")


@click.command("init")
@click.option("--data", "source", required=True, help="The feature table: file, glob or s3://bucket/key.")
@click.option("--out", default="", help="The YAML file to write (the table's name, in this folder).")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting that is not to be chosen. As for the phases.",
)
def init(source: str, out: str, overrides: Sequence[str]) -> None:
    """Write a configuration that fits a table, with a comment on every line.

    Column names, frequency, windows and holdout are taken from the table. A few optimiser steps are timed to say what
    the job would cost here.
    """
    from pipeline.config.reading import split_overrides
    from pipeline.proposal.propose import propose

    stem = Path(source.rpartition("/")[2]).stem.replace("*", "").strip("-_.") or "table"
    file = Path(out or f"{stem}.yaml")
    if file.exists():
        raise ValueError(f"{file} exists: give another file by --out, or remove it")
    proposal = propose(source, split_overrides(overrides))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(proposal.text)
    for line in proposal.said:
        click.echo(line)
    click.echo(f"Wrote {file}. The whole job would take {proposal.cost} on this machine.")
    if proposal.cost.remedy:
        click.echo(proposal.cost.remedy)
    click.echo(f"Look it over, then run: tft-pipeline production --config {file}")


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


COMMANDS = (init, sample_data, check_lookahead)

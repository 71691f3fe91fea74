"""Commands that judge. cli.py adds them to its own; heavy imports wait, as there.

Faults are raised as ValueError, and cli.py says them in a sentence.
"""

from __future__ import annotations

import sys

import click

EXIT_LOOKAHEAD = 1
"""The function looks ahead."""


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

    from pipeline.config import DataConfig
    from pipeline.data import read_table
    from pipeline.lookahead import compare_prefixes, load_function, write_cells

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


COMMANDS = (check_lookahead,)

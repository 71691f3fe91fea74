"""The summary that a production run prints on the terminal when it is done."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from pipeline.counted import counted
from pipeline.reporting.headline import headline_table
from pipeline.reporting.page import REPORT
from pipeline.reporting.produced import Produced
from pipeline.tracking.runs import Run, how_to_look


def print_headline(result: Produced, *, nested: bool, n_columns: int) -> None:
    """Print the headline table and the verdict of a production run.

    n_columns: columns of the table.
    """
    headings, rows = headline_table(result, nested=nested)
    table = Table(title="Walk-forward record")
    for heading in ("", *headings):
        table.add_column(heading, justify="left" if not heading else "right")
    for label, cells in rows:
        table.add_row(label, *cells)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(result.inference.verdict, style="bold", highlight=False)
    if result.looks:
        n_looked = result.inference.holdout.n_trials if result.inference.holdout else 1
        known = f", configurations that have looked at it: {n_looked}" if n_looked > 1 else ""
        console.print(f"Look {len(result.looks)} at this {'record' if nested else 'holdout'}{known}.", highlight=False)
    gaps = [row.val_oos_gap for row in result.folds if row.val_oos_gap is not None]
    if gaps:
        mean, folds = sum(gaps) / len(gaps), counted(len(gaps), "fold")
        console.print(f"Validation Sharpe minus test Sharpe: {mean:+.2f} on average of {folds}.")
    console.print(f"Columns: {n_columns} in the table; {result.selection}.", highlight=False)
    if result.model_version:
        state = "promoted to Production" if result.promoted else "not promoted"
        console.print(
            f"Registered model {result.model_name} version {result.model_version}: {state}, {result.promotion_reason}."
        )
    console.print(f"Tables, figures and the report: MLflow run {result.run_id}.", highlight=False)


def print_links(result: Produced) -> None:
    """Print where a production run can be looked at: its page, if that lies on this machine, and the MLflow UI."""
    page = Run(result.run_id).link(REPORT)
    print(*([f"Report: {page}"] if page else []), *how_to_look(result.run_id), sep="\n")

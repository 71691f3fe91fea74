"""The summary that a production run prints on the terminal when it is done."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from pipeline.reporting.headline import headline_table
from pipeline.reporting.produced import Produced


def print_headline(job_run_id: str, result: Produced, *, nested: bool, n_columns: int, ui_command: str) -> None:
    """Print the headline table and the verdict of a production run.

    job_run_id: the MLflow run of the whole job · n_columns: columns of the table · ui_command: opens the MLflow UI, on
    that run.
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
        counted = result.inference.holdout.n_trials if result.inference.holdout else 1
        known = f", configurations that have looked at it: {counted}" if counted > 1 else ""
        console.print(f"Look {len(result.looks)} at this {'record' if nested else 'holdout'}{known}.", highlight=False)
    gaps = [row.val_oos_gap for row in result.folds if row.val_oos_gap is not None]
    if gaps:
        console.print(
            f"Validation Sharpe minus test Sharpe: {sum(gaps) / len(gaps):+.2f} on average of {len(gaps)} folds."
        )
    console.print(f"Columns: {n_columns} in the table; {result.selection}.", highlight=False)
    if result.model_version:
        state = "promoted to Production" if result.promoted else "not promoted"
        console.print(
            f"Registered model {result.model_name} version {result.model_version}: {state}, {result.promotion_reason}."
        )
    console.print(f"Report, tables and figures: MLflow run {job_run_id}. Look at it with:")
    console.print(f"  {ui_command}", soft_wrap=True)

"""The command that takes the report out of a run."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("run_id")
@click.option("--out", default="", help="Write the page here (default: report.html, unless --pdf is given).")
@click.option("--pdf", default="", help="Print it to this PDF file, by an installed Chromium, Chrome or Edge.")
def report(run_id: str, out: str, pdf: str) -> None:
    """Write the report of a production run to a file, as a page or printed."""
    import tempfile

    from mlflow.exceptions import MlflowException

    from pipeline.reporting.page import REPORT
    from pipeline.reporting.printing import print_page
    from pipeline.tracking.runs import Run, configure, store

    configure()
    try:
        text = Run(run_id).read_text(REPORT)
    except (MlflowException, OSError):
        raise ValueError(
            f"run {run_id} in {store()} has no {REPORT}: give the id of a production run that is finished"
        ) from None
    if out or not pdf:
        page = Path(out or REPORT)
        page.write_text(text)
        click.echo(f"Wrote {page}.")
    if pdf:
        with tempfile.TemporaryDirectory() as scratch:
            page = Path(scratch) / REPORT
            page.write_text(text)
            print_page(page, Path(pdf))
        click.echo(f"Wrote {pdf}.")


COMMANDS = (report,)

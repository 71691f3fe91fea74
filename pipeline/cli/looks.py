"""Commands about looks at a holdout: which are known, and how those made elsewhere come into the ledger."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.errors import plain
from pipeline.cli.opening import config_options

if TYPE_CHECKING:
    from pipeline.statistics.looks import HoldoutRecord
    from pipeline.tracking.ledger import Look


MAX_SHARPE = 100.0


@click.group("looks")
def looks() -> None:
    """Looks at holdouts: list them, add one made elsewhere, merge ledgers.

    Every evaluation of a holdout is a look, and its Sharpe is deflated by the number of distinct recipes that have
    looked: looks whose net returns correlate above 0.999 are one recipe's, whatever the machine, the day or the
    settings. Holdouts are the same where any instrument's returns correlate above 0.99, whatever its name.
    """


@looks.command("list")
def list_looks() -> None:
    """List all looks by holdout and recipe, with N, the number of recipes that have looked.

    A run counts the recipes that share bars with its own holdout, and adds its prior_looks.
    """
    from rich.console import Console
    from rich.table import Table

    from pipeline.tracking.ledger import all_looks, by_holdout, by_recipe
    from pipeline.tracking.runs import configure, store

    configure()
    found = all_looks()
    if not found:
        click.echo(f"The ledger in {store()} knows of no look.")
    console = Console(width=None if sys.stdout.isatty() else 160)
    for group in by_holdout(found):
        recipes = by_recipe(group)
        table = Table(title=f"{_bars_of(group)}: N = {len(recipes)}, looks: {len(group)}", title_justify="left")
        for heading in ("recipe", "entered (UTC)", "by", "bars", "Sharpe beyond drift", "n", "record", "run or reason"):
            table.add_column(heading, justify="right" if heading in ("recipe", "Sharpe beyond drift", "n") else "left")
        for recipe in recipes:
            for look in recipe:
                table.add_row(
                    str(look.recipe),
                    look.entered[:16].replace("T", " "),
                    look.kind,
                    f"{look.first[:10]} to {look.last[:10]}",
                    _seen(look),
                    "" if look.n_bars is None else str(look.n_bars),
                    "yes" if look.record_sha256 else "no",
                    look.why or look.run[:12],
                )
        console.print(table)


@looks.command("add")
@config_options("YAML file whose holdout was looked at: dates, instruments and returns are those of its table now.")
@click.option("--first", default="", help="Without --config: first bar of decision that was looked at, as ISO date.")
@click.option("--last", default="", help="Without --config: last bar of decision.")
@click.option("--symbols", default="", help="Without --config: the instruments, such as A,B,C.")
@click.option("--bars", "n_bars", default=None, type=int, help="Without --config: bars that the Sharpe is of.")
@click.option("--sharpe", required=True, type=float, help="What was seen: annual, after costs, beyond drift if known.")
@click.option("--why", required=True, help="What was tried and where, for whoever reads the ledger.")
def add(
    path: str,
    overrides: Sequence[str],
    first: str,
    last: str,
    symbols: str,
    n_bars: int | None,
    sharpe: float,
    why: str,
) -> None:
    """Add a look that was made elsewhere: in a notebook, by a colleague, with another tool.

    It counts as a recipe of its own. The same holdout, Sharpe and reason given again are no further look.
    """
    from pipeline.tracking.ledger import by_recipe, enter, overlapping
    from pipeline.tracking.runs import configure

    by_hand = {"--first": first, "--last": last, "--symbols": symbols, "--bars": n_bars}
    given = [name for name, value in by_hand.items() if value not in ("", None)]
    if path and given:
        raise ValueError(f"--config says which holdout was looked at, and so does {given[0]}: give one of them")
    if not path and len(given) < len(by_hand):
        missing = ", ".join(name for name in by_hand if name not in given)
        raise ValueError(f"which holdout was looked at? Give --config with the YAML file that has it, or {missing}")
    if not abs(sharpe) <= MAX_SHARPE:
        raise ValueError(f"--sharpe is {sharpe}, it must be the annual number that was seen, within ±{MAX_SHARPE:g}")
    if not why.strip():
        raise ValueError("--why is empty: say what was tried and where")
    configure()
    record = None
    if path:
        look, record = _of_config(path, overrides)
    else:
        assert n_bars is not None
        look = _of_dates(first, last, symbols, n_bars)
    look = _made_elsewhere(look, sharpe, why.strip())
    before = overlapping(look.first, look.last, look.symbols, record)
    if any(one.key == look.key for one in before):
        click.echo("This look is already in the ledger; nothing was added.")
        return
    enter(look, record)
    n_known = len(by_recipe([*before, look]))
    click.echo(
        f"Added: {_bars_of([look])}, Sharpe {sharpe:.2f} on {look.n_bars} bars. "
        f"N at this holdout is now {n_known}, its own included."
        + ("" if before else " No other look is at the same holdout: if there should be one, check dates and symbols.")
    )


@looks.command("export")
@click.argument("file")
def export(file: str) -> None:
    """Write the ledger to FILE, one look a line (JSON) with its returns, for `looks import` elsewhere."""
    from pipeline.tracking.ledger_files import export_looks
    from pipeline.tracking.runs import configure

    configure()
    click.echo(f"Wrote {export_looks(Path(file))} looks to {file}.")


@looks.command("import")
@click.argument("file")
def import_(file: str) -> None:
    """Merge FILE, which `looks export` wrote, into the ledger; what is known already is left as it is."""
    from pipeline.tracking.ledger_files import import_looks
    from pipeline.tracking.runs import configure

    configure()
    n_new, n_known = import_looks(Path(file))
    click.echo(f"Imported {n_new} new looks from {file}; {n_known} were known.")


def _of_config(path: str, overrides: Sequence[str]) -> tuple[Look, HoldoutRecord]:
    """A look at the holdout that a configuration has on its table, and the returns of its instruments."""
    from dataclasses import replace

    import numpy as np

    from pipeline.assessment import clean_bars
    from pipeline.config.reading import load_config, split_overrides
    from pipeline.job import open_job
    from pipeline.statistics.looks import HoldoutRecord
    from pipeline.tracking.ledger import Look

    config = replace(load_config(path, split_overrides(overrides)), device="cpu")  # nothing is trained
    job = open_job(config, lambda line: click.echo(line, err=True))
    panel, bars = job.data.panel, clean_bars(job)
    if not bars:
        raise ValueError(f"{path} has no holdout on {job.data.source}: there is nothing that could be looked at")
    held = np.arange(bars.start, bars.stop) + 1 + config.execution_delay_bars
    record = HoldoutRecord(panel.times[held], panel.symbols, panel.returns[held], np.full(len(held), np.nan))
    first, last = str(panel.times[bars[0]]), str(panel.times[bars[-1]])
    return Look("added", first, last, panel.symbols, config.sha256, "", n_bars=len(bars)), record


def _of_dates(first: str, last: str, symbols: str, n_bars: int) -> Look:
    """A look at the holdout that a person describes."""
    import numpy as np

    from pipeline.tracking.ledger import Look

    for name, text in (("--first", first), ("--last", last)):
        try:
            datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{name} is {text!r}, it must be an ISO date or time such as 2024-06-28") from None
        if datetime.fromisoformat(text).tzinfo:
            raise ValueError(f"{name} is {text!r}, with a zone: give the bar as the table has it, without one")
    if np.datetime64(first) >= np.datetime64(last):
        raise ValueError(f"--first {first} is not before --last {last}: give the first and the last bar of decision")
    named = tuple(name.strip() for name in symbols.split(",") if name.strip())
    if not named:
        raise ValueError(f"--symbols is {symbols!r}, it must name the instruments, such as A,B,C")
    if n_bars < 2:
        raise ValueError(f"--bars is {n_bars}, a Sharpe is of 2 bars at least")
    return Look("added", first, last, named, "", "", n_bars=n_bars)


def _made_elsewhere(look: Look, sharpe: float, why: str) -> Look:
    """The look with what was seen, which makes it another look than one with another Sharpe or reason."""
    from dataclasses import replace

    return replace(look, sharpe=sharpe, why=why, evaluation=f"{why}: {sharpe}")


def _seen(look: Look) -> str:
    """The Sharpe of a look as text, or why there is none."""
    from tft.metrics import MIN_INFERENCE_BARS

    if look.sharpe is not None:
        return f"{look.sharpe:.2f}"
    few = look.n_bars is not None and look.n_bars < MIN_INFERENCE_BARS
    return f"under {MIN_INFERENCE_BARS} bars" if few else "unknown"


def _bars_of(group: Sequence[Look]) -> str:
    """First and last date of looks, and their instruments."""
    named = sorted({symbol for look in group for symbol in look.symbols})
    more = f" and {len(named) - 6} more" if len(named) > 6 else ""
    first, last = min(look.first for look in group), max(look.last for look in group)
    return f"{', '.join(named[:6])}{more} from {first[:10]} to {last[:10]}"


for _command in looks.commands.values():
    plain(_command)

COMMANDS = (looks,)

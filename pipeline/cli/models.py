"""Commands about registered models: decide with one, list them, promote one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.opening import config_of, config_options

if TYPE_CHECKING:
    from pipeline.config.schema import Config


@click.command("predict")
@config_options("Take the model's name from registry.name of this YAML file, and how to read the table from its data.")
@click.option("--data", "source", required=True, help="Table of the latest bars: file, glob or s3://bucket/key.")
@click.option("--out", default="", help="Write the decisions to this .csv, .parquet or .json file too.")
@click.option("--name", default="", help="Registered model (tft-production).")
@click.option("--stage", default="Production", show_default=True, help="Stage of the version to use.")
@click.option("--alias", default="", help="Alias of the version to use; prevails over the stage.")
@click.option("--version", default="", help="Number of the version to use; prevails over both.")
def predict(
    path: str, overrides: Sequence[str], source: str, out: str, name: str, stage: str, alias: str, version: str
) -> None:
    """Decide on the last bar of a table with a registered model.

    Prints position, probability, expected return and regime of every instrument.
    """
    from dataclasses import replace

    import polars as pl

    from pipeline.config.schema import Config
    from pipeline.data.files import read_table
    from pipeline.strategy import TFTStrategy
    from pipeline.tracking.runs import configure

    configure()
    config = config_of(path, overrides) or Config()
    name = name or config.registry.name
    strategy = TFTStrategy.from_registry(name, stage, alias=alias or None, version=version or None)
    signals = strategy.decide(read_table(replace(config.data, source=source)))
    rows = [
        {
            "symbol": signal.symbol,
            "decided_at": str(signal.decided_at),
            "effective_at": str(signal.effective_at),
            "position": signal.position,
            "probability_up": signal.probability_up,
            "mu": signal.mu,
            "sigma": signal.sigma,
            **(signal.quantiles or {}),
            "regime": signal.regime,
        }
        for signal in signals.values()
    ]
    frame = pl.DataFrame(rows)
    click.echo(f"{name} version {strategy.version}")
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=200, tbl_hide_dataframe_shape=True):
        click.echo(str(frame))
    if out:
        writers: dict[str, Callable[[str], Any]] = {
            ".csv": frame.write_csv,
            ".parquet": frame.write_parquet,
            ".json": frame.write_json,
        }
        if Path(out).suffix not in writers:
            raise ValueError(f"--out {out} must end in {', '.join(writers)}")
        writers[Path(out).suffix](out)


@click.command("models")
@config_options("Take the model's name from registry.name of this YAML file, and for --promote the rule and the table.")
@click.option("--name", default="", help="Registered model (tft-production).")
@click.option("--promote", "candidate", default="", help="Promote this version if the configured rule lets it.")
def models(path: str, overrides: Sequence[str], name: str, candidate: str) -> None:
    """List the versions of a registered model.

    With stage, aliases, holdout Sharpe, the last bar of the fit, and the MLflow run.
    """
    from rich.console import Console
    from rich.table import Table

    from pipeline.config.schema import Config
    from pipeline.registry.versions import versions
    from pipeline.tracking.runs import configure, store

    configure()
    config = config_of(path, overrides) or Config()
    name = name or config.registry.name
    if candidate:
        if not path:
            raise ValueError("--promote needs --config: the rule and the table of newer bars are named there")
        click.echo(_promote(config, name, candidate))
    found = versions(name)
    if not found:
        raise ValueError(f"no model {name} in the registry {store()}: run `tft-pipeline production` first")
    table = Table(title=name)
    for heading in ("version", "stage", "aliases", "holdout Sharpe", "fitted up to", "promoted at", "run"):
        table.add_column(heading)
    for one in found:
        tags = one.tags
        table.add_row(
            str(one.version),
            one.current_stage or "",
            ", ".join(one.aliases),
            tags.get("oos_sharpe", ""),
            tags.get("fit_end", ""),
            tags.get("promoted_at", ""),
            one.run_id or tags.get("run_id", ""),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _promote(config: Config, name: str, candidate: str) -> str:
    """Apply the configured rule to a version on the bars of the configured table; returns what came of it."""
    from pipeline.data.dataset import load_panel
    from pipeline.registry.promotion import promote
    from pipeline.registry.versions import find_version, versions

    version = find_version(name, version=candidate)
    (tags,) = (one.tags for one in versions(name) if str(one.version) == version)
    holdout_sharpe = float(tags["oos_sharpe"]) if "oos_sharpe" in tags else None
    panel = load_panel(config.data, execution_delay_bars=config.execution_delay_bars).panel
    promoted, reason = promote(name, version, rule=config.registry.promote, panel=panel, holdout_sharpe=holdout_sharpe)
    return f"Version {version} is {'promoted' if promoted else 'not promoted'}: {reason}."


COMMANDS = (predict, models)

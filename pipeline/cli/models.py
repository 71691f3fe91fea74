"""Commands about registered models: decide with one; list, show, promote, roll back, archive them."""

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

    from pipeline.bar_labels import bar_label, bar_unit
    from pipeline.config.schema import Config
    from pipeline.data.files import read_table
    from pipeline.strategy import TFTStrategy, as_columns
    from pipeline.tracking.runs import configure
    from tft.table import SYMBOL, TIME

    configure()
    config = config_of(path, overrides) or Config()
    name = name or config.registry.name
    strategy = TFTStrategy.from_registry(name, stage, alias=alias or None, version=version or None)
    keys = strategy.trained.table_format.columns
    data = replace(config.data, source=source, time_column=keys.get(TIME), symbol_column=keys.get(SYMBOL))
    bars = read_table(data)
    signals = strategy.decide(bars)
    unit = bar_unit(strategy.predictor.table(as_columns(bars)).times)
    rows = [
        {
            "symbol": signal.symbol,
            "decided_at": bar_label(str(signal.decided_at), unit),
            "effective_at": bar_label(str(signal.effective_at), unit),
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


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """--config, --set and --name of the commands about the versions of one model."""
    named = click.option("--name", default="", help="Registered model (registry.name of --config, or tft-production).")
    return config_options("Take the model's name from registry.name of this YAML file.")(named(command))


@click.group("models")
def models() -> None:
    """The versions of a registered model: list, show, promote, rollback, archive."""


@models.command("list")
@model_options
def list_versions(path: str, overrides: Sequence[str], name: str) -> None:
    """List the versions.

    With stage, aliases, holdout Sharpe, whether its verdict finds skill beyond drift, the last bar of the fit, and the
    MLflow run.
    """
    from rich.console import Console
    from rich.table import Table

    from pipeline.registry.evidence import kept
    from pipeline.registry.versions import versions

    _, name = _model(path, overrides, name)
    table = Table(title=name)
    for heading in (
        "version",
        "stage",
        "aliases",
        "holdout Sharpe",
        "skill found",
        "fitted up to",
        "promoted at",
        "run",
    ):
        table.add_column(heading)
    for one in versions(name):
        tags = one.tags
        table.add_row(
            str(one.version),
            one.current_stage or "",
            ", ".join(one.aliases),
            tags.get("oos_sharpe", ""),
            "yes" if kept(name, str(one.version)).finds_skill else "no",
            tags.get("fit_end", ""),
            tags.get("promoted_at", ""),
            one.run_id or tags.get("run_id", ""),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@models.command("show")
@click.argument("version")
@model_options
def show(version: str, path: str, overrides: Sequence[str], name: str) -> None:
    """Show a version: verdict, digest, comparisons, and the card with its figures.

    The digest is computed anew from the files and compared with the one it was registered with.
    """
    import mlflow

    from pipeline.registry.comparison import comparisons
    from pipeline.registry.evidence import kept
    from pipeline.registry.recipe import FINGERPRINT
    from pipeline.registry.versions import ARTIFACT, DIGEST, download, find_version, folder_sha256

    _, name = _model(path, overrides, name)
    version = find_version(name, version=version)
    one = mlflow.MlflowClient().get_model_version(name, version)
    tags, digest = one.tags, folder_sha256(download(name, version) / ARTIFACT)
    same = "as registered" if tags.get(DIGEST) == digest else f"NOT the one registered ({tags.get(DIGEST, 'none')})"
    lines = {
        "stage": one.current_stage or "",
        "aliases": ", ".join(one.aliases),
        "holdout Sharpe": tags.get("oos_sharpe", ""),
        "verdict": kept(name, version).verdict,
        "fitted up to": tags.get("fit_end", ""),
        "run": one.run_id or tags.get("run_id", ""),
        "table": tags.get("data_sha256", ""),
        "recipe": tags.get(FINGERPRINT, ""),
        "checkpoint": f"{digest}, {same}",
        "promoted": " ".join(filter(None, (tags.get("promoted_at"), tags.get("promoted_why")))),
    }
    lines |= {f"against version {each.incumbent}": each.in_words() for each in comparisons(tags)}
    click.echo(f"{name} version {version}")
    for what, text in lines.items():
        if text:
            click.echo(f"  {what}: {text}")
    click.echo(f"\n{one.description}")


@models.command("promote")
@click.argument("version")
@config_options("The rule (registry.promote) and the table of newer bars are named in this YAML file.")
@click.option("--name", default="", help="Registered model (registry.name of --config, or tft-production).")
@click.option("--why", default=None, help="Promote by hand, whatever the rule says, for this reason, which is kept.")
@click.option("--force", is_flag=True, help="Promote although a live process has to change with it.")
def promote_version(path: str, overrides: Sequence[str], version: str, name: str, why: str | None, force: bool) -> None:
    """Promote a version by the rule of --config, or by hand with --why.

    By the rule, the comparison with the version that has Production goes on with the newer bars of the table.
    """
    from pipeline.data.dataset import load_panel
    from pipeline.registry.interface import trained_version
    from pipeline.registry.promotion import promote, promote_by_hand
    from pipeline.registry.versions import find_version

    config, name = _model(path, overrides, name)
    version = find_version(name, version=version)
    if why is not None:
        decision = promote_by_hand(name, version, why=why, force=force)
    elif not path:
        raise ValueError(
            'promote needs --config, which names the rule and the table of newer bars, or a reason: --why "..."'
        )
    else:
        delay_bars = trained_version(name, version).timing.delay_bars
        panel = load_panel(config.data, execution_delay_bars=delay_bars).panel
        decision = promote(name, version, rule=config.registry.promote, panel=panel, force=force)
    click.echo(f"Version {version} is {'promoted' if decision.promoted else 'not promoted'}: {decision.reason}.")


@models.command("rollback")
@model_options
def rollback(path: str, overrides: Sequence[str], name: str) -> None:
    """Give Production back to the version that had it before."""
    from pipeline.registry import standing

    _, name = _model(path, overrides, name)
    move = standing.rollback(name)
    click.echo(f"Version {move.version} has Production again, version {move.before} is archived.")


@models.command("archive")
@click.argument("version")
@model_options
def archive(version: str, path: str, overrides: Sequence[str], name: str) -> None:
    """Put a version away that does not have Production."""
    from pipeline.registry import standing

    _, name = _model(path, overrides, name)
    standing.archive(name, version)
    click.echo(f"Version {version} is archived.")


def _model(path: str, overrides: Sequence[str], name: str) -> tuple[Config, str]:
    """The configuration, and the name of a model that is in the registry.

    A promotion that was interrupted is completed first, and said.
    """
    from pipeline.config.schema import Config
    from pipeline.registry.standing import repair
    from pipeline.tracking.runs import configure

    configure()
    config = config_of(path, overrides) or Config()
    name = name or config.registry.name
    if move := repair(name):
        click.echo(f"Completed what was interrupted: version {move.version} has Production ({move.why}).", err=True)
    return config, name


COMMANDS = (predict, models)

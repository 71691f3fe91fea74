"""The command line. Heavy imports wait until a command needs them, so that --help is instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import judging as judge
from pipeline.cli.judging import EXIT_TROUBLE
from tft.runtime.heap import keep_freed_memory

# Waiting threads that spin make two processes on two cores twenty times slower; read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from pipeline.config.schema import Config
    from pipeline.job import Job
    from pipeline.phases.production import Produced

EXIT_FAULT = 2
"""Bad input: one sentence, no traceback."""
EXIT_KILLED = 143
"""128 + SIGTERM, as a shell says it."""

PHASES = {
    "prefilter": "Phase 1: drop columns without information.",
    "exploration": "Phase 2: train on all columns, read their VSN weights.",
    "pruning": "Phase 3: keep columns that beat what noise gets.",
    "tuning": "Phase 4: search hyper-parameters, fold by fold.",
    "production": "Phase 5, and the whole job: walk forward and register.",
}


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Faults of input are one sentence and exit code 2; whatever else is a defect of ours and keeps its traceback."""
    from botocore.exceptions import BotoCoreError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    from pipeline.tracking.runs import Killed

    try:
        yield
    except (ValueError, FloatingPointError, BotoCoreError) as error:
        raise click.exceptions.Exit(_complain(str(error))) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.exceptions.Exit(_complain(f"{where}{error.strerror or error}")) from None
    except MlflowException as error:
        from pipeline.tracking.runs import store

        raise click.exceptions.Exit(_complain(f"MLflow at {store()}: {error.message}")) from None
    except Killed as error:
        _complain(f"stopped by {error}: run the same command again, it goes on from the last finished fold or trial")
        raise click.exceptions.Exit(EXIT_KILLED) from None
    except SQLAlchemyError as error:  # of the MLflow or the Optuna store
        reason = " ".join(str(error).split())[:300]
        raise click.exceptions.Exit(_complain(f"a store is damaged or cannot be written: {reason}")) from None


def _complain(text: str) -> int:
    for line in text.splitlines():
        click.echo(f"Error: {line}", err=True)
    return EXIT_FAULT


class _InOrder(click.Group):
    """Lists its commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="tft-pipeline")
def main() -> None:
    """From a table of features to a registered Temporal Fusion Transformer, and what it is worth.

    A phase runs whatever it needs from the phases before it, and reuses what has not changed. `production` is the whole
    job. Results go to MLflow (MLFLOW_TRACKING_URI, by default sqlite:///mlflow.db in this folder).
    """
    keep_freed_memory()


def _phase_command(name: str) -> click.Command:
    @click.option(
        "--config",
        "path",
        default="configs/quickstart.yaml",
        show_default=True,
        help="YAML file; configs/default.yaml is the reference run.",
    )
    @click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a key of the file, such as model.d_hidden=32. Repeatable; several in one separated by ';'.",
    )
    @click.option("--run-id", default="", help="MLflow run to go on with instead of opening a new one.")
    @click.option(
        "--fresh", type=click.BOOL, default=False, show_default=True, help="Rerun phases even if nothing has changed."
    )
    def command(path: str, overrides: Sequence[str], run_id: str, fresh: bool) -> None:
        with _plain_errors():
            code = run_job(name, path, overrides, run_id=run_id or None, fresh=fresh)
        raise click.exceptions.Exit(code)

    return click.command(name, help=PHASES[name])(command)


def _plain(command: click.Command) -> click.Command:
    """The command with its faults in plain sentences."""
    run = command.callback
    assert run is not None

    @wraps(run)
    def plain(**options: Any) -> None:
        with _plain_errors():
            run(**options)

    command.callback = plain
    return command


for _name in PHASES:
    main.add_command(_phase_command(_name))
for _command in judge.COMMANDS:
    main.add_command(_plain(_command))


def run_job(name: str, path: str, overrides: Sequence[str], *, run_id: str | None, fresh: bool) -> int:
    """Run a phase and what it needs; returns the exit code."""
    from importlib import import_module

    from pipeline.config.reading import load_config, split_overrides
    from pipeline.job import Job
    from pipeline.prepare import prepare
    from pipeline.tracking.progress import Reporter
    from pipeline.tracking.runs import configure, parent_run

    configure()
    config = load_config(path, split_overrides(overrides))
    with Reporter() as reporter:
        data, device = prepare(config, reporter)
        with parent_run(name, run_id) as parent:
            job = Job(config=config, data=data, parent=parent, reporter=reporter, device=device, fresh=fresh)
            job.log_inputs(command=name, config=path)
            job.check()
            result = import_module(f"pipeline.phases.{name}").run(job)
    if name == "production":
        _print_headline(job, result)
        if result.trouble:
            for sentence in result.trouble:
                click.echo(f"Error: {sentence}", err=True)
            return EXIT_TROUBLE
    else:
        click.echo(f"{name} is done: MLflow run {job.run_ids[name]}. Look at it with: {_ui_command()}")
    return 0


def _ui_command() -> str:
    from pipeline.tracking.runs import store

    return f"mlflow ui --workers 1 --backend-store-uri {store()}"


def _print_headline(job: Job, result: Produced) -> None:
    from rich.console import Console
    from rich.table import Table

    nested = job.config.selection == "nested"
    segments = {
        "nested (every fold selected on the bars before it)" if nested else "holdout (never selected on)": (
            result.holdout,
            result.inference.holdout,
        )
    }
    if not nested:
        segments["development (selected on)"] = (result.development, result.inference.development)
    table = Table(title="Walk-forward record")
    for heading in ("", *segments):
        table.add_column(heading, justify="left" if not heading else "right")
    performance = {
        "n_bars": ("bars", "{:d}"),
        "sharpe": ("Sharpe, annual, net", "{:.2f}"),
        "sharpe_gross": ("Sharpe, annual, gross", "{:.2f}"),
        "annual_return": ("return a year", "{:.2%}"),
        "annual_volatility": ("volatility a year", "{:.2%}"),
        "max_drawdown": ("worst drawdown", "{:.2%}"),
        "turnover": ("turnover a year", "{:.1f}"),
        "hit_rate": ("hit rate", "{:.1%}"),
    }
    luck = {
        "standard_error": ("standard error of the net Sharpe", "{:.2f}"),
        "p_value_deflated": ("p-value of no skill", "{:.3f}"),
        "dsr": ("deflated Sharpe ratio", "{:.3f}"),
    }
    for of, formats in enumerate((performance, luck)):
        for field, (label, style) in formats.items():
            values = [getattr(segment[of], field, None) for segment in segments.values()]
            table.add_row(label, *("-" if value is None else style.format(value) for value in values))
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(result.inference.verdict, style="bold", highlight=False)
    if result.looks:
        console.print(f"Look {len(result.looks)} at this {'record' if nested else 'holdout'}.", highlight=False)
    gaps = [row.val_oos_gap for row in result.folds if row.val_oos_gap is not None]
    if gaps:
        console.print(
            f"Validation Sharpe minus test Sharpe: {sum(gaps) / len(gaps):+.2f} on average of {len(gaps)} folds."
        )
    console.print(f"Columns: {job.data.panel.features.shape[2]} in the table, {len(result.features)} selected.")
    if result.model_version:
        state = "promoted to Production" if result.promoted else "not promoted"
        console.print(
            f"Registered model {result.model_name} version {result.model_version}: {state}, {result.promotion_reason}."
        )
    console.print(f"Report, tables and figures: MLflow run {job.parent.run_id}. Look at it with:")
    console.print(f"  {_ui_command()}", soft_wrap=True)


def _configured(help_text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """--config and --set of the commands that need no configuration; `help_text` says what they take from one."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        override = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As for the phases.")
        return click.option("--config", "path", default="", help=help_text)(override(command))

    return add


def _config_of(path: str, overrides: Sequence[str]) -> Config | None:
    """The configuration asked for, if any."""
    from pipeline.config.reading import load_config, split_overrides

    return load_config(path, split_overrides(overrides)) if path else None


@main.command("sample-data")
@_configured("Take file and sizes from data.source and data.sample of this YAML file; the options below prevail.")
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
    with _plain_errors():
        from dataclasses import asdict

        from pipeline.config.schema import Config
        from pipeline.config.sections import SampleConfig
        from pipeline.data.sample import write_sample

        config = _config_of(path, overrides) or Config()
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


@main.command("predict")
@_configured("Take the model's name from registry.name of this YAML file, and how to read the table from its data.")
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
    with _plain_errors():
        from dataclasses import replace

        import polars as pl

        from pipeline.config.schema import Config
        from pipeline.data.files import read_table
        from pipeline.strategy import TFTStrategy
        from pipeline.tracking.runs import configure

        configure()
        config = _config_of(path, overrides) or Config()
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


@main.command("models")
@_configured("Take the model's name from registry.name of this YAML file, and for --promote the rule and the table.")
@click.option("--name", default="", help="Registered model (tft-production).")
@click.option("--promote", "candidate", default="", help="Promote this version if the configured rule lets it.")
def models(path: str, overrides: Sequence[str], name: str, candidate: str) -> None:
    """List the versions of a registered model.

    With stage, aliases, holdout Sharpe, the last bar of the fit, and the MLflow run.
    """
    with _plain_errors():
        from rich.console import Console
        from rich.table import Table

        from pipeline.config.schema import Config
        from pipeline.registry.versions import versions
        from pipeline.tracking.runs import configure, store

        configure()
        config = _config_of(path, overrides) or Config()
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
    from pipeline.registry.versions import find_version, promote, versions

    version = find_version(name, version=candidate)
    (tags,) = (one.tags for one in versions(name) if str(one.version) == version)
    holdout_sharpe = float(tags["oos_sharpe"]) if "oos_sharpe" in tags else None
    panel = load_panel(config.data, execution_delay_bars=config.execution_delay_bars).panel
    promoted, reason = promote(name, version, rule=config.registry.promote, panel=panel, holdout_sharpe=holdout_sharpe)
    return f"Version {version} is {'promoted' if promoted else 'not promoted'}: {reason}."


if __name__ == "__main__":
    main()

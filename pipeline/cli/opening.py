"""Shared by commands: their options, the job that they open, and where their results can be looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pipeline.config.schema import Config
    from pipeline.job import Job
    from pipeline.tracking.progress import Reporter


def job_options(
    config_help: str, run_help: str, fresh_help: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """--config, --set, --run-id and --fresh of the commands that run a job."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        options = [
            click.option("--config", "path", default="configs/quickstart.yaml", show_default=True, help=config_help),
            click.option(
                "--set",
                "overrides",
                multiple=True,
                metavar="KEY=VALUE",
                help="Override a key of the file, such as model.d_hidden=32. Repeatable; several in one separated by "
                "';'.",
            ),
            click.option("--run-id", default="", help=run_help),
            click.option("--fresh", type=click.BOOL, default=False, show_default=True, help=fresh_help),
        ]
        for option in reversed(options):
            command = option(command)
        return command

    return add


@contextmanager
def opened(path: str, overrides: Sequence[str], *, fresh: bool) -> Iterator[tuple[Job, Reporter]]:
    """The configured job, and what tells the user how it goes. Raises ValueError for what is wrong with either."""
    from pipeline.config.reading import load_config, split_overrides
    from pipeline.job import open_job
    from pipeline.tracking.progress import Reporter
    from pipeline.tracking.runs import configure

    configure()
    config = load_config(path, split_overrides(overrides))
    with Reporter() as reporter:
        yield open_job(config, reporter.say, fresh=fresh), reporter


def config_options(help_text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """--config and --set of the commands that need no configuration; `help_text` says what they take from one."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        override = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As for the phases.")
        return click.option("--config", "path", default="", help=help_text)(override(command))

    return add


def config_of(path: str, overrides: Sequence[str]) -> Config | None:
    """The configuration asked for, if any. Raises ValueError for settings on top of none."""
    from pipeline.config.reading import load_config, split_overrides

    if overrides and not path:
        raise ValueError("--set changes a configuration: give --config too, the YAML file that it is on top of")
    return load_config(path, split_overrides(overrides)) if path else None

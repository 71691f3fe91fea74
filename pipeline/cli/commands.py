"""The command line. Heavy imports wait until a command needs them, so that --help is instant."""

from __future__ import annotations

import os

import click

from pipeline.cli import data, experiments, looks, models, phases, report
from pipeline.cli.errors import plain
from tft.runtime.heap import keep_freed_memory

# Waiting threads that spin make two processes on two cores twenty times slower; read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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


for _commands in (phases, report, experiments, data, models, looks):
    for _command in _commands.COMMANDS:
        main.add_command(plain(_command))

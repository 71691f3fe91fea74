"""Faults of input are one sentence and exit code 2; whatever else is a defect of ours and keeps its traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import click

EXIT_LOOKAHEAD = 1
"""The function that was checked looks ahead."""
EXIT_FAULT = 2
"""Wrong input."""
EXIT_TROUBLE = 3
"""The work is finished and safe, but something after it could not be done."""
EXIT_KILLED = 143
"""128 + SIGTERM, as a shell says it."""


@contextmanager
def plain_errors() -> Iterator[None]:
    from botocore.exceptions import BotoCoreError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    from pipeline.tracking.runs import Killed, store

    try:
        yield
    except (ValueError, FloatingPointError, BotoCoreError) as error:
        raise click.exceptions.Exit(_complain(str(error))) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.exceptions.Exit(_complain(f"{where}{error.strerror or error}")) from None
    except MlflowException as error:
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


def plain(command: click.Command) -> click.Command:
    """The command, or all commands of a group, with its faults in plain sentences."""
    if isinstance(command, click.Group):
        for one in command.commands.values():
            plain(one)
        return command
    run = command.callback
    assert run is not None

    @wraps(run)
    def complaining(**options: Any) -> None:
        with plain_errors():
            run(**options)

    command.callback = complaining
    return command

"""Who has what among the versions of a model: stage and alias, which move together, and the history of Production.

    registered           Staging      alias challenger (the newest one)
    earned or given      Production   alias production; the version before it is Archived

A move is written down before it is made (tag `production.moving` of the model) and struck out when all of it is done. A
process that is killed in between leaves the tag, and whichever command comes next makes the rest of the move. Every
move that was made stays as a tag of the model, `production.<time>`: rollback goes by these.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow.tracking import MlflowClient

from pipeline.config.reading import from_json, to_json
from pipeline.registry.versions import ALIAS, STAGE, RegistryError, find_version, quiet_mlflow

CHALLENGER = "challenger"
STAGING = "Staging"
ARCHIVED = "Archived"
MOVES = "production."
MOVING = f"{MOVES}moving"


@dataclass(frozen=True)
class Move:
    """Stage and alias of Production given to a version."""

    version: str
    before: str
    """The version that had Production until then; empty if none had."""
    at: str
    """UTC."""
    why: str
    back: bool = False
    """A rollback."""


def now() -> str:
    """The time as moves and comparisons write it down: UTC, sortable as text."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def enter(name: str, version: str) -> None:
    """Make a version that was just registered the challenger."""
    client = MlflowClient()
    with quiet_mlflow():
        client.transition_model_version_stage(name, version, STAGING)
    client.set_registered_model_alias(name, CHALLENGER, version)


def holder(name: str) -> str | None:
    """The version that has Production, if any has; the alias says so."""
    try:
        return find_version(name, alias=ALIAS)
    except RegistryError:
        return None


def give(name: str, version: str, why: str, *, back: bool = False) -> Move:
    """Give stage and alias of Production to a version; the one that has them is archived."""
    repair(name)
    move = Move(version, holder(name) or "", now(), why, back)
    MlflowClient().set_registered_model_tag(name, MOVING, to_json(move))
    _make(name, move)
    return move


def repair(name: str) -> Move | None:
    """Make the rest of a move that a killed process began; returns it, None where there is none.

    Raises RegistryError if the registry has no such model.
    """
    begun = _tags(name).get(MOVING)
    if begun is None:
        return None
    move = from_json(Move, begun)
    _make(name, move)
    return move


def rollback(name: str) -> Move:
    """Give Production back to the version from which the present one took it.

    Once more goes further back: a version that came back by a rollback has the one before it that it had the first
    time. Raises RegistryError where no version has Production, or none is known to have had it before.
    """
    repair(name)
    current = holder(name)
    if current is None:
        raise RegistryError(f"no version of {name} has Production: there is nothing to go back from")
    taken = [move for move in history(name) if move.version == current and not move.back]
    if not taken or not taken[-1].before:
        raise RegistryError(
            f"no version of {name} is known to have had Production before version {current}: give it to one by "
            f'`tft-pipeline models promote N --why "..."`'
        )
    before = find_version(name, version=taken[-1].before)
    return give(name, before, f"rolled back from version {current}", back=True)


def archive(name: str, version: str) -> None:
    """Put a version away. Raises RegistryError for the one that has Production."""
    repair(name)
    version = find_version(name, version=version)
    if version == holder(name):
        raise RegistryError(
            f"version {version} of {name} has Production: `tft-pipeline models rollback`, or promote another one first"
        )
    client = MlflowClient()
    with quiet_mlflow():
        client.transition_model_version_stage(name, version, ARCHIVED)
    _take_challenger(client, name, version)


def history(name: str) -> list[Move]:
    """The moves of Production that were made, oldest first."""
    tags = _tags(name)
    return [from_json(Move, tags[key]) for key in sorted(tags) if key.startswith(MOVES) and key != MOVING]


def _make(name: str, move: Move) -> None:
    """Every step may have been made before: none does harm twice."""
    client = MlflowClient()
    with quiet_mlflow():
        client.transition_model_version_stage(name, move.version, STAGE, archive_existing_versions=True)
    client.set_registered_model_alias(name, ALIAS, move.version)
    _take_challenger(client, name, move.version)
    for tag, text in {"promoted_at": move.at[:19], "promoted_why": move.why}.items():
        client.set_model_version_tag(name, move.version, tag, text)
    line = f"Production since {move.at[:10]}: {move.why}."
    description = client.get_model_version(name, move.version).description or ""
    if line not in description.splitlines():
        client.update_model_version(name, move.version, description=f"{description}\n\n{line}".strip())
    client.set_registered_model_tag(name, f"{MOVES}{move.at}", to_json(move))
    client.delete_registered_model_tag(name, MOVING)


def _take_challenger(client: MlflowClient, name: str, version: str) -> None:
    if CHALLENGER in client.get_model_version(name, version).aliases:
        client.delete_registered_model_alias(name, CHALLENGER)


def _tags(name: str) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    from pipeline.tracking.runs import store

    try:
        return dict(MlflowClient().get_registered_model(name).tags)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise RegistryError(
                f"no model {name} in the registry {store()}: run `tft-pipeline production` first"
            ) from None
        raise

"""Stage and alias move together, whatever happens on the way, and back again."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipeline.registry import standing as moves
from pipeline.registry.standing import archive, give, history, holder, repair, rollback
from pipeline.registry.versions import RegistryError
from tests.pipeline.registry.conftest import ARCHIVED, CHALLENGES, IN_PRODUCTION, WAITS, deliver, standing
from tft.checkpoint import TrainedModel
from tft.panel import Panel


@pytest.fixture
def three(client: MlflowClient, good: TrainedModel, panel: Panel, tmp_path: Path) -> str:
    """A model of three versions, none of which has Production."""
    for number in range(3):
        deliver(good, panel, tmp_path / str(number), tmp_path.name, "never")
    return tmp_path.name


def test_the_newest_version_is_the_challenger(client: MlflowClient, three: str) -> None:
    assert standing(client, three) == {"3": CHALLENGES, "2": WAITS, "1": WAITS}
    assert holder(three) is None and history(three) == []


def test_giving_moves_stage_and_alias_and_is_written_down(client: MlflowClient, three: str) -> None:
    """The challenger that is promoted is no challenger any more; the version before is archived."""
    give(three, "2", "one")
    assert standing(client, three) == {"3": CHALLENGES, "2": IN_PRODUCTION, "1": WAITS}
    give(three, "3", "two")
    assert standing(client, three) == {"3": IN_PRODUCTION, "2": ARCHIVED, "1": WAITS}
    assert [(move.version, move.before, move.why, move.back) for move in history(three)] == [
        ("2", "", "one", False),
        ("3", "2", "two", False),
    ]
    times = [move.at for move in history(three)]
    assert times == sorted(times) and all(time.endswith("Z") for time in times)


STEPS = (
    "transition_model_version_stage",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
    "update_model_version",
    "delete_registered_model_tag",
)


class Cut(BaseException):
    """The process ends here."""


def killed_while_giving(three: str, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A process that gives Production to version 3 and ends in this call of the client."""

    def cut(*_: object, **__: object) -> None:
        raise Cut

    with monkeypatch.context() as killed:
        killed.setattr(moves.MlflowClient, step, cut)
        with pytest.raises(Cut):
            give(three, "3", "second")


@pytest.mark.parametrize("step", STEPS)
def test_what_a_killed_process_left_the_next_command_completes(
    client: MlflowClient, three: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whichever call it was killed in: with its next move, or by itself; once."""
    give(three, "1", "first")
    killed_while_giving(three, monkeypatch, step)
    mended = repair(three)
    assert mended is not None and (mended.version, mended.why) == ("3", "second")
    assert standing(client, three) == {"3": IN_PRODUCTION, "2": WAITS, "1": ARCHIVED}
    assert [move.version for move in history(three)] == ["1", "3"]
    assert (client.get_model_version(three, "3").description or "").count("second") == 1
    assert repair(three) is None


def test_a_process_killed_before_it_began_changed_nothing(
    client: MlflowClient, three: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(three, "1", "first")
    killed_while_giving(three, monkeypatch, "set_registered_model_tag")
    assert repair(three) is None
    assert standing(client, three) == {"3": CHALLENGES, "2": WAITS, "1": IN_PRODUCTION}


def test_a_rollback_mends_first_and_then_goes_back(
    client: MlflowClient, three: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(three, "1", "first")
    killed_while_giving(three, monkeypatch, "set_registered_model_alias")
    assert rollback(three).version == "1"
    assert standing(client, three) == {"3": ARCHIVED, "2": WAITS, "1": IN_PRODUCTION}


def test_rollback_goes_back_step_by_step(client: MlflowClient, three: str) -> None:
    """Twice is two steps back and not to and fro; after a new promotion it starts there."""
    for version in ("1", "2", "3"):
        give(three, version, f"to {version}")
    assert [rollback(three).version for _ in range(2)] == ["2", "1"]
    assert standing(client, three) == {"3": ARCHIVED, "2": ARCHIVED, "1": IN_PRODUCTION}
    with pytest.raises(RegistryError, match="known to have had Production before version 1"):
        rollback(three)
    give(three, "3", "again")
    assert rollback(three).version == "1"
    assert [move.version for move in history(three) if move.back] == ["2", "1", "1"]
    assert client.get_model_version(three, "1").tags["promoted_why"] == "rolled back from version 3"


def test_there_is_nothing_to_go_back_from(client: MlflowClient, three: str) -> None:
    with pytest.raises(RegistryError, match=r"no version of .* has Production"):
        rollback(three)


def test_archiving_takes_the_challengers_alias_and_spares_production(client: MlflowClient, three: str) -> None:
    give(three, "2", "one")
    archive(three, "3")
    assert standing(client, three) == {"3": ARCHIVED, "2": IN_PRODUCTION, "1": WAITS}
    with pytest.raises(RegistryError, match=r"version 2 of .* has Production"):
        archive(three, "2")
    with pytest.raises(RegistryError, match=r"no model .* with version 9"):
        archive(three, "9")

"""MLproject: every entry point is a command of the same name, with parameters that the command takes."""

from __future__ import annotations

import re
import shlex
from typing import Any

import click
import pytest
import yaml

from pipeline.cli.commands import main
from pipeline.cli.phases import PHASES
from tests.conftest import ROOT

PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
ENTRY_POINTS: dict[str, dict[str, Any]] = PROJECT["entry_points"]
COMMANDS = {name: point for name, point in ENTRY_POINTS.items() if name != "setup"}


def words(name: str, **given: str) -> list[str]:
    """The command line of an entry point as a shell splits it, its parameters quoted as MLflow quotes them."""
    parameters = ENTRY_POINTS[name].get("parameters", {})
    values = {key: given.get(key, declared.get("default", "X")) for key, declared in parameters.items()}
    line = ENTRY_POINTS[name]["command"].format(**{key: shlex.quote(str(value)) for key, value in values.items()})
    return shlex.split(line)


def command_of(name: str) -> click.Command:
    return main.commands["production" if name == "main" else name]


def below_main(name: str, command: click.Command, line: list[str]) -> dict[str, Any]:
    """The options of a command called as `tft-pipeline` calls it: click keeps for good how its help is asked for."""
    return command.make_context(name, line, parent=click.Context(main, **main.context_settings)).params


def parsed(name: str, **given: str) -> dict[str, Any]:
    """What the command gets, parsed as click does; it must take every word."""
    line = words(name, **given)
    start = line.index("pipeline")
    assert line[start - 2 : start] == ["python", "-m"]
    command, rest = command_of(name), line[start + 2 :]
    assert line[start + 1] == ("production" if name == "main" else name)
    if isinstance(command, click.Group):
        command, rest = command.commands[rest[0]], rest[1:]
    return below_main(name, command, rest)


def test_every_command_is_an_entry_point_and_the_other_way_round() -> None:
    """`main`, which `mlflow run .` starts, is the whole job; `setup` only makes the environment."""
    assert COMMANDS.keys() == main.commands.keys() | {"main"}
    assert ENTRY_POINTS["main"]["command"] == ENTRY_POINTS["production"]["command"]
    assert "parameters" not in ENTRY_POINTS["setup"]


@pytest.mark.parametrize("name", ["main", *PHASES])
def test_a_phase_declares_the_four_parameters(name: str) -> None:
    """With the defaults of the command itself: entry point and command do the same."""
    declared = {key: one["default"] for key, one in ENTRY_POINTS[name]["parameters"].items()}
    assert declared == {"config": "configs/quickstart.yaml", "set": "", "run_id": "", "fresh": "false"}
    taken = parsed(name)
    plain = below_main(name, command_of(name), [])
    assert taken | {"overrides": ()} == plain
    assert taken["overrides"] == ("",)  # an empty override is dropped


@pytest.mark.parametrize("name", ["main", *PHASES])
def test_values_arrive_as_they_were_given(name: str) -> None:
    """Spaces, brackets and semicolons included."""
    several = "production.epochs=20; data.exclude=[a, b]"
    taken = parsed(name, config="my configs/a b.yaml", set=several, run_id="abc", fresh="true")
    assert taken == {"path": "my configs/a b.yaml", "overrides": (several,), "run_id": "abc", "fresh": True}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_takes_what_the_entry_point_gives(name: str) -> None:
    """Every parameter is used, and every option given exists; what has no default is what the command requires."""
    parameters = ENTRY_POINTS[name]["parameters"]
    used = set(re.findall(r"{(\w+)}", ENTRY_POINTS[name]["command"]))
    assert used == set(parameters)
    numbers = {key: "3" for key in parameters if "default" not in parameters[key]}
    parsed(name, **numbers)
    required = {option.opts[0].lstrip("-") for option in command_of(name).params if option.required}
    assert {key for key in parameters if "default" not in parameters[key]} == required


@pytest.mark.parametrize("name", COMMANDS)
def test_waiting_threads_sleep_before_torch_loads(name: str) -> None:
    """Whatever loads torch is started with OMP_WAIT_POLICY=PASSIVE; the four that do not need not be."""
    light = ("sample-data", "models", "check-lookahead", "report")
    assert ("OMP_WAIT_POLICY=PASSIVE" in words(name)) == (name not in light)


def test_no_environment_is_named() -> None:
    """With one, MLflow would ask for conda or pyenv; without, it takes python_env.yaml beside the file."""
    assert set(PROJECT) == {"name", "entry_points"}
    assert (ROOT / "python_env.yaml").exists()

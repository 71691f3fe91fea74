"""The file that is written: a reason on every line, and what is given by hand prevails."""

from __future__ import annotations

import yaml

from pipeline.config.reading import config_from, to_mapping
from pipeline.proposal.settings import overridden, to_yaml
from tests.pipeline.proposal.tables import proposed


def test_every_line_has_a_comment_and_the_file_says_what_the_settings_are() -> None:
    settings = proposed(700)
    text = to_yaml(settings, ["a table"])
    first, *lines = text.splitlines()
    assert first == "# a table"
    assert all(" # " in line and line.partition(" # ")[2].strip() for line in lines)
    held = to_mapping(config_from(yaml.safe_load(text)))
    for name, (value, _) in settings.items():
        place = held
        for key in name.split("."):
            place = place[key]
        assert value == (place if not isinstance(value, dict) else {key: place[key] for key in value}), name


def test_what_is_given_by_hand_prevails_and_what_is_new_joins_its_section() -> None:
    given = {"seed": 3, "model": {"d_hidden": 8}, "tuning": {"space": {"lr": {"low": 0.001, "high": 0.02}}}}
    settings = overridden(proposed(700), given | {"baselines": {"lstm": True}, "training": {"block_bars": 16}})
    config = config_from(yaml.safe_load(to_yaml(settings, [])))
    assert (config.seed, config.model.d_hidden, config.training.block_bars) == (3, 8, 16)
    assert config.baselines.lstm and config.tuning.space["lr"].high == 0.02
    assert config.model.n_heads == 2
    assert settings["seed"][1] == "as given by --set"

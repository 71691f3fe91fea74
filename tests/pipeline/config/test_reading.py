"""Reading: what is read is what was written, and everything wrong with it is said at once."""

from __future__ import annotations

import json
import math
import random
import struct
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from pipeline.config import bars
from pipeline.config.reading import from_json, load_config, split_overrides, to_json, to_mapping
from pipeline.config.schema import Config, ConfigError
from pipeline.config.space import SECTION_OF, Range
from tests.pipeline.config.documents import CONFIGS, faults, load
from tft.recipe import TrainingConfig


@dataclass(frozen=True)
class Row:
    name: str
    sharpe: float | None = None


@dataclass(frozen=True)
class Result:
    """Every form of field that the results of the phases have."""

    weights: tuple[tuple[float, ...], ...]
    rows: tuple[Row, ...]
    kind: Literal["holdout", "nested"]
    best: dict[str, Any] = field(default_factory=dict)
    by_name: dict[str, Row] = field(default_factory=dict)
    span: tuple[int, float] = (0, 0.0)
    first: Row | None = None
    done: bool = False


def test_a_toy_that_is_promoted_always_has_a_name_of_its_own() -> None:
    """Run beside a real job it takes nothing over. quickstart.yaml alone has the name that is used by default."""
    of_files = {path.name: load_config(path).registry for path in CONFIGS.glob("*.yaml")}
    always = {file: one.name for file, one in of_files.items() if one.promote == "always"}
    assert always == {
        "quickstart.yaml": "tft-production",
        "micro.yaml": "tft-micro",
        "nested_micro.yaml": "tft-nested-micro",
    }
    names = [one.name for one in of_files.values()]
    assert all(names.count(name) == 1 for file, name in always.items() if file != "quickstart.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_loads_and_holds_what_it_says(path: Path) -> None:
    """Each value in the file is the value in the configuration; a generated table has bars enough for every phase."""
    config = load_config(path)
    written = yaml.safe_load(path.read_text())

    def compare(where: str, said: Any, held: Any) -> None:
        if isinstance(said, dict):
            for name, value in said.items():
                compare(f"{where}.{name}", value, held[name])
        else:  # YAML reads a date where the configuration holds its ISO text
            assert held == (said.isoformat() if hasattr(said, "isoformat") else said), where

    compare("", written, to_mapping(config))
    if config.data.sample is not None:
        assert config.data.sample.n_bars >= bars.min_bars(config)


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "configs/quickstart.yaml"])
def test_a_shipped_configuration_is_found_by_name_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of one's own with that name comes first."""
    monkeypatch.chdir(tmp_path)
    assert load_config(name) == load_config(CONFIGS / "quickstart.yaml")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("seed: 1234")
    assert load_config(name).seed == 1234


def test_the_reference_configuration_is_the_default() -> None:
    """configs/default.yaml spells out every default but for its training, which is the reference run's; it adds a
    search space, and the table to generate without one."""
    config = load_config(CONFIGS / "default.yaml")
    assert set(config.tuning.space) == set(SECTION_OF)
    bare = replace(config, tuning=replace(config.tuning, space={}), data=replace(config.data, sample=None))
    assert bare == Config(
        training=TrainingConfig(
            objective="pooled",
            lr=0.0027,
            weight_decay=0.0,
            batch_size=16,
            loss_mode="joint_mle",
            mle_weight=0.186,
            patience=15,
        )
    )


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Config()


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    """Unknown keys, wrong types, impossible values and contradictions of one file come in one error."""
    found = faults(
        tmp_path,
        {
            "sede": 7,
            "horizon": "two",
            "allow_label_overlap": 1,
            "holdout_fraction": 1.5,
            "model": {"dropuot": 0.1, "dropout": 1.5, "n_heads": 2.5},
            "training": {"loss_mode": "mse", "batch_size": 1},
            "positions": 3,
            "data": {"exclude": "a_b"},
            "tuning": {"n_trials": 0, "space": {"lr": {"low": 1, "high": 0.1}, "learning_rate": {"choices": [1]}}},
            "production": {"step_size": 0},
            "exploration": {"max_folds": 0},
            "prefilter": {"max_correlation": 0},
            "pruning": {"min_stability": 2, "false_discovery_rate": 0},
        },
        "regime",
    )
    named = [
        *("sede", "horizon", "allow_label_overlap", "holdout_fraction", "model.dropuot", "model.dropout is 1.5"),
        *("model.n_heads", "training.loss_mode", "training.batch_size", "positions", "data.exclude", "'regime'"),
        *("tuning.n_trials", "tuning.space.lr.low", "tuning.space.learning_rate", "production.step_size"),
        *("exploration.max_folds", "prefilter.max_correlation", "pruning.min_stability"),
        "pruning.false_discovery_rate",
    ]
    for name in named:
        assert any(name in fault for fault in found), f"{name} is not mentioned"
    assert len(found) == len(named), "one sentence for each fault"


@pytest.mark.parametrize(
    ("document", "unknown", "nearest"),
    [
        ({"purge_gaps": 3}, "purge_gaps", "purge_gap"),
        ({"model": {"hidden": 3}}, "model.hidden", "d_hidden"),
        ({"walk_forward": {"trainwindow": 3}}, "walk_forward.trainwindow", "train_window"),
        ({"data": {"sample": {"n_bar": 3}}}, "data.sample.n_bar", "n_bars"),
        ({"tuning": {"space": {"lr": {"hihg": 1, "low": 0.1, "high": 1}}}}, "tuning.space.lr.hihg", "high"),
        ({"tuning": {"space": {"drop_out": {"low": 0, "high": 1}}}}, "tuning.space.drop_out", "dropout"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    tmp_path: Path, document: Any, unknown: str, nearest: str
) -> None:
    (fault,) = faults(tmp_path, document)
    assert fault.startswith(f"{unknown} ") and fault.endswith(f"did you mean {nearest}?")


def test_an_unknown_key_near_nothing_gets_the_list_of_known_ones(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, {"regime": {"zzzzqqqq": 1}})
    assert "enter, leave, min_position" in fault


def test_overrides_reach_any_depth_and_read_values_as_yaml(tmp_path: Path) -> None:
    """Numbers, text, lists, null and new sections; later ones prevail; what is not named stays as in the file."""
    config = load(
        tmp_path,
        {"seed": 1, "model": {"d_hidden": 8, "n_heads": 1}, "tuning": None},
        *("model.d_hidden=16", "seed=2", "seed=3", "data.known=[a_b, c_d]", "data.sample.n_bars=77"),
        *("registry.promote=never", "exploration.max_folds=null", "walk_forward.expanding=true"),
        "tuning.space.d_hidden={choices: [16, 32]}",
    )
    assert (config.model.d_hidden, config.model.n_heads, config.seed) == (16, 1, 3)
    assert config.data.known == ("a_b", "c_d") and config.data.sample is not None and config.data.sample.n_bars == 77
    assert config.registry.promote == "never" and config.exploration.max_folds is None
    assert config.walk_forward.expanding is True
    assert config.tuning.space == {"d_hidden": Range(choices=(16, 32))}


def test_overrides_are_separated_by_semicolons() -> None:
    """Several in one text, several texts, blanks around them, and a trailing semicolon."""
    assert split_overrides(["a=1; b.c=[2, 3];", "d=x=y", " ; "]) == ["a=1", "b.c=[2, 3]", "d=x=y"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "lacks an equals sign"),
        ("seed=[1", "not YAML"),
        ("seed.deep=1", "single value, not a section"),
        ("modle.d_hidden=1", "did you mean model?"),
        ("model=1", "a section with keys of its own"),
    ],
)
def test_an_override_that_cannot_be_applied_is_a_fault(tmp_path: Path, override: str, said: str) -> None:
    (fault,) = faults(tmp_path, {"seed": 1}, override)
    assert said in fault


def test_types_are_those_of_the_fields(tmp_path: Path) -> None:
    """1e-3, which YAML takes for text, is a number; a date is text; 3.0 is a whole number; 2 is a real one."""
    config = load(
        tmp_path,
        "{training: {lr: 1e-3}, holdout_start: 2025-06-01, seed: 3.0, periods_per_year: 2, data: {sample: {seed: 1}}}",
    )
    assert config.training.lr == 0.001 and isinstance(config.training.lr, float)
    assert config.holdout_start == "2025-06-01"
    assert config.seed == 3 and isinstance(config.seed, int)
    assert isinstance(config.periods_per_year, float)
    assert load(tmp_path, "{}", "training.lr=5e-4").training.lr == 0.0005
    assert load(tmp_path, "{}", "holdout_start=2025-06-01 09:15:00").holdout_start == "2025-06-01T09:15:00"


@pytest.mark.parametrize(
    "text",
    ["seed: true", "seed: 1.5", "seed: null", "periods_per_year: many", "device: 3", "allow_label_overlap: 'no'"],
)
def test_a_value_of_another_type_is_refused(tmp_path: Path, text: str) -> None:
    (fault,) = faults(tmp_path, text)
    assert fault.startswith(f"{text.split(':')[0]} is ") and "it must be" in fault


@pytest.mark.parametrize(("text", "said"), [("[1, 2]", "holds a list"), ("a: [", "not readable as YAML")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (fault,) = faults(tmp_path, text)
    assert said in fault


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml does not exist"):
        load_config(tmp_path / "absent.yaml")


def test_a_configuration_survives_plain_values() -> None:
    """to_mapping and from_json undo each other: how a configuration is stored beside a model, and read again."""
    config = load_config(CONFIGS / "quickstart.yaml")
    assert from_json(Config, json.dumps(to_mapping(config))) == config


def test_an_empty_section_is_a_fault_and_its_defaults_judge_the_rest(tmp_path: Path) -> None:
    """A faulty value is replaced by its default, so that the others are found; a search space as a whole."""
    assert faults(tmp_path, {"tuning": None, "horizon": 0}) == (
        "tuning is None, it must be a section with keys of its own",
        "horizon is 0, the least is 1",
    )
    (fault,) = faults(tmp_path, {"tuning": {"space": {"lr": {"low": "little", "high": 0.001}}}})
    assert fault == "tuning.space.lr.low is 'little', it must be a number"


def test_the_place_of_a_fault_in_a_list_is_named(tmp_path: Path) -> None:
    assert faults(tmp_path, {"data": {"known": ["a_b", 3, True]}}) == (
        "data.known[1] is 3, it must be text",
        "data.known[2] is True, it must be text",
    )


def test_a_result_survives_json() -> None:
    """Tuples of tuples, mappings, None, NaN and infinities, nested results; another layout is refused."""
    result = Result(
        weights=((0.1, math.inf), (), (-0.0, 5e-324)),
        rows=(Row("a", 1.5), Row("b")),
        kind="nested",
        best={"lr": 1e-3, "d_hidden": 8, "loss_mode": "sharpe", "list": [1, None, {"deep": True}]},
        by_name={"c": Row("c", -2.0)},
        span=(3, 4.0),
        first=Row("d"),
        done=True,
    )
    back = from_json(Result, to_json(result))
    assert back == result and math.copysign(1.0, back.weights[2][0]) == -1.0
    (missing,) = from_json(Result, to_json(replace(result, weights=((math.nan,),)))).weights[0]
    assert math.isnan(missing)
    for change in ({"more": 1}, {"rows": [{"sharpe": 1.0}]}, {"span": [1, 2.0, 3]}, {"done": 1}, {"kind": "other"}):
        with pytest.raises(AssertionError):
            from_json(Result, json.dumps(to_mapping(result) | change))


def test_floats_come_back_to_the_last_bit() -> None:
    """Bit patterns drawn at random, so that every exponent occurs; finite ones, and a whole number in a real field."""
    drawn = random.Random(5)
    values = [struct.unpack("<d", drawn.randbytes(8))[0] for _ in range(20_000)]
    finite = tuple(value for value in values if math.isfinite(value))
    back = from_json(Result, to_json(Result(weights=(finite,), rows=(), kind="holdout"))).weights[0]
    assert struct.pack(f"<{len(finite)}d", *back) == struct.pack(f"<{len(finite)}d", *finite)
    assert isinstance(from_json(Row, '{"name": "a", "sharpe": 2}').sharpe, float)


def test_the_command_line_starts_without_the_reader() -> None:
    """pydantic is loaded when something is read: `--help` does not wait for it, nor does whoever builds a Config."""
    program = "import sys, pipeline.cli, pipeline.config.reading; print('pydantic' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"

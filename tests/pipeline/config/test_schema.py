"""The whole configuration: what contradicts itself is refused, and equal settings identify equal runs."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.reading import load_config, to_mapping
from pipeline.config.schema import Config, ConfigError, sha256_of
from pipeline.config.sections import DataConfig, TuningConfig
from pipeline.config.space import SECTION_OF, Range
from tests.pipeline.config.documents import CONFIGS, faults, load
from tft.positions import PositionsConfig
from tft.recipe import TrainingConfig


def test_prior_looks_are_a_count(tmp_path: Path) -> None:
    assert load(tmp_path, {}).prior_looks == 0
    assert load(tmp_path, {"prior_looks": 40}).prior_looks == 40
    assert faults(tmp_path, {"prior_looks": -1}) == ("prior_looks is -1, the least is 0",)
    assert faults(tmp_path, {"prior_looks": "some"}) == ("prior_looks is 'some', it must be a whole number",)


def test_how_a_finished_run_is_judged_does_not_identify_it() -> None:
    """A placebo finds the run that it judges by this hash."""
    assert replace(Config(), prior_looks=3).sha256 == Config().sha256 != replace(Config(), seed=8).sha256


def test_a_bad_holdout_start_is_a_fault_like_any_other(tmp_path: Path) -> None:
    found = faults(tmp_path, {"holdout_start": "next summer", "seed": -1})
    assert len(found) == 2 and any("holdout_start" in fault for fault in found)


def test_tuned_parameters_are_put_into_their_sections() -> None:
    """Each of the twelve arrives in the section that holds it; nothing else changes; whole numbers are whole."""
    values = {
        "d_hidden": 24.0,
        "n_heads": 3,
        "lstm_layers": 2,
        "dropout": 0.31,
        "seq_len": 11,
        "n_context": 5,
        "lr": 0.0123,
        "batch_size": 48,
        "mle_weight": 0.77,
        "loss_mode": "sharpe",
        "max_position": 0.61,
        "position_smooth": 0.13,
    }
    before, after = Config(), Config().with_tuned(values)
    was, now = to_mapping(before), to_mapping(after)
    changed = {(s, k): now[s][k] for s in now if isinstance(now[s], dict) for k in now[s] if now[s][k] != was[s][k]}
    assert {name for _, name in changed} == set(values) == set(SECTION_OF)
    assert all(changed[(SECTION_OF[name], name)] == value for name, value in values.items())
    assert isinstance(after.model.d_hidden, int)
    assert {k: v for k, v in now.items() if not isinstance(v, dict)} == {
        k: v for k, v in was.items() if not isinstance(v, dict)
    }
    assert replace(
        after, tuning=TuningConfig(space={n: Range(low=0, high=100) for n in ("lr", "seq_len")})
    ).untuned() == {
        "lr": 0.0123,
        "seq_len": 11,
    }


def test_tuned_parameters_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_heads is 4, more than d_hidden"):
        Config().with_tuned({"d_hidden": 2, "n_heads": 4})


@pytest.mark.parametrize(("delay", "horizon"), [(0, 1), (1, 1), (1, 5), (3, 2)])
def test_a_purge_gap_below_the_label_overlap_is_refused_unless_allowed(
    tmp_path: Path, delay: int, horizon: int
) -> None:
    """With the least gap that is accepted the last training label is known at the next block's first decision."""

    def accepted(gap: int, **more: bool) -> bool:
        document = {"purge_gap": gap, "execution_delay_bars": delay, "horizon": horizon, **more}
        document["training"] = {"objective": "pooled"}
        try:
            load(tmp_path, document)
        except ConfigError as error:
            (fault,) = error.faults
            return f"set purge_gap to at least {delay + horizon - 1}" not in fault
        return True

    # The last decision of a block that ends before bar 0 is -1 - gap. Its label is known once that bar closes.
    overlaps = [-1 - gap + delay + horizon > 0 for gap in range(12)]
    assert [not accepted(gap) for gap in range(12)] == overlaps
    assert all(accepted(gap, allow_label_overlap=True) for gap in range(12))


@pytest.mark.parametrize("bars", [1, 1025, 100_000])
def test_a_block_has_a_length_that_memory_allows(tmp_path: Path, bars: int) -> None:
    (fault,) = faults(tmp_path, {"training": {"block_bars": bars}})
    assert fault == f"training.block_bars is {bars}, it must lie between 2 and 1024"


def test_a_longer_horizon_is_for_pooled_training(tmp_path: Path) -> None:
    """Held for several bars, positions overlap; a block earns each for one bar."""
    (fault,) = faults(tmp_path, {"horizon": 2})
    assert fault.startswith("training.objective is portfolio, which holds a position for one bar, but horizon is 2: ")
    load(tmp_path, {"horizon": 2, "training": {"objective": "pooled"}})
    load(tmp_path, {"horizon": 1})


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"objective": "sum"}, "objective"),
        ({"block_bars": 1}, "training.block_bars is 1, it must lie between 2 and 1024"),
        ({"weight_decay": -0.5}, "training.weight_decay is -0.5, it must be at least 0 and below 1 / lr"),
        ({"lr": 0.1, "weight_decay": 10.0}, "training.weight_decay is 10.0, it must be at least 0 and below 1 / lr"),
    ],
)
def test_a_training_that_cannot_be_is_refused(tmp_path: Path, training: dict[str, Any], said: str) -> None:
    (fault,) = faults(tmp_path, {"training": training})
    assert said in fault


def test_burn_in_covers_the_largest_smoothing_that_a_trial_can_have() -> None:
    """s^W <= 0.05, at most 64 bars: by a loop. All trials have the same, and so see the same bars."""

    def needed(smooth: float) -> int:
        return next((n for n in range(1, 64) if smooth**n <= 0.05), 64)

    config = Config(positions=PositionsConfig(position_smooth=0.46))
    assert config.burn_in_bars == needed(0.46) == 4
    for space in (Range(low=0.1, high=0.9), Range(choices=(0.9, 0.2))):
        tuned = replace(config, tuning=TuningConfig(space={"position_smooth": space}))
        assert tuned.burn_in_bars == needed(0.9) == 29
        assert tuned.with_tuned({"position_smooth": 0.2}).burn_in_bars == 29
        assert tuned.recipe(3).burn_in_bars == tuned.training_settings()["burn_in_bars"] == 29
    below = replace(config, tuning=TuningConfig(space={"position_smooth": Range(low=0.0, high=0.1)}))
    assert below.burn_in_bars == 4
    assert replace(config, positions=PositionsConfig(position_smooth=0.99)).burn_in_bars == 64


def test_objective_pooled_has_no_burn_in_and_keeps_its_keys_whatever_smoothing_is_searched() -> None:
    config = Config(training=TrainingConfig(objective="pooled"))
    wider = replace(config, tuning=TuningConfig(space={"position_smooth": Range(low=0.0, high=0.95)}))
    assert wider.burn_in_bars == wider.recipe(1).burn_in_bars == 1
    assert wider.training_settings() == config.training_settings()


def test_a_parameter_that_the_objective_does_not_read_is_not_searched(tmp_path: Path) -> None:
    """Trials that differ in nothing would count as different ones."""
    document = {"tuning": {"space": {"batch_size": {"choices": [16, 32]}}}}
    (fault,) = faults(tmp_path, document)
    assert fault.startswith("tuning.space has batch_size, which training.objective portfolio does not read: ")
    load(tmp_path, document | {"training": {"objective": "pooled"}})


def test_a_recipe_holds_all_that_a_fit_reads() -> None:
    config = Config(seed=9, positions=PositionsConfig(max_position=0.7))
    recipe = config.recipe(12, number=2)
    assert (recipe.model, recipe.training, recipe.timing) == (config.model, config.training, config.timing)
    assert (recipe.epochs, recipe.seed, recipe.positions) == (12, 11, config.positions)


def test_windows_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    """No bar to train on; test blocks shorter than production's step, between which bars would go untested."""
    (fault,) = faults(tmp_path, {"walk_forward": {"train_window": 26, "validation_window": 21}, "purge_gap": 5})
    assert "leaves no bar to train on" in fault
    load(tmp_path, {"walk_forward": {"train_window": 27, "validation_window": 21}, "purge_gap": 5})
    (fault,) = faults(tmp_path, {"walk_forward": {"test_window": 20}, "production": {"step_size": 21}})
    assert "would never be tested" in fault
    load(tmp_path, {"walk_forward": {"test_window": 21}, "production": {"step_size": 21}})


def test_the_hash_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    """The same content hashes alike in any order; any changed value changes the hash."""
    text = (CONFIGS / "quickstart.yaml").read_text()

    def reverse(value: Any) -> Any:
        return {k: reverse(value[k]) for k in reversed(value)} if isinstance(value, dict) else value

    document = yaml.safe_load(text)
    straight = load(tmp_path, text)
    (tmp_path / "turned.yaml").write_text(yaml.safe_dump(reverse(document), sort_keys=False))
    turned = load_config(tmp_path / "turned.yaml")
    assert list(turned.tuning.space) != list(straight.tuning.space)
    assert sha256_of(turned) == sha256_of(straight)
    changes = ("seed=8", "tuning.space.lr.high=0.05", "data.exclude=[a_b]", "model.dropout=0.21", "device=cpu")
    hashes = {sha256_of(load(tmp_path, text, change)) for change in changes} | {sha256_of(straight)}
    assert len(hashes) == len(changes) + 1


def test_key_columns_are_those_that_are_named() -> None:
    config = Config()
    assert config.data.key_columns() == {}
    named = replace(config.data, time_column="date", symbol_column="ticker", close_column="last")
    assert named.key_columns() == {"timestamp": "date", "symbol": "ticker", "close": "last"}


def test_a_time_format_that_cannot_say_a_day_is_a_fault() -> None:
    (said,) = replace(Config(), data=DataConfig(time_format="%H:%M")).faults()
    assert said.startswith("data.time_format is '%H:%M', it must be a pattern with year, month and day")


def test_the_twins_differ_by_the_purge_gap_and_their_windows_alone() -> None:
    """What configs/purge.yaml and no_purge.yaml compare is the gap; both have to allow labels to overlap."""
    purge, none = load_config(CONFIGS / "purge.yaml"), load_config(CONFIGS / "no_purge.yaml")
    assert (purge.purge_gap, none.purge_gap, purge.allow_label_overlap) == (5, 0, True)
    assert replace(none, purge_gap=5, walk_forward=purge.walk_forward) == purge


def test_record_settings_hold_what_can_change_a_record_and_nothing_else() -> None:
    """Named one by one: whoever adds a key has to say here which of the two it is."""
    can = {
        *("seed", "periods_per_year", "execution_delay_bars", "horizon", "selection", "holdout_fraction"),
        *("holdout_start", "purge_gap", "allow_label_overlap", "walk_forward", "prefilter", "exploration", "pruning"),
        *("tuning", "production", "model", "training", "positions"),
    }
    cannot = {"data", "device", "baselines", "registry", "regime", "placebo", "combinatorial", "prior_looks"}
    assert can | cannot == {field.name for field in fields(Config)} and not can & cannot
    config = load_config(CONFIGS / "default.yaml")
    settings, everything = config.record_settings(), to_mapping(config)
    assert set(settings) == can
    assert set(everything["tuning"]) - set(settings["tuning"]) == {"timeout_seconds"}
    everything["tuning"].pop("timeout_seconds")
    assert settings == {name: everything[name] for name in can}


@pytest.mark.parametrize(
    ("override", "moves"),
    [
        ("data.source=elsewhere.parquet", False),
        ("device=cpu", False),
        ("registry.promote=always", False),
        ("regime.enter=0.6", False),
        ("placebo.repetitions=3", False),
        ("prior_looks=12", False),
        ("baselines.lstm=true", False),
        ("combinatorial.n_groups=8", False),
        ("selection=combinatorial", False),
        ("selection=nested", True),
        ("tuning.timeout_seconds=60", False),
        ("seed=8", True),
        ("purge_gap=6", True),
        ("tuning.n_trials=3", True),
        ("tuning.space.lr.high=0.02", True),
        ("training.patience=3", True),
        ("positions.cost_bps=1", True),
    ],
)
def test_settings_that_cannot_change_a_record_move_no_hash_of_it(override: str, moves: bool) -> None:
    before = load_config(CONFIGS / "default.yaml").record_settings()
    after = load_config(CONFIGS / "default.yaml", [override]).record_settings()
    assert (sha256_of(after) != sha256_of(before)) is moves


@pytest.mark.parametrize(
    ("override", "moves"),
    [
        ("placebo.repetitions=3", False),
        ("combinatorial.n_groups=8", False),
        ("selection=combinatorial", False),
        ("selection=nested", True),
        ("registry.name=other", True),
    ],
)
def test_how_a_finished_run_is_examined_moves_no_hash_of_the_configuration(override: str, moves: bool) -> None:
    before, after = load_config(CONFIGS / "default.yaml"), load_config(CONFIGS / "default.yaml", [override])
    assert before != after and (before.sha256 != after.sha256) is moves
    assert after.separation == ("nested" if after.selection == "nested" else "holdout")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("team/tft", "registry.name is 'team/tft', the registry takes no / in a name"),
        ("a:b/c", "registry.name is 'a:b/c', the registry takes no / and no : in a name"),
        (" ", "registry.name is empty, a registered model needs a name"),
    ],
)
def test_a_name_that_the_registry_refuses_is_a_fault_before_anything_runs(
    tmp_path: Path, name: str, fault: str
) -> None:
    assert faults(tmp_path, {"registry": {"name": name}}) == (fault,)

"""The configuration: what is read is what was written, and everything wrong with it is said at once."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.config.schema import (
    SECTION_OF,
    Config,
    ConfigError,
    Range,
    TuningConfig,
    build,
    load_config,
    sha256_of,
    split_overrides,
    to_mapping,
)
from tft.folds import WalkForwardConfig, walk_forward
from tft.metrics import MIN_BARS
from tft.model import ModelConfig

CONFIGS = Path(__file__).parents[3] / "configs"


def load(tmp_path: Path, document: Any, *overrides: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return load_config(path, overrides)


def faults(tmp_path: Path, document: Any, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, document, *overrides)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return caught.value.faults


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
        assert config.data.sample.n_bars >= config.min_bars


def test_the_reference_configuration_is_the_default() -> None:
    """configs/default.yaml spells out every default; it adds a search space, and the table to generate without one."""
    config = load_config(CONFIGS / "default.yaml")
    assert set(config.tuning.space) == set(SECTION_OF)
    bare = replace(config, tuning=replace(config.tuning, space={}), data=replace(config.data, sample=None))
    assert bare == Config()


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
            "pruning": {"min_stability": 2},
        },
        "regime",
    )
    named = [
        *("sede", "horizon", "allow_label_overlap", "holdout_fraction", "model.dropuot", "model.dropout is 1.5"),
        *("model.n_heads", "training.loss_mode", "training.batch_size", "positions", "data.exclude", "'regime'"),
        *("tuning.n_trials", "tuning.space.lr.low", "tuning.space.learning_rate", "production.step_size"),
        *("exploration.max_folds", "prefilter.max_correlation", "pruning.min_stability"),
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


@pytest.mark.parametrize("fraction", ["0", "0.1", "0.3", "0.333", "0.7"])
@pytest.mark.parametrize(
    ("train_window", "purge_gap", "folds", "seq_len", "tuned_seq_len", "delay", "horizon"),
    [
        (30, 3, 1, 5, None, 1, 1),
        (41, 5, 3, 8, Range(choices=(4, 8, 20)), 0, 1),
        (25, 9, 4, 9, Range(low=2, high=12), 3, 4),
    ],
)
def test_min_bars_is_the_fewest_for_which_every_phase_has_its_folds(
    fraction: str,
    train_window: int,
    purge_gap: int,
    folds: int,
    seq_len: int,
    tuned_seq_len: Range | None,
    delay: int,
    horizon: int,
) -> None:
    """Brute force: the first table length whose development bars give `folds` test blocks by `walk_forward`."""
    config = Config(
        holdout_fraction=float(fraction),
        purge_gap=purge_gap,
        execution_delay_bars=delay,
        horizon=horizon,
        walk_forward=WalkForwardConfig(train_window=train_window, validation_window=6),
        model=ModelConfig(seq_len=seq_len),
        tuning=TuningConfig(folds=folds, space={"seq_len": tuned_seq_len} if tuned_seq_len else {}),
    )
    assert config.faults() == []
    longest = {None: seq_len, 4: 20, 2: 12}[tuned_seq_len.extremes()[0] if tuned_seq_len else None]

    def n_development(n_bars: int) -> int:
        return n_bars - ceil(Fraction(fraction) * n_bars)

    def enough(n_bars: int) -> bool:
        decisions = n_development(n_bars) - (delay + horizon) - (longest - 1)
        try:
            made = walk_forward(
                decisions,
                train_window=train_window,
                validation_window=6,
                test_window=1,
                step_size=1,
                purge_gap=purge_gap,
            )
        except ValueError:
            return False
        return len(made) >= MIN_BARS * folds  # each fold of tuning has bars enough for a Sharpe

    fewest = next(n_bars for n_bars in range(1, 2000) if enough(n_bars))
    assert config.warm_up_bars == longest - 1
    assert config.min_bars == fewest
    times = np.datetime64("2020-01-01") + np.arange(fewest)
    assert config.n_development(times) == n_development(fewest) == config.min_development_bars
    with pytest.raises(ConfigError, match=f"{config.min_development_bars} are needed"):
        config.n_development(times[:-1])


def test_holdout_start_prevails_over_the_fraction() -> None:
    """Development is every bar before that time, whether it is a bar or lies between two."""
    times = np.datetime64("2020-01-01", "us") + 2 * np.arange(400) * np.timedelta64(1, "D")
    for day in (700, 701):
        start = str(np.datetime64("2020-01-01") + day)
        config = Config(holdout_start=start, holdout_fraction=0.9)
        assert config.n_development(times) == sum(time < np.datetime64(start) for time in times)


def test_the_holdout_is_not_one_bar_longer_by_rounding() -> None:
    """ceil(0.3 * 10) is 3, though 0.3 * 10 may be a hair more in floating point."""
    for n_bars in range(300, 700):
        times = np.datetime64("2020-01-01") + np.arange(n_bars)
        for percent in (7, 29, 30, 35):
            config = Config(
                holdout_fraction=percent / 100,
                model=ModelConfig(seq_len=10),
                walk_forward=WalkForwardConfig(train_window=50),
            )
            assert n_bars - config.n_development(times) == ceil(Fraction(percent, 100) * n_bars)


@pytest.mark.parametrize(
    ("values", "untuned", "inside"),
    [
        ("{choices: [16, 32]}", 48, False),
        ("{choices: [16, 48]}", 48, True),
        ("{low: 8, high: 40}", 48, False),
        ("{low: 8, high: 48}", 48, True),
        ("{low: 8, high: 64, step: 16}", 48, False),
        ("{low: 16, high: 64, step: 16}", 48, True),
    ],
)
def test_an_untuned_value_outside_the_space_is_refused(tmp_path: Path, values: str, untuned: int, inside: bool) -> None:
    """Trial 0 is the untuned configuration, so it has to be a point of the space."""
    document = f"{{model: {{d_hidden: {untuned}}}, tuning: {{space: {{d_hidden: {values}}}}}}}"
    if inside:
        assert load(tmp_path, document).untuned() == {"d_hidden": untuned}
    else:
        (fault,) = faults(tmp_path, document)
        assert f"model.d_hidden ({untuned}) lies outside tuning.space.d_hidden" in fault


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("{lr: {}}", "needs choices, or low and high"),
        ("{lr: {low: 0.001}}", "needs choices, or low and high"),
        ("{lr: {choices: []}}", "choices is empty"),
        ("{lr: {choices: [1], high: 2}}", "both choices and low/high"),
        ("{lr: {low: 0, high: 1, log: true}}", "needs low > 0"),
        ("{lr: {low: 0.1, high: 1, step: 0}}", "must be positive"),
        ("{loss_mode: {low: 0, high: 1}}", "needs choices: it is text"),
        ("{d_hidden: {low: 8, high: 64, step: 0.5}}", "needs a whole low, high and step"),
        ("{seq_len: {low: 8.5, high: 64}}", "needs a whole low, high and step"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(tmp_path: Path, space: str, said: str) -> None:
    (fault,) = faults(tmp_path, f"{{tuning: {{space: {space}}}}}")
    assert said in fault


@pytest.mark.parametrize(("delay", "horizon"), [(0, 1), (1, 1), (1, 5), (3, 2)])
def test_a_purge_gap_below_the_label_overlap_is_refused_unless_allowed(
    tmp_path: Path, delay: int, horizon: int
) -> None:
    """With the least gap that is accepted the last training label is known at the next block's first decision."""

    def accepted(gap: int, **more: bool) -> bool:
        document = {"purge_gap": gap, "execution_delay_bars": delay, "horizon": horizon, **more}
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
    changes = ("seed=8", "tuning.space.lr.high=0.02", "data.exclude=[a_b]", "model.dropout=0.21", "device=cpu")
    hashes = {sha256_of(load(tmp_path, text, change)) for change in changes} | {sha256_of(straight)}
    assert len(hashes) == len(changes) + 1


def test_a_configuration_survives_plain_values() -> None:
    """to_mapping and build undo each other: how a configuration is stored beside a model, and read again."""
    config = load_config(CONFIGS / "quickstart.yaml")
    found: list[str] = []
    assert build(Config, json.loads(json.dumps(to_mapping(config))), "", found) == config
    assert found == []


def test_key_columns_names_only_what_is_called_otherwise() -> None:
    config = Config()
    assert config.data.key_columns() == {}
    renamed = replace(config.data, time_column="when", symbol_column="ticker", close_column="last")
    assert renamed.key_columns() == {"timestamp": "when", "symbol": "ticker", "close": "last"}
    assert replace(config.data, time_column="date").key_columns() == {}


def test_the_twins_differ_by_the_purge_gap_alone() -> None:
    """What configs/purge.yaml and no_purge.yaml compare is the gap; both have to allow labels to overlap."""
    purge, none = load_config(CONFIGS / "purge.yaml"), load_config(CONFIGS / "no_purge.yaml")
    assert (purge.purge_gap, none.purge_gap, purge.allow_label_overlap) == (5, 0, True)
    assert replace(none, purge_gap=5) == purge

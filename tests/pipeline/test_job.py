"""What follows from a job's inputs: the bars that selection may see, the keys, the tags, the table that is made."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.schema import Config
from pipeline.config.sections import SampleConfig
from pipeline.job import PHASES, Job, ensure_sample, flattened, open_job
from tests.conftest import small_panel
from tests.pipeline.test_phase_run import CONFIG, dataset, job_of
from tft.panel import AHEAD, Panel


@pytest.fixture
def panel() -> Panel:
    return small_panel(150, 2, 3)


def test_selection_sees_what_the_holdout_rule_leaves_or_what_is_said(panel: Panel) -> None:
    """By the configuration on the table's own bars: 112 of 150, 97 of 130, 105 of 150; or a number of bars."""
    job = job_of(panel)
    assert job.n_development == len(job.development.panel.times) == 112
    assert job.on(job.data.first_bars(130)).n_development == 97
    assert job_of(panel, replace(CONFIG, holdout_fraction=0.3)).n_development == 105
    whole = job.on(job.data.first_bars(100), n_selection_bars=100)
    assert whole.n_development == whole.development.n_bars == 100
    assert whole.device == job.device and not whole.fresh
    assert job.all_bars.n_bars == 150


def test_no_column_that_looks_ahead_reaches_past_development(panel: Panel) -> None:
    """With a delay of one bar the value of bar t + 2 is known in advance: the last two bars lose theirs."""
    ahead = np.full((150, 2, 1), np.nan, dtype=np.float32)
    ahead[:-2] = panel.features[2:, :, :1]
    names = (*panel.feature_names, panel.feature_names[0] + AHEAD)
    wide = replace(panel, feature_names=names, features=np.concatenate([panel.features, ahead], axis=2))
    seen = job_of(wide).development_panel.features
    np.testing.assert_array_equal(seen[:110], wide.features[:110])
    np.testing.assert_array_equal(seen[110:112, :, :3], wide.features[110:112, :, :3])
    assert np.isnan(seen[110:112, :, 3]).all()


def test_a_volatility_of_its_own_is_cut_with_the_bars(panel: Panel) -> None:
    """And is part of what the key hashes."""
    sigma = np.linspace(0.01, 0.02, 300).reshape(150, 2)
    plain = job_of(panel)
    scaled = Job(CONFIG, replace(dataset(panel), sigma=sigma), plain.device)
    assert plain.development.sigma is None and plain.all_bars.sigma is None
    np.testing.assert_array_equal(scaled.development.sigma, sigma[:112])
    assert scaled.development_sha256 != plain.development_sha256


def test_the_key_of_a_job_is_of_all_that_its_record_depends_on(panel: Panel) -> None:
    """Data and every setting that decides a record; not where the model is registered, how it is judged, the device's
    name, the file's name, or how long the search may take."""
    key = job_of(panel).key
    assert job_of(panel).key == key
    unchanged = [
        replace(CONFIG, registry=replace(CONFIG.registry, name="other", promote="never")),
        replace(CONFIG, placebo=replace(CONFIG.placebo, repetitions=3)),
        replace(CONFIG, regime=replace(CONFIG.regime, enter=0.6)),
        replace(CONFIG, device="cpu"),
        replace(CONFIG, data=replace(CONFIG.data, source="elsewhere.parquet")),
        replace(CONFIG, tuning=replace(CONFIG.tuning, timeout_seconds=60.0)),
    ]
    assert {job_of(panel, config).key for config in unchanged} == {key}
    changed = [
        replace(CONFIG, purge_gap=CONFIG.purge_gap + 1),
        replace(CONFIG, seed=CONFIG.seed + 1),
        replace(CONFIG, holdout_fraction=0.3),
        replace(CONFIG, selection="nested"),
        replace(CONFIG, tuning=replace(CONFIG.tuning, n_trials=7)),
        replace(CONFIG, positions=replace(CONFIG.positions, cost_bps=1.0)),
    ]
    keys = [job_of(panel, config).key for config in changed]
    keys += [job_of(small_panel(150, 2, 3, seed=1)).key, job_of(panel).key_of("record", modules=["pipeline.job"])]
    assert len({key, *keys}) == len(keys) + 1
    assert job_of(panel).key_of("a", modules=[], repetition=1) != job_of(panel).key_of("a", modules=[], repetition=2)


def test_a_job_travels_to_another_process(panel: Panel) -> None:
    job = job_of(panel)
    assert pickle.loads(pickle.dumps(job)).key == job.key


def test_each_phase_of_the_job_is_a_module_that_computes() -> None:
    here = Path(__file__).parents[2] / "pipeline" / "phases"
    assert all((here / f"{name}.py").exists() for name in PHASES)


def test_settings_are_flattened_for_the_parameter_table() -> None:
    """Three levels deep: a range of the search space stays whole; an empty mapping is shown as such."""
    nested = {"a": 1, "b": {"c": 2, "d": {"e": 3, "f": {"low": 0}}}, "empty": {}}
    assert flattened(nested) == {"a": 1, "b.c": 2, "b.d.e": 3, "b.d.f": {"low": 0}, "empty": {}}


def test_a_table_that_is_not_there_is_made_once_and_said(tmp_path: Path) -> None:
    """As the configuration describes it; a file that is there stays as it is, and a glob is never made."""
    file = tmp_path / "made.parquet"
    sample = SampleConfig(n_bars=60, n_symbols=2, n_features=5, n_degenerate=0)
    said: list[str] = []

    def make(source: str) -> None:
        ensure_sample(Config(data=replace(CONFIG.data, source=source, sample=sample)), said.append)

    make(str(file))
    assert file.exists() and len(said) == 1 and "60 bars, 2 instruments, 5 columns" in said[0]
    before = file.read_bytes()
    make(str(file))
    make(str(tmp_path / "*.csv"))
    assert len(said) == 1 and file.read_bytes() == before


@pytest.mark.parametrize(
    ("reason", "switch", "said"), [("no C++ compiler (c++)", "", 1), ("off", "0", 0), (None, "", 0)]
)
def test_what_a_compiler_would_gain_is_said_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reason: str | None, switch: str, said: int
) -> None:
    """Once, with the reason; not to whoever switched native code off."""
    monkeypatch.setenv("TFT_NATIVE", switch)
    monkeypatch.setattr("pipeline.job.unavailable", lambda: reason)
    lines: list[str] = []
    with pytest.raises(ValueError, match="there is no such file"):
        open_job(Config(data=replace(CONFIG.data, source=str(tmp_path / "none.parquet"))), lines.append)
    assert [line.startswith(f"no native code: {reason}; ") for line in lines] == [True] * said

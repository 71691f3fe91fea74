"""`from pipeline import run`: the commands' work on a table in memory, found again by its values alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline import Config, load_config, run
from pipeline.config.reading import from_json
from pipeline.config.schema import ConfigError
from pipeline.phases.tuning import Tuned
from pipeline.reporting.page import REPORT
from pipeline.reporting.produced import RECORD
from pipeline.tracking.sink import RESULT
from tests.conftest import MICRO
from tests.workplace import WholeJob, artifacts, own_mlflow


@pytest.fixture
def place(job_copy: WholeJob) -> Iterator[WholeJob]:
    """A finished job in whose folder this process is."""
    with own_mlflow(job_copy.folder, job_copy.environment()):
        yield job_copy


def table(place: WholeJob) -> pl.DataFrame:
    return pl.read_parquet(place.folder / "data" / "micro.parquet")


def newest(place: WholeJob, phase: str) -> dict[str, str]:
    """The tags of the newest run of a phase."""
    experiment = place.parent.info.experiment_id
    (found,) = place.client.search_runs([experiment], f"tags.phase = '{phase}'", max_results=1)
    return dict(found.data.tags)


@pytest.mark.parametrize("phase", ["prefilter", "tuning"])
@pytest.mark.parametrize("kind", ["polars", "lazy", "pandas", "pandas with keys as index"])
def test_a_table_in_memory_is_known_by_its_values(place: WholeJob, phase: str, kind: str) -> None:
    """The job read the same values from a file: each phase is found again, whatever hands the table over."""
    frame = table(place)
    given = {
        "polars": frame,
        "lazy": frame.lazy(),
        "pandas": frame.to_pandas(),
        "pandas with keys as index": frame.to_pandas().set_index(["date", "symbol"]),
    }[kind]
    before = place.child(place.run_id, phase)
    result = run(phase, load_config(MICRO), data=given)  # type: ignore[call-overload]
    tags = newest(place, phase)
    assert tags["reused_from"] == before.info.run_id
    assert tags["data_sha256"] == before.data.tags["data_sha256"]
    assert result == from_json(type(result), (artifacts(before) / RESULT).read_text())


def test_another_table_is_another_job(place: WholeJob) -> None:
    """One value is different: nothing is reused, and the configured file is not looked at."""
    first = table(place).columns[-1]
    changed = table(place).with_columns(pl.when(pl.int_range(pl.len()) == 500).then(1e3).otherwise(first).alias(first))
    config = load_config(MICRO)
    missing = replace(config, data=replace(config.data, source="nowhere.parquet"))
    run("prefilter", missing, data=changed)
    tags = newest(place, "prefilter")
    assert "reused_from" not in tags and tags["data_sha256"] != place.parent.data.tags["data_sha256"]
    assert not Path("nowhere.parquet").exists()


@pytest.mark.slow
def test_production_returns_what_the_command_leaves(place: WholeJob, capsys: pytest.CaptureFixture[str]) -> None:
    """The page and the record of the run, and the same numbers: seeds are those of the configuration."""
    result = run("production", load_config(MICRO), data=table(place))
    job = place.client.get_run(result.run_id)
    assert_frame_equal(result.record, pl.read_parquet(artifacts(job) / RECORD))
    assert_frame_equal(result.record, pl.read_parquet(artifacts(place.parent) / RECORD))
    page = result.report()
    assert page == (artifacts(job) / REPORT).read_text() and result.inference.verdict[:40] in page
    assert len(repr(page)) < 50, "a cell that ends in a page does not print it a second time"
    assert page._repr_html_().startswith('<iframe srcdoc="&lt;!') and "<h1" not in page._repr_html_()
    assert result.inference.verdict.split(":")[0] in capsys.readouterr().out


def test_what_is_wrong_is_said_before_anything_runs(place: WholeJob) -> None:
    config = load_config(MICRO)
    with pytest.raises(ValueError, match="'training' is no phase: the phases are prefilter, exploration, pruning"):
        run("training", config)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="data is list, it must be a polars or pandas table"):
        run("prefilter", config, data=[1, 2])
    for nonsense, kind in ((None, "NoneType"), ({"seed": 1}, "dict")):
        with pytest.raises(ValueError, match=rf"^config is {kind}, it must be a configuration: give load_config\("):
            run("prefilter", nonsense)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="seed is -1, the least is 0"):
        run("prefilter", Config(seed=-1))
    with pytest.raises(ValueError, match="the table given cannot be used:\n- no column symbol"):
        run("prefilter", config, data=table(place).drop("symbol"))


def test_sigterm_is_the_callers_again(place: WholeJob) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run("prefilter", MICRO, data=table(place))
    assert signal.getsignal(signal.SIGTERM) is before


def test_importing_a_part_stays_light() -> None:
    """The names of the interface cost nothing until they are asked for."""
    script = (
        "import sys, pipeline; before = 'torch' in sys.modules\n"
        "from pipeline import Config, strategy; print(before, 'mlflow' in sys.modules, Config.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "pipeline.config.schema"]
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from pipeline import nothing  # type: ignore[attr-defined]  # noqa: F401


def test_a_result_of_tuning_is_the_phases_own(place: WholeJob) -> None:
    assert isinstance(run("tuning", MICRO, data=table(place)), Tuned)

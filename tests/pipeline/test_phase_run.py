"""How a phase is run, reused, kept and shown: with a phase that does nearly nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from pipeline.config.schema import Config
from pipeline.data.dataset import Dataset, panel_sha256
from pipeline.job import Job
from pipeline.phase_run import Finished, run_phase
from pipeline.tracking.kept import Kept
from pipeline.tracking.progress import Quiet, Reporter
from pipeline.tracking.runs import Run, parent_run
from pipeline.tracking.sink import Silent, Sink
from tests.conftest import CPU, small_panel
from tft.folds import WalkForwardConfig
from tft.model import ModelConfig
from tft.panel import Panel

pytestmark = pytest.mark.usefixtures("module_store")

CONFIG = Config(
    holdout_fraction=0.25,
    purge_gap=2,
    walk_forward=WalkForwardConfig(train_window=50, validation_window=10),
    model=ModelConfig(seq_len=6),
)


@dataclass(frozen=True)
class Line:
    name: str
    value: float | None


@dataclass(frozen=True)
class Counted:
    """A result with everything a result may hold."""

    number: int
    lines: tuple[Line, ...]
    weights: tuple[tuple[float, ...], ...]
    parameters: dict[str, Any]
    undefined: float


class Phase:
    """Counts how often it is computed."""

    def __init__(self) -> None:
        self.computed = 0
        self.drawn = 0

    def run(
        self,
        job: Job,
        sink: Sink,
        reporter: Reporter | None = None,
        settings: dict[str, Any] | None = None,
        upstream: Sequence[str] = (),
        **more: Any,
    ) -> Finished[Counted]:
        def compute(run: Sink, keep: Any) -> Counted:
            self.computed += 1
            lines = (Line("a", 0.5), Line("b", None))
            return Counted(self.computed, lines, ((0.1, 0.2), (0.3, 1e-17)), {"lr": 0.1, "mode": "x"}, float("nan"))

        def draw(run: Sink, result: Counted) -> None:
            self.drawn += 1
            run.table("lines.json", {"name": [line.name for line in result.lines]})
            run.metrics({"number": result.number})

        arguments: dict[str, Any] = {"compute": compute, "draw": draw} | more
        return run_phase(
            "prefilter",
            Counted,
            job,
            sink,
            reporter or Quiet(),
            settings=settings or {"seed": 1},
            upstream=upstream,
            **arguments,
        )


def dataset(panel: Panel) -> Dataset:
    return Dataset(panel=panel, sha256=panel_sha256(panel), source="here.parquet", n_rows=300)


@pytest.fixture
def panel(request: pytest.FixtureRequest) -> Panel:
    """Another one for each test, so that no test reuses another's runs."""
    return small_panel(150, 2, 3, seed=sum(map(ord, request.node.name)))


def job_of(panel: Panel, config: Config = CONFIG, *, fresh: bool = False) -> Job:
    return Job(config=config, data=dataset(panel), device=CPU, fresh=fresh)


def same(one: Counted, other: Counted) -> bool:
    """NaN equals nothing, itself included."""
    return (
        np.isnan(one.undefined)
        and np.isnan(other.undefined)
        and replace(one, undefined=0) == replace(other, undefined=0)
    )


def shown(finished: Finished[Counted]) -> MlflowRun:
    return MlflowClient().get_run(finished.run_id)


def run_once(phase: Phase, job: Job, **more: Any) -> Finished[Counted]:
    with parent_run("p", None) as parent:
        return phase.run(job, parent, **more)


def test_a_finished_phase_is_reused_by_another_job_and_shown_again(
    panel: Panel, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same result in a run of its own, with the same tables, metrics and parameters, tagged with its source."""
    phase, reporter = Phase(), Reporter(terminal=False)
    first = run_once(phase, job_of(panel), reporter=reporter)
    assert "prefilter: running" in capsys.readouterr().err
    second = run_once(phase, job_of(panel), reporter=reporter)
    assert phase.computed == 1 and phase.drawn == 2 and same(first.result, second.result)
    assert f"reusing run {first.run_id}" in capsys.readouterr().err
    old, new = shown(first), shown(second)
    assert new.info.run_id != old.info.run_id and new.info.status == "FINISHED"
    assert new.data.tags["reused_from"] == old.info.run_id and "reused_from" not in old.data.tags
    for name in ("lines.json", "result.json"):
        assert Run(new.info.run_id).read_text(name) == Run(old.info.run_id).read_text(name)
    assert new.data.params == old.data.params == {"seed": "1"}
    assert new.data.metrics["number"] == old.data.metrics["number"] == 1
    assert new.data.metrics["phase_seconds"] > 0.0
    assert new.data.tags["phase_key"] == old.data.tags["phase_key"] == first.key == second.key


def test_what_was_reused_can_be_reused(panel: Panel) -> None:
    """Also when the run that computed it is gone."""
    phase = Phase()
    first, second = run_once(phase, job_of(panel)), run_once(phase, job_of(panel))
    MlflowClient().delete_run(first.run_id)
    third = run_once(phase, job_of(panel))
    assert phase.computed == 1
    assert shown(third).data.tags["reused_from"] == second.run_id


def recomputed(panel: Panel, second: Job, settings: dict[str, Any] | None = None) -> bool:
    phase = Phase()
    run_once(phase, job_of(panel))
    run_once(phase, second, settings=settings)
    return phase.computed == 2


def test_nothing_changed_is_reused(panel: Panel) -> None:
    """The check that the next tests can fail."""
    assert not recomputed(panel, job_of(panel))


def test_a_changed_setting_is_computed(panel: Panel) -> None:
    assert recomputed(panel, job_of(panel), {"seed": 2})


def test_a_setting_the_phase_does_not_read_changes_nothing(panel: Panel) -> None:
    assert not recomputed(panel, job_of(panel, replace(CONFIG, seed=99)))


def test_fresh_computes_although_nothing_has_changed(panel: Panel) -> None:
    assert recomputed(panel, job_of(panel, fresh=True))


def test_changed_development_data_is_computed(panel: Panel) -> None:
    features = panel.features.copy()
    features[3, 1, 2] += 1.0
    assert recomputed(panel, job_of(replace(panel, features=features)))


def test_changed_holdout_data_is_not_seen(panel: Panel) -> None:
    """The key is of the bars a phase may see: 112 of 150."""
    features = panel.features.copy()
    features[112:] = 7.0
    second = job_of(replace(panel, features=features))
    assert second.n_development == 112
    assert not recomputed(panel, second)


def test_another_upstream_result_is_computed(panel: Panel) -> None:
    phase = Phase()
    for key in ("one", "other"):
        run_once(phase, job_of(panel), upstream=[key])
    assert phase.computed == 2


def test_a_phase_that_failed_is_computed_again(panel: Panel) -> None:
    """Its run says FAILED, and what it depends on is not tagged as done."""

    def fail(run: Sink, keep: Any) -> Counted:
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"), parent_run("p", None) as parent:
        Phase().run(job_of(panel), parent, compute=fail)
    (failed,) = mlflow.search_runs(
        search_all_experiments=True, filter_string=f"tags.mlflow.parentRunId = '{parent.run_id}'", output_format="list"
    )
    assert failed.info.status == "FAILED" and "phase_key" not in failed.data.tags
    phase = Phase()
    run_once(phase, job_of(panel))
    assert phase.computed == 1


def test_a_result_that_is_not_complete_serves_its_job_and_is_not_found_again(panel: Panel) -> None:
    phase = Phase()
    for expected in (1, 2):
        assert run_once(phase, job_of(panel), complete=lambda result: False).result.number == expected


def test_every_run_says_what_it_was_made_of(panel: Panel) -> None:
    """Tags, data set and settings."""
    run = shown(run_once(Phase(), job_of(panel), settings={"model": {"d_hidden": 8}, "seed": 3}))
    assert run.data.tags["phase"] == "prefilter" and run.data.tags["purge_gap"] == "2"
    assert run.data.tags["data_sha256"] == panel_sha256(panel)
    assert run.data.tags["config_sha256"] == CONFIG.sha256 and run.data.tags["git_commit"]
    assert run.data.params == {"model.d_hidden": "8", "seed": "3"}
    (given,) = run.inputs.dataset_inputs
    assert "here.parquet" in given.dataset.source


def test_a_silent_sink_keeps_results_by_key_and_mlflow_hears_nothing(
    panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same phase on the same data is computed once, and again by a fresh job, or if it is not complete."""
    monkeypatch.chdir(tmp_path)
    before = len(mlflow.search_runs(search_all_experiments=True, output_format="list"))
    phase, sink = Phase(), Silent(Kept())
    first, second = phase.run(job_of(panel), sink), phase.run(job_of(panel), Silent(Kept()))
    assert phase.computed == 1 and same(first.result, second.result) and first.key == second.key
    phase.run(job_of(panel, fresh=True), sink)
    assert phase.computed == 2
    for expected in (3, 4):
        phase.run(job_of(panel), sink, settings={"seed": 2}, complete=lambda result: False)
        assert phase.computed == expected
    assert len(mlflow.search_runs(search_all_experiments=True, output_format="list")) == before

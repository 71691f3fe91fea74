"""How a phase is run, remembered, reused and logged: with a phase that does nearly nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, cast

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from pipeline.config.reading import from_json
from pipeline.config.schema import Config
from pipeline.data.dataset import Dataset, panel_sha256
from pipeline.job import Job, flattened
from pipeline.tracking.progress import Reporter
from pipeline.tracking.runs import Run, parent_run
from tests.conftest import CPU, small_panel
from tft.folds import WalkForwardConfig
from tft.model import ModelConfig
from tft.panel import Panel
from tft.train import EpochReport

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

    def run(self, job: Job, settings: dict[str, Any] | None = None, **more: Any) -> Counted:
        def compute(run: Run) -> Counted:
            self.computed += 1
            lines = (Line("a", 0.5), Line("b", None))
            return Counted(self.computed, lines, ((0.1, 0.2), (0.3, 1e-17)), {"lr": 0.1, "mode": "x"}, float("nan"))

        def log(run: Run, result: Counted) -> None:
            run.table("lines.json", {"name": [line.name for line in result.lines]})
            run.metrics({"number": result.number})

        arguments: dict[str, Any] = {
            "settings": settings or {"seed": 1},
            "upstream": (),
            "compute": compute,
            "log": log,
        }
        return job.run_phase("prefilter", Counted, **arguments | more)


def dataset(panel: Panel) -> Dataset:
    return Dataset(panel=panel, sha256=panel_sha256(panel), source="here.parquet", n_rows=300)


@pytest.fixture
def panel(request: pytest.FixtureRequest) -> Panel:
    """Another one for each test, so that no test reuses another's runs."""
    return small_panel(150, 2, 3, seed=sum(map(ord, request.node.name)))


def job_of(panel: Panel, config: Config = CONFIG, *, fresh: bool = False) -> Job:
    return Job(
        config=config,
        data=dataset(panel),
        parent=cast(Any, None),
        reporter=Reporter(terminal=False),
        device=CPU,
        fresh=fresh,
    )


def same(one: Counted, other: Counted) -> bool:
    """NaN equals nothing, itself included."""
    return (
        np.isnan(one.undefined)
        and np.isnan(other.undefined)
        and replace(one, undefined=0) == replace(other, undefined=0)
    )


def run_of(job: Job) -> Any:
    return MlflowClient().get_run(job.run_ids["prefilter"])


def test_a_result_is_remembered_within_a_job(panel: Panel) -> None:
    """Whoever asks again gets the same object; there is one run."""
    phase, job = Phase(), job_of(panel)
    with parent_run("p", None) as parent:
        job.parent = parent
        first = phase.run(job)
        assert phase.run(job) is first and phase.computed == 1
    children = mlflow.search_runs(
        search_all_experiments=True, filter_string=f"tags.mlflow.parentRunId = '{parent.run_id}'", output_format="list"
    )
    assert [child.info.run_id for child in children] == [job.run_ids["prefilter"]]


def test_a_finished_phase_is_reused_by_another_job_and_logged_again(
    panel: Panel, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same result in a run of its own, with the same tables, metrics and parameters, tagged with its source."""
    phase, one, two = Phase(), job_of(panel), job_of(panel)
    with parent_run("p", None) as one.parent:
        first = phase.run(one)
    assert "prefilter: running" in capsys.readouterr().err
    with parent_run("p", None) as two.parent:
        second = phase.run(two)
    assert phase.computed == 1 and same(first, second)
    assert f"reusing run {one.run_ids['prefilter']}" in capsys.readouterr().err
    old, new = run_of(one), run_of(two)
    assert new.info.run_id != old.info.run_id and new.info.status == "FINISHED"
    assert new.data.tags["reused_from"] == old.info.run_id and "reused_from" not in old.data.tags
    for name in ("lines.json", "result.json"):
        assert Run(new.info.run_id).read_text(name) == Run(old.info.run_id).read_text(name)
    assert new.data.params == old.data.params == {"seed": "1"}
    assert new.data.metrics["number"] == old.data.metrics["number"] == 1
    assert new.data.metrics["phase_seconds"] > 0.0
    assert new.data.tags["phase_key"] == old.data.tags["phase_key"] == one.keys["prefilter"]


def test_what_was_reused_can_be_reused(panel: Panel) -> None:
    """Also when the run that computed it is gone."""
    phase, jobs = Phase(), [job_of(panel) for _ in range(3)]
    for number, job in enumerate(jobs):
        with parent_run("p", None) as job.parent:
            phase.run(job)
        if number == 1:
            MlflowClient().delete_run(jobs[0].run_ids["prefilter"])
    assert phase.computed == 1
    assert run_of(jobs[2]).data.tags["reused_from"] == jobs[1].run_ids["prefilter"]


def recomputed(panel: Panel, second: Job, settings: dict[str, Any] | None = None, **more: Any) -> bool:
    phase, first = Phase(), job_of(panel)
    with parent_run("p", None) as parent:
        first.parent = second.parent = parent
        phase.run(first, **more)
        phase.run(second, settings, **more)
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


def test_a_phase_that_must_run_is_never_reused(panel: Panel) -> None:
    """Production: its key is of all the data."""
    assert recomputed(panel, job_of(panel), reusable=False)
    features = panel.features.copy()
    features[112:] = 7.0
    jobs = [job_of(panel), job_of(replace(panel, features=features))]
    for job in jobs:
        with parent_run("p", None) as job.parent:
            Phase().run(job, reusable=False)
    assert jobs[0].keys["prefilter"] != jobs[1].keys["prefilter"]


def test_another_upstream_result_is_computed(panel: Panel) -> None:
    phase, jobs = Phase(), [job_of(panel), job_of(panel)]
    for number, job in enumerate(jobs):
        job.keys["earlier"] = str(number)
        with parent_run("p", None) as job.parent:
            phase.run(job, upstream=("earlier",))
    assert phase.computed == 2


def test_a_phase_that_failed_is_computed_again(panel: Panel) -> None:
    """Its run says FAILED, and what it depends on is not tagged as done."""

    def fail(run: Run) -> Counted:
        raise ValueError("in the middle")

    job = job_of(panel)
    with pytest.raises(ValueError, match="in the middle"), parent_run("p", None) as job.parent:
        Phase().run(job, compute=fail)
    assert run_of(job).info.status == "FAILED"
    phase, job = Phase(), job_of(panel)
    with parent_run("p", None) as job.parent:
        phase.run(job)
    assert phase.computed == 1


def test_every_run_says_what_it_was_made_of(panel: Panel) -> None:
    """Tags, data set and settings."""
    job = job_of(panel)
    with parent_run("p", None) as job.parent:
        Phase().run(job, {"model": {"d_hidden": 8}, "seed": 3})
    run = run_of(job)
    assert run.data.tags["phase"] == "prefilter" and run.data.tags["purge_gap"] == "2"
    assert run.data.tags["data_sha256"] == panel_sha256(panel)
    assert run.data.tags["config_sha256"] == CONFIG.sha256 and run.data.tags["git_commit"]
    assert run.data.params == {"model.d_hidden": "8", "seed": "3"}
    (given,) = run.inputs.dataset_inputs
    assert "here.parquet" in given.dataset.source


def test_a_result_survives_being_stored(panel: Panel) -> None:
    """Nested results, None, NaN, whole and real numbers; another layout is refused."""
    job = job_of(panel)
    with parent_run("p", None) as job.parent:
        result = Phase().run(job)
    assert same(
        from_json(Counted, json.dumps({**vars(result), "lines": [vars(line) for line in result.lines]})), result
    )
    with pytest.raises(AssertionError):
        from_json(Line, '{"name": "a", "value": 1, "more": 2}')


def test_an_inner_job_keeps_its_results_by_key_and_logs_nothing(panel: Panel) -> None:
    """The same phase on the same data is computed once by inner jobs, and again by a fresh one, or if not complete."""
    phase, outer = Phase(), job_of(panel)

    def log(run: Run, result: Counted) -> None:
        raise AssertionError("an inner job logs nothing")

    first = phase.run(outer.inner(outer.data), log=log)
    second = phase.run(outer.inner(outer.data), log=log)
    assert phase.computed == 1 and same(first, second)
    outer.fresh = True
    phase.run(outer.inner(outer.data), log=log)
    assert phase.computed == 2
    outer.fresh = False
    for expected in (3, 4):
        phase.run(outer.inner(outer.data), {"seed": 2}, log=log, complete=lambda result: False)
        assert phase.computed == expected


def test_what_an_inner_job_may_see_is_the_holdout_rule_or_what_is_said(panel: Panel) -> None:
    """By its own configuration on its own bars: 112 of 150, 97 of 130, 105 of 150; or a number of bars."""
    outer = job_of(panel)
    assert outer.inner(outer.data).n_development == 112
    assert outer.inner(outer.data.first_bars(130)).n_development == 97
    other = replace(CONFIG, holdout_fraction=0.3)
    assert outer.inner(outer.data, config=other).n_development == 105
    whole = outer.inner(outer.data.first_bars(100), n_development=100)
    assert whole.n_development == len(whole.development.times) == 100
    assert whole.device == outer.device and not whole.fresh


def test_settings_are_flattened_for_the_parameter_table() -> None:
    """Three levels deep: a range of the search space stays whole; an empty mapping is shown as such."""
    nested = {"a": 1, "b": {"c": 2, "d": {"e": 3, "f": {"low": 0}}}, "empty": {}}
    assert flattened(nested) == {"a": 1, "b.c": 2, "b.d.e": 3, "b.d.f": {"low": 0}, "empty": {}}


def test_folds_lie_in_the_labelled_bars_after_the_warm_up(panel: Panel) -> None:
    """Test blocks tile the rest by the step; `max_folds` keeps the most recent; no label reaches past the bars."""
    job = job_of(panel)
    folds = job.folds(job.n_development, step_size=9, max_folds=None)
    assert min(fold.train.start for fold in folds) == CONFIG.model.seq_len - 1
    tested = [bar for fold in folds for bar in fold.test]
    assert tested == list(range(5 + 50 + 2, 112 - 2)), "to the last bar whose label ends before bar 112"
    assert job.folds(job.n_development, step_size=9, max_folds=2) == folds[-2:]


def test_training_progress_names_folds_epoch_and_score_and_skips_what_stopped_early(
    panel: Panel, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two folds of 4 epochs side by side, both stopped after the second: 4 of 4 steps."""
    job = job_of(panel)
    job.reporter.start("exploration", 8)
    report = job.epoch_reporter(2, 4)
    for epoch in range(2):
        report(
            EpochReport(
                folds=(3, 4),
                epoch=epoch,
                train_loss=(1.0, 2.0),
                validation_score=(0.25, 0.75),
                n_active=2 - 2 * epoch,
                seconds=0.1,
            )
        )
    job.reporter.step("done", n=0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("exploration: 4/4,")
    assert job.reporter._total == job.reporter._done == 4


def test_the_key_of_a_job_is_of_all_that_its_record_depends_on() -> None:
    """Data, any setting: but not where the model is registered."""
    panel = small_panel()
    key = job_of(panel).key
    assert job_of(panel).key == key
    assert job_of(panel, replace(CONFIG, registry=replace(CONFIG.registry, promote="never"))).key == key
    assert job_of(panel, replace(CONFIG, purge_gap=CONFIG.purge_gap + 1)).key != key
    assert job_of(panel, replace(CONFIG, seed=CONFIG.seed + 1)).key != key
    assert job_of(small_panel(seed=1)).key != key

"""What reaches MLflow, in which run, and how a run ends whatever happens."""

from __future__ import annotations

import json
import math
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient

from pipeline.tracking import runs as tracking
from pipeline.tracking.runs import Run, Silent, log_folds, parent_run, peaks
from tft.backtest import FoldRow

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("module_store")


@pytest.fixture
def client() -> MlflowClient:
    return MlflowClient()


@pytest.fixture
def run() -> Iterator[Run]:
    with parent_run("test", None) as one:
        yield one


def artifact(run_id: str, name: str) -> Any:
    return json.loads(Run(run_id).read_text(name))


def test_the_store_is_a_file_here_wherever_the_process_goes(
    module_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking.store() == f"sqlite:///{module_store / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    with parent_run("elsewhere", None):
        pass
    assert not list(tmp_path.iterdir())


def test_metrics_arrive_with_their_steps_however_many(run: Run, client: MlflowClient) -> None:
    """2 500 values, more than MLflow takes at once."""
    run.metric_steps({"fold_val_sharpe": {step: step / 7 for step in range(2500)}, "other": {3: 1.5}})
    history = client.get_metric_history(run.run_id, "fold_val_sharpe")
    assert {metric.step: metric.value for metric in history} == {step: step / 7 for step in range(2500)}
    assert [(metric.step, metric.value) for metric in client.get_metric_history(run.run_id, "other")] == [(3, 1.5)]


def test_what_is_missing_or_not_finite_is_left_out(run: Run, client: MlflowClient) -> None:
    """MLflow cannot hold it; zero and whole numbers are values like any other."""
    run.metrics({"none": None, "nan": math.nan, "inf": math.inf, "minus": -math.inf, "zero": 0.0, "whole": 3}, step=2)
    run.metric_steps({"partly": {0: 1.0, 1: None, 2: math.nan, 3: 4.0}, "never": {}})
    metrics = client.get_run(run.run_id).data.metrics
    assert {name: metrics[name] for name in metrics if "/" not in name} == {"zero": 0.0, "whole": 3.0, "partly": 4.0}
    assert [metric.step for metric in client.get_metric_history(run.run_id, "partly")] == [0, 3]
    assert [metric.step for metric in client.get_metric_history(run.run_id, "whole")] == [2]


COLUMNS: dict[str, list[Any]] = {
    "feature": ["px_a", 'fut_"b"', "vix_ü"],
    "rank": [1, 2, 3],
    "weight": [0.5, None, 1e-7],
    "selected": [True, False, True],
}


@pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes")  # log_table on pandas 3
def test_a_table_is_written_as_mlflow_writes_it_and_read_back_by_it(run: Run, client: MlflowClient) -> None:
    """The same JSON and the same tag as `log_table`; `load_table` gives the columns back."""
    run.table("t.json", COLUMNS)
    with run.child("other") as other:
        client.log_table(other.run_id, COLUMNS, "t.json")
    assert artifact(run.run_id, "t.json") == artifact(other.run_id, "t.json")
    tag = "mlflow.loggedArtifacts"
    assert client.get_run(run.run_id).data.tags[tag] == client.get_run(other.run_id).data.tags[tag]
    loaded = mlflow.load_table("t.json", run_ids=[run.run_id])
    pd.testing.assert_frame_equal(loaded, pd.DataFrame(COLUMNS), check_dtype=False)


def test_what_is_not_finite_is_null_in_a_table(run: Run) -> None:
    """JSON has no NaN; numpy's numbers are numbers."""
    run.table("t.json", {"a": [math.nan, np.float64(np.inf), np.float64(2.5)], "b": [1, 2, 3]})
    text = run.read_text("t.json")
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == {"columns": ["a", "b"], "data": [[None, 1], [None, 2], [2.5, 3]]}


def test_writing_a_table_again_replaces_it(run: Run, client: MlflowClient) -> None:
    """A resumed run does not double its rows; each table is listed once."""
    run.table("t.json", {"a": [1, 2]})
    run.table("u.json", {"a": [7]})
    run.table("t.json", {"a": [3]})
    assert artifact(run.run_id, "t.json")["data"] == [[3]]
    listed = json.loads(client.get_run(run.run_id).data.tags["mlflow.loggedArtifacts"])
    assert [entry["path"] for entry in listed] == ["t.json", "u.json"]


def test_columns_of_different_lengths_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="zip"):
        run.table("t.json", {"a": [1, 2], "b": [1]})


def test_parameters_logged_twice_do_not_raise(run: Run, client: MlflowClient) -> None:
    """The first value stands; new ones are added; more than MLflow takes at once, and longer ones than it holds."""
    run.params({"a": 1, "long": "x" * 9000})
    run.params({"a": 2, "b": [1, 2]} | {f"p{i}": i for i in range(250)})
    params = client.get_run(run.run_id).data.params
    assert (params["a"], params["b"], params["p249"]) == ("1", "[1, 2]", "249")
    assert params["long"] == "x" * 6000


def test_the_data_set_is_an_input_of_the_run(run: Run, client: MlflowClient) -> None:
    run.dataset("feature table", "s3://bucket/key.parquet", "ab" * 32)
    (given,) = client.get_run(run.run_id).inputs.dataset_inputs
    assert given.dataset.name == "feature table" and "s3://bucket/key.parquet" in given.dataset.source
    assert ("ab" * 32).startswith(given.dataset.digest)
    assert {tag.key: tag.value for tag in given.tags} == {"mlflow.data.context": "training"}


def test_the_fold_table_and_its_sharpes(run: Run, client: MlflowClient) -> None:
    """A metric a fold, the fold as step; the mean gap over the folds that have one."""
    days = dict.fromkeys(("train_start", "train_end", "validation_start", "validation_end"), "2020-01-01")
    numbers = dict.fromkeys(("n_epochs", "kept_epoch", "seconds"), 1)
    none = dict.fromkeys(("test_start", "test_end", "val_sharpe", "val_sharpe_best_epoch"))
    rows = [
        FoldRow(
            **(days | numbers | none | {"segment": "holdout", "fold": fold, "oos_sharpe": sharpe, "val_oos_gap": gap})
        )
        for fold, sharpe, gap in ((4, 0.5, 1.0), (5, None, None), (6, -0.25, 2.0))
    ]
    log_folds(run, rows)
    history = client.get_metric_history(run.run_id, "fold_oos_sharpe")
    assert {metric.step: metric.value for metric in history} == {4: 0.5, 6: -0.25}
    assert client.get_run(run.run_id).data.metrics["val_oos_gap_mean"] == 1.5
    table = artifact(run.run_id, "folds.json")
    assert [row[table["columns"].index("oos_sharpe")] for row in table["data"]] == [0.5, None, -0.25]


def test_runs_are_nested_in_the_experiment(client: MlflowClient) -> None:
    """One parent, children below it, all in `tft-production`, with the phase as tag and its wall time and peak."""
    with parent_run("production", None) as parent, parent.phase("tuning") as child:
        time.sleep(0.05)
    experiment = client.get_experiment_by_name("tft-production")
    outer, inner = client.get_run(parent.run_id), client.get_run(child.run_id)
    assert outer.info.experiment_id == inner.info.experiment_id == experiment.experiment_id
    assert inner.data.tags["mlflow.parentRunId"] == parent.run_id and "mlflow.parentRunId" not in outer.data.tags
    assert inner.data.tags["phase"] == "tuning" and inner.info.run_name == "tuning"
    assert 0.05 <= inner.data.metrics["phase_seconds"] < 5.0
    assert inner.data.metrics["peak_rss_bytes"] > 1e7
    assert outer.info.status == inner.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (tracking.Killed("signal 15"), "KILLED")],
)
def test_an_error_ends_all_open_runs_and_goes_on(client: MlflowClient, error: BaseException, status: str) -> None:
    """The metrics of the phase that failed are kept: what it took until then."""
    ids: list[str] = []

    def interrupted() -> None:
        with parent_run("p", None) as parent, parent.phase("c") as child:
            ids.extend([parent.run_id, child.run_id])
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert [client.get_run(run_id).info.status for run_id in ids] == [status, status]
    assert client.get_run(ids[1]).data.metrics["phase_seconds"] >= 0.0
    assert mlflow.active_run() is None


@pytest.mark.slow
def test_a_terminated_process_ends_its_runs_as_killed(module_store: Path, client: MlflowClient) -> None:
    """SIGTERM to a process in the middle of a phase, as `kill` or a scheduler sends it."""
    code = (
        "import time; from pipeline.tracking.runs import *\nconfigure()\n"
        "with parent_run('p', None) as p, p.phase('c') as c:\n"
        "    print(p.run_id, c.run_id, flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=module_store,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    ids = process.stdout.readline().split()
    process.terminate()
    assert process.wait(timeout=30) != 0
    process.stdout.close()
    assert [client.get_run(run_id).info.status for run_id in ids] == ["KILLED", "KILLED"]


def test_a_run_of_the_default_experiment_gets_a_pointer_to_ours(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `mlflow run` puts a project's run unless told otherwise."""
    given = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    with parent_run("production", None) as parent, parent.phase("tuning") as child:
        pass
    tags = client.get_run(given).data.tags
    assert tags["production_run"] == parent.run_id != given
    assert parent.run_id in tags["mlflow.note.content"] and "tft-production" in tags["mlflow.note.content"]
    ours = client.get_experiment_by_name("tft-production").experiment_id
    assert {client.get_run(one.run_id).info.experiment_id for one in (parent, child)} == {ours}


def test_a_run_in_an_experiment_the_user_chose_is_taken(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by `mlflow run --experiment-name mine`: the parent is that run, and the children go beside it."""
    mine = client.create_experiment("mine")
    given = client.create_run(mine).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mine)
    with parent_run("production", None) as parent, parent.phase("tuning") as child:
        parent.metrics({"oos_sharpe": 1.0})
    assert parent.run_id == given
    assert client.get_run(child.run_id).info.experiment_id == mine
    assert client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == given
    assert client.get_run(given).info.status == "FINISHED"


def test_a_run_is_resumed_by_its_id(client: MlflowClient) -> None:
    """In whichever experiment it is; its name and what it holds stay."""
    for experiment in (client.create_experiment("another"), "0"):
        given = client.create_run(experiment, run_name="first").info.run_id
        client.log_metric(given, "before", 1.0)
        with parent_run("again", given) as parent:
            parent.metrics({"after": 2.0})
        resumed = client.get_run(given)
        assert parent.run_id == given and resumed.info.run_name == "first"
        assert {name: resumed.data.metrics[name] for name in ("before", "after")} == {"before": 1.0, "after": 2.0}


def test_a_silent_run_takes_everything_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything a run can do, by a run without a client; its children are itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "MlflowClient", None)
    monkeypatch.setattr(tracking, "mlflow", None)
    run = Silent()
    run.metrics({"a": 1.0})
    run.metric_steps({"a": {0: 1.0}})
    run.params({"a": 1})
    run.tags({"a": "b"})
    run.table("t.json", COLUMNS)
    run.text("t.txt", "text")
    run.figure("f.png", Figure())
    run.file(tmp_path / "absent")
    run.dataset("table", "here", "digest")
    with run.child("trial") as child, child.phase("tuning") as phase:
        assert child is phase is run
    with pytest.raises(FileNotFoundError):
        run.read_text("t.txt")
    log_folds(run, [])
    assert not list(tmp_path.iterdir()) and capsys.readouterr() == ("", "")
    public = {name for name in vars(Run) if not name.startswith("_")}
    assert public - {"metrics"} == {name for name in vars(Silent) if not name.startswith("_")}


def test_a_child_goes_below_a_run_that_has_ended(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in an experiment that is not the active one: what judges a run belongs to it."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "judged")
    with parent_run("production", None) as judged:
        pass
    mlflow.set_experiment("tft-production")
    with Run(judged.run_id).child("placebo") as child:
        pass
    above, below = client.get_run(judged.run_id), client.get_run(child.run_id)
    assert below.data.tags["mlflow.parentRunId"] == judged.run_id and below.info.run_name == "placebo"
    assert below.info.experiment_id == above.info.experiment_id
    assert above.info.status == below.info.status == "FINISHED"


needs_marks = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux can forget a process's high-water mark"
)
MANY_BYTES = 320_000_000


def allocate() -> None:
    """Takes and gives back memory of the kernel's own: what malloc keeps back is up to whoever tuned it."""
    with mmap.mmap(-1, MANY_BYTES) as memory:
        for page in range(0, MANY_BYTES, mmap.PAGESIZE):
            memory[page] = 1


@needs_marks
def test_a_phase_that_allocates_little_after_one_that_allocated_much_reports_less() -> None:
    with peaks() as first:
        allocate()
        much = first()["peak_rss_bytes"]
    with peaks() as second:
        little = second()["peak_rss_bytes"]
    assert 0 < little < much - 0.75 * MANY_BYTES
    assert much > MANY_BYTES


@needs_marks
def test_a_phase_keeps_its_peak_when_a_run_within_it_starts_anew() -> None:
    """A trial's run is nested in tuning's: each reports its own peak, and the outer one at least the inner one's."""
    with peaks() as outer:
        allocate()
        with peaks() as inner:
            small = inner()["peak_rss_bytes"]
        assert outer()["peak_rss_bytes"] > small + 0.75 * MANY_BYTES
    with peaks() as outer:
        with peaks() as inner:
            allocate()
            large = inner()["peak_rss_bytes"]
        assert outer()["peak_rss_bytes"] >= large > small + 0.75 * MANY_BYTES


def test_the_commit_of_the_code_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With `-dirty` after it if tracked files have changed; `unknown` outside a checkout."""
    commands = (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"])
    (tmp_path / "pipeline").mkdir()
    file = tmp_path / "pipeline" / "tracking.py"
    file.write_text("")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(tracking, "__file__", str(file))
    assert tracking.git_commit() == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in commands:
        subprocess.run([*git, *command], check=True, capture_output=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert tracking.git_commit() == head
    file.write_text("changed")
    assert tracking.git_commit() == f"{head}-dirty"

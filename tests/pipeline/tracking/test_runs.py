"""What reaches MLflow, in which run, and how a run ends whatever happens."""

from __future__ import annotations

import json
import math
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
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.tracking import runs as tracking
from pipeline.tracking.runs import Run, parent_run

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


def test_the_environment_names_the_experiment_by_id_or_by_name(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same experiment either way, again for the next command of the process, and the usual one without."""
    mine = client.create_experiment("by id or name")

    def of_a_run() -> str:
        with parent_run("test", None) as run:
            return str(client.get_run(run.run_id).info.experiment_id)

    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mine)
    assert [of_a_run(), of_a_run()] == [mine, mine]
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by id or name")
    assert of_a_run() == mine
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    with pytest.raises(ValueError, match=rf"^MLFLOW_EXPERIMENT_ID={mine} is the experiment by id or name, but MLFLOW_"):
        of_a_run()
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "987654321")
    with pytest.raises(MlflowException, match="987654321"):
        of_a_run()
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    assert client.get_experiment(of_a_run()).name == tracking.EXPERIMENT


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

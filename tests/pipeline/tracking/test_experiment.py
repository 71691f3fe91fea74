"""What the UI finds in the experiment, whichever way a run came into it."""

from __future__ import annotations

import json
import re

import pytest
from mlflow.tracking import MlflowClient

from pipeline.tracking.experiment import HEADLINE, bar, curve, save_view, view, view_link
from pipeline.tracking.runs import parent_run

pytestmark = pytest.mark.usefixtures("module_store")


@pytest.fixture
def client() -> MlflowClient:
    return MlflowClient()


@pytest.mark.parametrize("way", ["command", "mlflow run", "resumed", "experiment named"])
def test_the_experiment_is_set_up_whichever_way_a_run_comes(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A kind, a description, and a view of the headline columns; MLflow's own way makes an experiment with none."""
    experiment = client.create_experiment(f"of {way}")
    given = None
    if way == "mlflow run":
        monkeypatch.setenv("MLFLOW_RUN_ID", client.create_run(experiment).info.run_id)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    elif way == "resumed":
        given = client.create_run(experiment).info.run_id
    elif way == "experiment named":
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"of {way}")
    with parent_run("micro", given) as run:
        pass
    held = client.get_experiment(client.get_run(run.run_id).info.experiment_id)
    assert (held.name == "tft-production") == (way == "command")
    assert held.tags["mlflow.experimentKind"] == "custom_model_development"
    note = held.tags["mlflow.note.content"]
    (key,) = re.findall(rf"#/experiments/{held.experiment_id}/runs\?viewStateShareKey=(\w+)", note)
    state = json.loads(held.tags[f"mlflow.sharedViewState.{key}"])
    assert state["selectedColumns"][: len(HEADLINE)] == [f"metrics.`{name}`" for name in HEADLINE]
    assert client.search_runs([held.experiment_id], state["searchFilter"]) == []  # one that MLflow takes


def test_what_a_person_wrote_of_the_experiment_stays(client: MlflowClient) -> None:
    with parent_run("first", None) as run:
        experiment = client.get_run(run.run_id).info.experiment_id
    client.set_experiment_tag(experiment, "mlflow.note.content", "Mine.")
    with parent_run("second", None):
        pass
    assert client.get_experiment(experiment).tags["mlflow.note.content"] == "Mine."


def test_a_view_is_kept_under_a_name_and_opened_by_a_link(client: MlflowClient) -> None:
    """Its charts stand in their sections, in order, each with an id of its own."""
    experiment = client.create_experiment("viewed")
    charts = {"Performance": [bar("oos_sharpe"), bar("oos_skill")], "By fold": [curve("fold_oos_sharpe")]}
    save_view(experiment, "pair", view(search="tags.a = 'b'", charts=charts, group_by_tag="purge_gap"))
    assert view_link(experiment, "pair", "CHART") == (
        f"#/experiments/{experiment}/runs?viewStateShareKey=pair&compareRunsMode=CHART&workflowType=machine_learning"
    )
    state = json.loads(client.get_experiment(experiment).tags["mlflow.sharedViewState.pair"])
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "purge_gap"}]
    names = {section["uuid"]: section["name"] for section in state["compareRunSections"]}
    charts_shown = state["compareRunCharts"]
    shown = [(names[chart["metricSectionId"]], chart["type"], chart["metricKey"]) for chart in charts_shown]
    assert shown == [
        ("Performance", "BAR", "oos_sharpe"),
        ("Performance", "BAR", "oos_skill"),
        ("By fold", "LINE", "fold_oos_sharpe"),
    ]
    assert len({chart["uuid"] for chart in charts_shown}) == 3

"""The experiment as the MLflow UI opens it: on its runs, with a description, and with a saved choice of columns.

The UI keeps the columns that somebody picks in the browser and reads none from the store by itself. What it does read
is a tag of the experiment that holds a view: charts, columns, order and filter, opened by a link that names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

NOTE = MLFLOW_RUN_NOTE
"""Tag of an experiment or a run that holds its description, in Markdown."""
KIND = "mlflow.experimentKind"
VIEW = "mlflow.sharedViewState."
"""Beginning of the tag that holds a view; its name follows, and is `viewStateShareKey` in a link."""
OVERVIEW = "overview"
WORKFLOW = "workflowType=machine_learning"
"""Part of an address by which the UI shows the pages for models that are trained, whatever the browser is used to."""
HEADLINE = ("oos_sharpe", "oos_sharpe_se", "oos_skill", "oos_skill_se", "oos_verdict_p_value", "oos_sharpe_development")
"""Metrics by which production runs are set side by side, most important first."""
COLUMNS = (
    *(f"metrics.`{name}`" for name in HEADLINE),
    "params.`purge_gap`",
    "params.`selection`",
)

PLAIN_CHART = {"deleted": False, "isGenerated": False, "runsCountToCompare": 10}


def set_up(experiment_id: str) -> None:
    """Make the experiment open as described above, however it came about. What a person wrote of it stays."""
    overview = view(columns=COLUMNS, search="tags.command = 'production'")
    describe_experiment(experiment_id, description(experiment_id), {f"{VIEW}{OVERVIEW}": overview})


def describe_experiment(experiment_id: str, note: str, more: Mapping[str, str] | None = None) -> None:
    """Give an experiment a kind, further tags, and a description unless it has one."""
    client = MlflowClient()
    tags = client.get_experiment(experiment_id).tags
    wanted = {KIND: "custom_model_development"}  # neither asks what it is for nor opens on pages for language models
    wanted |= {NOTE: note} if NOTE not in tags else {}
    for name, value in (wanted | dict(more or {})).items():
        if tags.get(name) != value:
            client.set_experiment_tag(experiment_id, name, value)


def description(experiment_id: str) -> str:
    """What the experiment's page says of it (Markdown)."""
    return f"""\
From a table of features to a registered Temporal Fusion Transformer, and what it is worth.

- A run at the top level is one command. `production` runs hold the whole job: their description has the verdict, the \
headline figures and links to the report (`report.html` among the artifacts), the model version and the five phases, \
which are nested below with their trials. \
[Production runs with their headline figures]({view_link(experiment_id, OVERVIEW)}).
- `oos_sharpe` is of bars that no choice has seen; `oos_sharpe_development` took part in the choices, as did the \
bars of `development_sharpe`, which `compare` logs. `oos_skill` is what is left of the first \
without drift, and `oos_verdict_p_value` how often luck shows as much.
- To compare, tick two production runs and press *Compare*, or run `tft-pipeline compare`: its run has the answer with \
its error, and a link to both arms side by side. One run of each says little: seeds alone scatter that far.
- `refit` fits a registered recipe on newer bars; `placebo` and `planted` ask what luck alone would have given and \
what would have been found. Looks at a holdout are counted in the experiment `tft-holdout-looks`.
"""


def save_view(experiment_id: str, name: str, value: str) -> None:
    """Keep a view under a name, in place of the one there."""
    MlflowClient().set_experiment_tag(experiment_id, f"{VIEW}{name}", value)


def view_link(experiment_id: str, name: str, mode: str = "TABLE") -> str:
    """Address in the UI of a saved view; `mode`: TABLE, or CHART for its charts."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={name}&compareRunsMode={mode}&{WORKFLOW}"


def view(
    *,
    search: str,
    columns: Sequence[str] = COLUMNS,
    charts: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    group_by_tag: str = "",
) -> str:
    """A view as the UI reads it.

    search: filter of the runs, in MLflow's language · charts: by the name of their section, each as the UI
    configures it (`bar`, `curve`, `differences`); without any it makes one for every metric · group_by_tag: one entry
    for all runs with the same value, their mean.
    """
    state: dict[str, Any] = {
        "searchFilter": search,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": list(columns),
    }
    if charts:
        sections = {name: f"section-{number}" for number, name in enumerate(charts)}
        state["compareRunSections"] = [
            {"uuid": uuid, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
            for name, uuid in sections.items()
        ]
        state["compareRunCharts"] = [
            {**PLAIN_CHART, "uuid": f"{sections[name]}-{number}", "metricSectionId": sections[name], **chart}
            for name, own in charts.items()
            for number, chart in enumerate(own)
        ]
        state["isAccordionReordered"] = True
    if group_by_tag:
        state["groupBy"] = {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": group_by_tag}],
        }
    return json.dumps(state, separators=(",", ":"))


def bar(metric: str) -> dict[str, Any]:
    """A chart of one bar for each run."""
    return {"type": "BAR", "metricKey": metric}


def curve(metric: str) -> dict[str, Any]:
    """A chart of one line for each run, by step."""
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "lineSmoothness": 0,
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }

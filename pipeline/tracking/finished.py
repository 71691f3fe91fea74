"""The one search for finished runs: by their tags, newest first, in every experiment of the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import mlflow
from mlflow.entities import Run as MlflowRun

_PAGE = 20
"""Runs asked for at a time: nearly always the first one serves."""


def finished_runs(tags: Mapping[str, str]) -> Iterator[MlflowRun]:
    """Finished runs that carry all of these tags, newest first."""
    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    conditions = ["attributes.status = 'FINISHED'", *(f"tags.{name} = '{value}'" for name, value in tags.items())]
    token = None
    while True:
        page = client.search_runs(
            experiments,
            " and ".join(conditions),
            max_results=_PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return

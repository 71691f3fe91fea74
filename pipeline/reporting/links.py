"""Addresses of pages and pictures in the MLflow UI, as the Markdown of its descriptions takes them.

They are relative to the page that shows them, so that they hold on whatever host and port the UI runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from urllib.parse import quote, urlencode

SMALL = "small"
"""Folder of an artifact that holds figures once more, as small as a description needs them: the UI shows pictures in
their own size."""
SMALL_WIDTH = 720
"""Pixels."""


def run_page(experiment_id: str, run_id: str) -> str:
    """The address of a run's page."""
    return f"#/experiments/{experiment_id}/runs/{run_id}"


def run(experiment_id: str, run_id: str, text: str) -> str:
    """A link to a run."""
    return f"[{text}]({run_page(experiment_id, run_id)})"


def artifact(experiment_id: str, run_id: str, path: str, text: str) -> str:
    """A link to an artifact among those of its run."""
    return f"[{text}]({run_page(experiment_id, run_id)}/artifacts/{quote(path)})"


def version(name: str, number: str, text: str) -> str:
    """A link to a version of a registered model."""
    return f"[{text}](#/models/{quote(name, safe='')}/versions/{number})"


def picture(run_id: str, path: str, text: str) -> str:
    """A figure of a run, shown where this stands, as large as it is; the server that shows the page delivers it."""
    return f"![{text}](get-artifact?{urlencode({'path': path, 'run_uuid': run_id})})"


def side_by_side(experiment_ids: Iterable[str], run_ids: Sequence[str]) -> str:
    """A link to the page that compares runs by all of their parameters, metrics and tags."""
    asked = {"runs": json.dumps(list(run_ids)), "experiments": json.dumps(sorted(experiment_ids))}
    return f"[All parameters and metrics](#/compare-runs?{urlencode(asked, quote_via=quote)})"

"""A phase that has already run on the same inputs is not run again: one hash says what a phase depends on."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.exceptions import MlflowException

from pipeline.config.schema import sha256_of
from pipeline.tracking.runs import Run

PHASE_KEY = "phase_key"
RESULT = "result.json"


def phase_key(
    name: str, *, data_sha256: str, settings: dict[str, Any], upstream: tuple[str, ...], device: str, kernels: str
) -> str:
    """The hash of everything the phase's result depends on: data, settings, upstream, code, torch and how it runs."""
    return sha256_of(
        {
            "phase": name,
            "data": data_sha256,
            "settings": settings,
            "upstream": upstream,
            "source": source_sha256(f"pipeline.phases.{name}"),
            "torch": torch.__version__,
            "device": device,
            "kernels": kernels,
        }
    )


@cache
def source_sha256(module: str) -> str:
    """Of the bytes of tft/ and of the pipeline modules that `module` imports, directly or not."""
    tft = Path(_file_of("tft")).parent
    files = {str(path.relative_to(tft.parent)): path for pattern in ("*.py", "*.cpp") for path in tft.glob(pattern)}
    waiting, seen = [module], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = Path(_file_of(name))
        files[name] = path
        waiting += _imports(path)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name].read_bytes())
    return digest.hexdigest()


def _imports(path: Path) -> list[str]:
    """Modules of `pipeline` that a file imports, at whatever depth."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            candidates = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found += [name for name in candidates if name.startswith("pipeline.") and _is_module(name)]
    return found


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a name inside a module
        return False


def _file_of(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    return spec.origin


def find_finished(key: str) -> tuple[str, str] | None:
    """(run id, result text) of the newest finished run with this key whose result can still be read."""
    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    runs = mlflow.search_runs(
        experiments,
        filter_string=f"tags.{PHASE_KEY} = '{key}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )
    for run in runs:
        try:
            return run.info.run_id, Run(run.info.run_id).read_text(RESULT)
        except (MlflowException, OSError):  # its artifacts were deleted: look for an older one
            continue
    return None

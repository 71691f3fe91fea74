"""What a phase's key depends on, and which finished run it finds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.tracking import MlflowClient

from pipeline.tracking import keys as reuse
from pipeline.tracking.keys import PHASE_KEY, RESULT, find_finished, phase_key
from pipeline.tracking.runs import Run, parent_run

ROOT = Path(__file__).parents[3]


INGREDIENTS: dict[str, Any] = {
    "name": "pruning",
    "data_sha256": "d",
    "settings": {"pruning": {"max_features": 3, "min_stability": 0.5}, "seed": 1},
    "upstream": ("k1", "k2"),
    "device": "cpu",
    "kernels": "native",
}


def test_the_key_changes_with_each_ingredient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phase, data, settings at any depth, upstream and its order, device, kernels, torch and the source."""
    key = phase_key(**INGREDIENTS)
    changes: list[dict[str, Any]] = [
        {"name": "prefilter"},
        {"data_sha256": "e"},
        {"settings": {"pruning": {"max_features": 4, "min_stability": 0.5}, "seed": 1}},
        {"settings": {"pruning": {"max_features": 3, "min_stability": 0.5}, "seed": 2}},
        {"upstream": ("k1",)},
        {"upstream": ("k2", "k1")},
        {"device": "cuda"},
        {"kernels": "torch"},
    ]
    keys = [phase_key(**INGREDIENTS | change) for change in changes]
    monkeypatch.setattr(reuse, "source_sha256", lambda module: f"other source of {module}")
    other_source = phase_key(**INGREDIENTS)
    monkeypatch.setattr(torch, "__version__", "1.0")
    keys += [other_source, phase_key(**INGREDIENTS), key]
    assert len(set(keys)) == len(changes) + 3


def test_the_key_depends_on_nothing_else() -> None:
    """Equal ingredients, equal keys, in whatever order the settings are written."""
    turned = {"seed": 1, "pruning": {"min_stability": 0.5, "max_features": 3}}
    assert phase_key(**INGREDIENTS | {"settings": turned}) == phase_key(**INGREDIENTS)


EDIT_EVERY_FILE = """
import json, sys
from pathlib import Path
from pipeline.tracking.keys import source_sha256
import pipeline
root = Path.cwd()
assert Path(pipeline.__file__).parent.parent == root, "the copy is what is looked at"
phases = ["prefilter", "pruning", "tuning", "production"]
imported = {}
for phase in phases:  # each imports the one before it
    __import__(f"pipeline.phases.{phase}")
    loaded = [m for n, m in sys.modules.items() if n.split(".")[0] == "pipeline" and m.__file__]
    imported[phase] = [str(Path(m.__file__).relative_to(root)) for m in loaded]
files = [f for f in [*root.glob("tft/*.py"), *root.glob("pipeline/*.py"), *root.glob("pipeline/phases/*.py")]]
def hashes():
    source_sha256.cache_clear()
    return {phase: source_sha256(f"pipeline.phases.{phase}") for phase in phases}
before = hashes()
changed = {phase: [] for phase in phases}
for file in files:
    text = file.read_bytes()
    file.write_bytes(text + b"\\n# edited\\n")
    for phase, value in hashes().items():
        if value != before[phase]:
            changed[phase].append(str(file.relative_to(root)))
    file.write_bytes(text)
restored = hashes() == before
print(json.dumps({"changed": changed, "imported": imported, "restored": restored}))
"""


def test_the_source_hash_follows_imports_at_any_depth(tmp_path: Path) -> None:
    """Every file of a copy is edited in turn. Those that matter: all of tft/, and what Python loads for the phase."""
    for package in ("tft", "pipeline"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EDIT_EVERY_FILE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["restored"], "the same bytes, the same hash"
    tft = {f"tft/{path.name}" for path in (ROOT / "tft").glob("*.py")}
    for phase, changed in found["changed"].items():
        loaded = {file for file in found["imported"][phase] if not file.endswith("__init__.py")}
        assert {file for file in changed if not file.endswith("__init__.py")} == (loaded | tft) - {"tft/__init__.py"}
    # Three that are known: two imports away, only of a later phase, and of none.
    assert "pipeline/tracking.py" in found["changed"]["prefilter"]
    assert "pipeline/search.py" in set(found["changed"]["tuning"]) - set(found["changed"]["pruning"])
    assert "pipeline/cli.py" not in found["changed"]["production"]
    # What is chosen and walked is production's alone.
    assert "pipeline/oos.py" in set(found["changed"]["production"]) - set(found["changed"]["tuning"])


def finished(key: str, text: str) -> str:
    with parent_run("phase", None) as run:
        run.text(RESULT, text)
        run.tags({PHASE_KEY: key})
    return run.run_id


def delete_artifacts(run_id: str) -> None:
    shutil.rmtree(MlflowClient().get_run(run_id).info.artifact_uri.removeprefix("file://"))


def test_the_newest_finished_run_with_the_key_is_found(module_store: Path) -> None:
    finished("a", "old")
    finished("b", "other")
    newest = finished("a", "new")
    assert find_finished("a") == (newest, "new")
    assert find_finished("c") is None


def test_it_is_found_in_whichever_experiment_it_is(module_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    there = finished("in-another", "x")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    mlflow.set_experiment("tft-production")
    assert find_finished("in-another") == (there, "x")


def test_failed_and_running_runs_are_not_found(module_store: Path) -> None:
    """Nor one that was killed, though each has a result and the key."""

    def end_by(error: type[BaseException]) -> None:
        with parent_run("phase", None) as run:
            run.text(RESULT, "half")
            run.tags({PHASE_KEY: "f"})
            raise error

    with pytest.raises(ValueError):
        end_by(ValueError)
    with pytest.raises(KeyboardInterrupt):
        end_by(KeyboardInterrupt)
    with parent_run("phase", None) as run:
        run.text(RESULT, "half")
        run.tags({PHASE_KEY: "f"})
        assert find_finished("f") is None
    assert find_finished("f") == (run.run_id, "half")


def test_runs_whose_artifacts_are_gone_are_passed_over(module_store: Path) -> None:
    """An older one that can still be read is taken; if there is none, there is none."""
    older, newer = finished("g", "older"), finished("g", "newer")
    delete_artifacts(newer)
    assert find_finished("g") == (older, "older")
    delete_artifacts(older)
    assert find_finished("g") is None


def test_deleted_runs_are_not_found(module_store: Path) -> None:
    MlflowClient().delete_run(finished("h", "x"))
    assert find_finished("h") is None


def test_a_result_is_read_back_as_it_was_written(module_store: Path) -> None:
    run_id = finished("i", '{"ü": [1, null]}')
    assert Run(run_id).read_text(RESULT) == '{"ü": [1, null]}'

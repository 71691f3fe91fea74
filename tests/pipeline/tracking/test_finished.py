"""Which finished run is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from pipeline.tracking.finished import finished_runs
from pipeline.tracking.runs import Run, parent_run
from pipeline.tracking.sink import Found


def find(key: str) -> Found | None:
    """Asked of a run that has nothing to do with it."""
    return Run("").find_result(key)


def finished(key: str, text: str) -> str:
    with parent_run("phase", None) as run:
        run.finish(text, key)
    return run.run_id


def delete_artifacts(run_id: str) -> None:
    shutil.rmtree(MlflowClient().get_run(run_id).info.artifact_uri.removeprefix("file://"))


def test_the_newest_finished_run_with_the_key_is_found(module_store: Path) -> None:
    finished("a", "old")
    finished("b", "other")
    newest = finished("a", "new")
    assert find("a") == (newest, "new")
    assert find("c") is None


def test_it_is_found_in_whichever_experiment_it_is(module_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    there = finished("in-another", "x")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    mlflow.set_experiment("tft-production")
    assert find("in-another") == (there, "x")


def test_failed_and_running_runs_are_not_found(module_store: Path) -> None:
    """Nor one that was killed, though each has a result and the key."""

    def end_by(error: type[BaseException]) -> None:
        with parent_run("phase", None) as run:
            run.finish("half", "f")
            raise error

    with pytest.raises(ValueError):
        end_by(ValueError)
    with pytest.raises(KeyboardInterrupt):
        end_by(KeyboardInterrupt)
    with parent_run("phase", None) as run:
        run.finish("half", "f")
        assert find("f") is None
    assert find("f") == (run.run_id, "half")


def test_runs_whose_artifacts_are_gone_are_passed_over(module_store: Path) -> None:
    """An older one that can still be read is taken; if there is none, there is none."""
    older, newer = finished("g", "older"), finished("g", "newer")
    delete_artifacts(newer)
    assert find("g") == (older, "older")
    delete_artifacts(older)
    assert find("g") is None


def test_deleted_runs_are_not_found(module_store: Path) -> None:
    MlflowClient().delete_run(finished("h", "x"))
    assert find("h") is None


def test_a_result_is_read_back_as_it_was_written(module_store: Path) -> None:
    run_id = finished("i", '{"ü": [1, null]}')
    assert Run(run_id).read_text("result.json") == '{"ü": [1, null]}'


def test_all_tags_have_to_agree_and_more_than_a_page_is_read(module_store: Path) -> None:
    """Newest first."""
    made = []
    for number in range(23):
        with parent_run("tagged", None) as run:
            run.tags({"colour": "red", "size": "small" if number % 2 else "large"})
        made.append(run.run_id)
    assert [run.info.run_id for run in finished_runs({"colour": "red"})] == made[::-1]
    assert [run.info.run_id for run in finished_runs({"colour": "red", "size": "small"})] == made[1::2][::-1]
    assert list(finished_runs({"colour": "blue"})) == []

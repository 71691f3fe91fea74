"""A silent sink takes whatever a run takes, shows nothing, and keeps results."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from pipeline.tracking import runs
from pipeline.tracking.kept import Kept, LocalStore
from pipeline.tracking.runs import Run
from pipeline.tracking.sink import Found, Silent, Sink


def undrawn() -> Figure:
    raise AssertionError("nobody looks at it")


def test_a_silent_sink_takes_everything_and_shows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without MLflow, and without drawing a figure; its children are itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "MlflowClient", None)
    monkeypatch.setattr(runs, "mlflow", None)
    sink = Silent(Kept())
    sink.metrics({"a": 1.0})
    sink.metric_steps({"a": {0: 1.0}})
    sink.params({"a": 1})
    sink.tags({"a": "b"})
    sink.table("t.json", {"a": [1]})
    sink.text("t.txt", "text")
    sink.figure("f.png", undrawn)
    sink.file(tmp_path / "absent")
    sink.dataset("table", "here", "digest")
    with sink.child("trial") as child, child.phase("tuning") as phase:
        assert child is phase is sink
    assert not sink.shows
    assert not list(tmp_path.iterdir()) and capsys.readouterr() == ("", "")


def test_results_are_kept_by_key_and_found_again(tmp_path: Path) -> None:
    """Under a key; without one a result serves the caller alone."""
    store = LocalStore(tmp_path / "kept")
    Silent(Kept(store)).finish('{"a": 1}', "k" * 64)
    Silent(Kept(store)).finish('{"a": 2}', None)
    again = Silent(Kept(store))
    assert again.find_result("k" * 64) == Found("", '{"a": 1}')
    assert again.find_result("l" * 64) is None


def test_both_kinds_of_sink_offer_the_same() -> None:
    offered = {name for name in vars(Sink) if not name.startswith("_")}
    for kind in (Run, Silent):
        assert offered <= {*vars(kind), "run_id"}

"""The example notebook: it runs as it stands, and its stored outputs are those of a run, small and without traces."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import MICRO, ROOT
from tests.workplace import Workplace

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """All that the outputs of its cells show."""
    shown = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error", output
            shown += [output.text] if "text" in output else output.data.values()
    return shown


def test_the_outputs_are_those_of_one_run_from_top_to_bottom(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    said = "\n".join(texts(notebook))
    assert "Holdout Sharpe: earned" in said and "reusing run" in said
    assert NOTEBOOK.stat().st_size < 100_000
    for trace in ("/home/", "/root/", "/tmp/", "site-packages", "Warning"):
        assert trace not in NOTEBOOK.read_text(), trace


@pytest.mark.slow
def test_it_runs(notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel, on the smallest configuration: every cell, the progress of the phases, and nothing on the way that
    looks like a fault."""
    place = Workplace(tmp_path)
    for folder in ("examples", "home"):
        (place.folder / folder).mkdir()
    (cell,) = [cell for cell in notebook.cells if "configs/quickstart.yaml" in cell.source]
    cell.source = cell.source.replace("configs/quickstart.yaml", str(MICRO))
    for name, value in (place.environment() | {"PYTHONPATH": str(ROOT)}).items():
        monkeypatch.setenv(name, value)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(place.folder / "examples")}}).execute()
    shown = texts(notebook)
    (bar,) = [text for text in shown if text.startswith("<progress")]
    assert "permuted groups: 21/21, " in bar, "one output, rewritten until the last piece of work is done"
    assert any("reusing run" in text for text in shown)
    assert not [text for text in shown if "Warning" in text]
    assert (place.folder / "mlflow.db").exists()

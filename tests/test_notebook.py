"""The example notebook: its stored outputs are those of one run, small and without traces."""

from __future__ import annotations

import nbformat
import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """All that the outputs of its cells show."""
    shown: list[str] = []
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

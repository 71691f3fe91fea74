"""`tft-pipeline report`: the page of a run as a file, and printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.workplace import Workplace

PAGE = "<!DOCTYPE html><p>± 0.3, − 0.1</p>"


@pytest.fixture
def place(tmp_path: Path, store_in: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A folder with an empty store, where no browser is installed."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return Workplace(store_in(tmp_path))


def run_with(place: Workplace, page: str | None) -> str:
    """A run in the folder's store, with a report if there is one."""
    client = MlflowClient(f"sqlite:///{place.folder}/mlflow.db")
    run = client.create_run(client.create_experiment("reports", artifact_location=str(place.folder / "artifacts")))
    if page is not None:
        client.log_text(run.info.run_id, page, "report.html")
    return str(run.info.run_id)


def install_browser(place: Workplace, script: str) -> None:
    browser = place.folder / "bin" / "chromium"
    browser.write_text(f"#!/bin/bash\n{script}\n")
    browser.chmod(0o755)


def test_the_page_of_a_run_becomes_a_file(place: Workplace) -> None:
    run_id = run_with(place, PAGE)
    assert "Wrote report.html." in place.run("report", run_id).stdout
    assert (place.folder / "report.html").read_text() == PAGE
    place.run("report", run_id, "--out", "mine.html")
    assert (place.folder / "mine.html").read_text() == PAGE


def test_it_is_printed_by_the_browser_that_is_installed(place: Workplace) -> None:
    """The browser is given the very page, and where to print it to."""
    install_browser(
        place,
        'for a in "$@"; do case $a in --print-to-pdf=*) to=${a#*=};; file://*) page=${a#file://};; esac; done\n'
        'printf "PDF of " > "$to"; /bin/cat "$page" >> "$to"',
    )
    place.run("report", run_with(place, PAGE), "--pdf", "mine.pdf")
    assert (place.folder / "mine.pdf").read_text() == f"PDF of {PAGE}"
    # Whoever asks for the PDF alone gets the PDF alone.
    assert not (place.folder / "report.html").exists()


@pytest.mark.parametrize(
    ("page", "browser", "said"),
    [
        (None, None, "has no report.html: give the id of a production run that is finished"),
        (PAGE, None, "no browser that prints is installed"),
        (PAGE, "echo no display >&2; exit 7", "printed nothing (exit code 7): no display"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    place: Workplace, page: str | None, browser: str | None, said: str
) -> None:
    if browser:
        install_browser(place, browser)
    done = place.run("report", run_with(place, page), "--pdf", "mine.pdf", code=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and said in line
    assert not (place.folder / "mine.pdf").exists()

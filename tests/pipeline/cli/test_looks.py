"""`tft-pipeline looks`: what a person types about looks, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.cli.looks import _seen
from pipeline.tracking.ledger import Look
from tests.conftest import MICRO
from tests.workplace import Workplace

DATES = ("--first", "2024-01-02", "--last", "2024-06-28", "--symbols", "A,B", "--bars", "124")
SEEN = ("--sharpe", "0.8", "--why", "ridge in a notebook")


@pytest.fixture
def place(tmp_path: Path, store_in: Callable[[Path], Path]) -> Workplace:
    return Workplace(store_in(tmp_path))


def refused(place: Workplace, *arguments: str) -> str:
    """The one sentence with which a command ends."""
    done = place.run("looks", *arguments, code=2)
    (line,) = done.stderr.splitlines()
    return line


def test_an_added_look_is_listed_with_its_reason_and_counts_once(place: Workplace) -> None:
    assert "knows of no look" in place.run("looks", "list").output
    first = place.run("looks", "add", *DATES, *SEEN).output
    assert "A, B from 2024-01-02 to 2024-06-28, Sharpe 0.80 on 124 bars. N at this holdout is now 1" in first
    assert "No other look is at the same holdout" in first
    assert "already in the ledger" in place.run("looks", "add", *DATES, *SEEN).output
    other = place.run("looks", "add", *DATES, "--sharpe", "0.9", "--why", "ridge in a notebook").output
    assert "is now 2" in other and "No other look" not in other
    elsewhere = ("--first", "2020-01-02", "--last", "2020-06-28", "--symbols", "A,B", "--bars", "124")
    assert "is now 1" in place.run("looks", "add", *elsewhere, *SEEN).output
    listed = place.run("looks", "list").output
    assert [int(n) for n in re.findall(r"N = (\d+), looks", listed)] == [2, 1]
    assert listed.count("ridge in a notebook") == 3 and "0.90" in listed


def test_a_listed_look_without_a_sharpe_says_why() -> None:
    """On 62 bars nothing is inferred, so that no Sharpe beyond drift is known; it may be otherwise lost or unlearnt."""
    look = Look("production", "2024-01-02", "2024-03-28", ("A",), "", "r")
    cells = [_seen(replace(look, n_bars=n, sharpe=s)) for n, s in ((62, None), (63, None), (None, None), (62, 0.4))]
    assert cells == ["under 63 bars", "unknown", "unknown", "0.40"]


def test_a_look_at_a_configured_holdout_knows_its_instruments_under_any_name(place: Workplace) -> None:
    """Its dates, bars and returns are those of the table; the second configuration reads the same table renamed."""
    place.run("sample-data", "--config", str(MICRO))
    table = pl.read_parquet(place.folder / "data" / "micro.parquet")
    done = place.run("looks", "add", "--config", str(MICRO), *SEEN)
    times = np.sort(table["date"].unique().to_numpy())
    assert (
        f"from {times[210]} to {times[-3]}, Sharpe 0.80 on 88 bars" in done.stdout
    )  # 300 bars, the last two unlabelled
    table.with_columns(pl.col("symbol") + "_NEW").write_parquet(place.folder / "renamed.parquet")
    renamed = ("--config", str(MICRO), "--set", "data.source=renamed.parquet")
    assert "N at this holdout is now 2" in place.run("looks", "add", *renamed, *SEEN).stdout
    shuffled = table.with_columns(pl.col("ret_1d").shuffle(seed=1)).drop("close", strict=False)
    shuffled.write_parquet(place.folder / "other.parquet")
    other = ("--config", str(MICRO), "--set", "data.source=other.parquet")
    assert "N at this holdout is now 1" in place.run("looks", "add", *other, *SEEN).stdout


def test_ledgers_are_exchanged_by_file(place: Workplace, tmp_path: Path, store_in: Callable[[Path], Path]) -> None:
    place.run("looks", "add", *DATES, *SEEN)
    assert "Wrote 1 looks" in place.run("looks", "export", "looks.jsonl").output
    (tmp_path / "colleague").mkdir()
    colleague = Workplace(store_in(tmp_path / "colleague"))
    for said in ("Imported 1 new looks", "Imported 0 new looks"):
        assert said in colleague.run("looks", "import", str(place.folder / "looks.jsonl")).output
    assert colleague.run("looks", "list").output.count("ridge in a notebook") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", *SEEN), "Give --config with the YAML file that has it, or --first, --last, --symbols, --bars"),
        (("add", *SEEN, *DATES[:4]), "or --symbols, --bars"),
        (("add", *SEEN, *DATES, "--config", str(MICRO)), "--config says which holdout was looked at, and so does"),
        (("add", *SEEN, *DATES, "--first", "soon"), "--first is 'soon', it must be an ISO date"),
        (("add", *SEEN, *DATES, "--last", "2023-06-28"), "--first 2024-01-02 is not before --last 2023-06-28"),
        (("add", *SEEN, *DATES, "--symbols", " , "), "must name the instruments, such as A,B,C"),
        (("add", *SEEN, *DATES, "--bars", "1"), "--bars is 1"),
        (("add", *SEEN, *DATES, "--sharpe", "nan"), "--sharpe is nan, it must be the annual number"),
        (("add", *SEEN, *DATES, "--why", " "), "--why is empty: say what was tried and where"),
        (("add", *SEEN, "--config", "absent.yaml"), "absent.yaml does not exist"),
        (("import", "absent.jsonl"), "absent.jsonl: No such file"),
        (("export", "nowhere/looks.jsonl"), "nowhere/looks.jsonl: No such file"),
    ],
)
def test_what_is_wrong_is_one_sentence(place: Workplace, arguments: tuple[str, ...], said: str) -> None:
    line = refused(place, *arguments)
    assert line.startswith("Error: ") and said in line


def test_a_configuration_without_a_holdout_cannot_have_been_looked_at(place: Workplace) -> None:
    place.run("sample-data", "--config", str(MICRO))
    done = place.run("looks", "add", "--config", str(MICRO), "--set", "holdout_fraction=0", *SEEN, code=2)
    assert "has no holdout on data/micro.parquet" in done.stderr

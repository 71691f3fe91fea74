"""Ledgers are merged by files: everything arrives, and once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from pipeline.tracking.ledger import Look, all_looks, enter, record_of
from pipeline.tracking.ledger_files import export_looks, import_looks
from tests.pipeline.tracking.test_ledger import LOOK, seen

Store = Callable[[str], None]


@pytest.fixture
def use(tmp_path: Path, store_in: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch, mlflow_uri: Store) -> Store:
    """Goes to the store of that name, which is empty at first; each has a cache of its own."""

    def go(name: str) -> None:
        folder = tmp_path / name
        if not folder.exists():
            folder.mkdir()
            store_in(folder)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        mlflow_uri(f"sqlite:///{folder / 'mlflow.db'}")

    return go


def filled() -> list[Look]:
    """A look with number and record, one with a number and a reason, one that died."""
    record = seen(0)
    record.returns[3, 1] = np.nan
    record.net[4] = np.nan
    return [
        enter(replace(LOOK, sharpe=0.1 + 0.2, n_bars=120), record),
        enter(replace(LOOK, kind="added", evaluation="by hand", why="a notebook", sharpe=-1.0, n_bars=99)),
        enter(replace(LOOK, evaluation="died")),
    ]


def own(look: Look) -> Look:
    """Without what is another in every ledger."""
    return replace(look, entry="", record_sha256="")


def test_a_ledger_arrives_whole_and_twice_is_once(use: Store, tmp_path: Path) -> None:
    use("one")
    looks = filled()
    assert export_looks(tmp_path / "looks.jsonl") == 3
    use("two")
    assert import_looks(tmp_path / "looks.jsonl") == (3, 0)
    assert import_looks(tmp_path / "looks.jsonl") == (0, 3)
    arrived = all_looks()
    assert [own(look) for look in arrived] == [own(look) for look in looks]
    record = record_of(arrived[0])
    assert record is not None and record.symbols == ("A", "B")
    assert np.isnan(record.returns[3, 1]) and np.isnan(record.net[4])
    assert_array_equal(record.times, seen(0).times)
    assert_array_equal(np.delete(record.net, 4), np.delete(seen(0).net, 4))
    assert [record_of(look) for look in arrived[1:]] == [None, None]
    assert export_looks(tmp_path / "again.jsonl") == 3
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "looks.jsonl").read_text()


def test_ledgers_merge_both_ways(use: Store, tmp_path: Path) -> None:
    """Files joined by `cat`, the same look in both; a look that had died takes its number and record."""
    use("one")
    filled()
    export_looks(tmp_path / "one.jsonl")
    use("two")
    enter(replace(LOOK, evaluation="died", sharpe=2.0, n_bars=120), seen(1))
    enter(replace(LOOK, evaluation="two's own"))
    export_looks(tmp_path / "two.jsonl")
    (tmp_path / "both.jsonl").write_text((tmp_path / "one.jsonl").read_text() + (tmp_path / "two.jsonl").read_text())
    use("one")
    assert import_looks(tmp_path / "both.jsonl") == (1, 3)
    found = {look.evaluation: look for look in all_looks()}
    assert found.keys() == {"e1", "by hand", "died", "two's own"}
    assert found["died"].sharpe == 2.0 and record_of(found["died"]) is not None
    use("two")
    assert import_looks(tmp_path / "both.jsonl") == (2, 2)
    assert {look.key for look in all_looks()} == {look.key for look in found.values()}


def changed(line: str, **changes: object) -> str:
    document = json.loads(line)
    for name, value in changes.items():
        part, _, key = name.partition("__")
        document[part][key] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: "{", "line 2: Invalid JSON"),
        (lambda line: "{}", "line 2: look Field required"),
        (lambda line: changed(line, look__sharpe="high"), "line 2: look.sharpe Input should be a valid number"),
        (lambda line: changed(line, look__first="soon"), "line 2: Error parsing datetime string"),
        (lambda line: changed(line, record__net=[0.0]), "line 2: a holdout record of 120 bars and 2 instruments"),
        (lambda line: changed(line, record__times=["2024-01-01"] * 120), "line 2: the times of a holdout record"),
    ],
)
def test_a_damaged_file_is_refused_before_anything_is_entered(
    use: Store, tmp_path: Path, change: Callable[[str], str], said: str
) -> None:
    use("one")
    filled()
    export_looks(tmp_path / "looks.jsonl")
    line = (tmp_path / "looks.jsonl").read_text().splitlines()[0]
    (tmp_path / "looks.jsonl").write_text(f"{line}\n{change(line)}\n")
    use("two")
    with pytest.raises(ValueError, match=said) as caught:
        import_looks(tmp_path / "looks.jsonl")
    assert "\n" not in str(caught.value) and "tft-pipeline looks export" in str(caught.value)
    assert all_looks() == []


def test_a_file_of_something_else_is_refused(use: Store, tmp_path: Path) -> None:
    use("one")
    (tmp_path / "looks.parquet").write_bytes(b"PAR1\xff\xfe")
    with pytest.raises(ValueError, match="is no text"):
        import_looks(tmp_path / "looks.parquet")
    with pytest.raises(FileNotFoundError):
        import_looks(tmp_path / "absent.jsonl")

"""Every look at a holdout is counted, once, by what it saw and what it earned."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import polars as pl
import pytest
from mlflow.tracking import MlflowClient
from numpy.testing import assert_array_equal

from pipeline.statistics.looks import HoldoutRecord
from pipeline.tracking import ledger
from pipeline.tracking.ledger import (
    EXPERIMENT,
    RECORD,
    Look,
    all_looks,
    by_holdout,
    by_recipe,
    enter,
    is_empty,
    overlapping,
    record_of,
    restore,
    stands_for,
)

pytestmark = pytest.mark.usefixtures("module_store")

LOOK = Look("production", "2024-01-02", "2024-06-28", ("A", "B"), config_sha256="c1", run="r1", evaluation="e1")


MARKET = 0.01 * np.random.default_rng(0).standard_normal((180, 2))


def seen(recipe: int, *, symbols: tuple[str, ...] = ("A", "B"), n_bars: int = 120, first: int = 0) -> HoldoutRecord:
    """What a recipe earned on one market, whose instruments may have other names."""
    position = np.random.default_rng(100 + recipe).uniform(-1, 1, MARKET.shape)
    bars = slice(first, first + n_bars)
    times = np.datetime64("2024-01-04", "us") + np.arange(180) * np.timedelta64(1, "D")
    return HoldoutRecord(times[bars], symbols, MARKET[bars].copy(), (position * MARKET).mean(axis=1)[bars])


def n_recipes(looks: list[Look]) -> int:
    return len(by_recipe(looks))


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module's store is one; each test finds no look in it, and has a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield
    client = MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment:
        for run in client.search_runs([experiment.experiment_id]):
            client.delete_run(run.info.run_id)


def test_an_empty_ledger_has_no_looks() -> None:
    assert overlapping("1900-01-01", "2100-01-01", ("A",)) == all_looks() == []
    assert is_empty()
    enter(LOOK)
    assert not is_empty()


def test_a_look_comes_back_as_it_was_entered() -> None:
    entered = enter(replace(LOOK, sharpe=0.41, n_bars=124))
    assert replace(entered, entered="", entry="") == replace(LOOK, sharpe=0.41, n_bars=124)
    assert overlapping("2024-01-02", "2024-06-28", ("A",)) == [entered]
    (run,) = mlflow.search_runs(experiment_names=[EXPERIMENT], output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"sharpe": 0.41, "n_bars": 124.0}
    assert run.info.run_id == entered.entry


def test_the_ledgers_experiment_says_what_it_is() -> None:
    """It has a kind, as the UI asks for one otherwise, and a description, which a person may replace."""
    enter(LOOK)
    client = MlflowClient()
    held = client.get_experiment_by_name(EXPERIMENT)
    assert held is not None
    tags, experiment = held.tags, held.experiment_id
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert "Every evaluation of a holdout" in tags["mlflow.note.content"]
    client.set_experiment_tag(experiment, "mlflow.note.content", "Ours.")
    enter(replace(LOOK, evaluation="another"))
    assert client.get_experiment(experiment).tags["mlflow.note.content"] == "Ours."


@pytest.mark.parametrize(
    ("first", "last", "symbols", "seen"),
    [
        ("2024-06-28", "2024-12-31", ("A",), True),  # the last bar is shared
        ("2024-06-29", "2024-12-31", ("A", "B"), False),
        ("2023-01-02", "2024-01-02", ("B", "C"), True),  # the first bar, and one instrument
        ("2023-01-02", "2024-01-01T23:59", ("A", "B"), False),
        ("2024-02-01T00:00:00.000000", "2024-02-02T00:00:00.000000", ("A",), True),  # however its time is written
        ("2020-01-01", "2030-01-01", ("C",), False),  # every bar, but none of the instruments
    ],
)
def test_looks_overlap_that_share_bars_and_an_instrument(
    first: str, last: str, symbols: tuple[str, ...], seen: bool
) -> None:
    enter(LOOK)
    assert bool(overlapping(first, last, symbols)) is seen


def test_a_look_is_there_before_its_number_and_takes_it_later() -> None:
    enter(LOOK)
    (before,) = overlapping(LOOK.first, LOOK.last, LOOK.symbols)
    assert before.sharpe is None
    enter(replace(LOOK, sharpe=1.25, n_bars=124))
    (after,) = overlapping(LOOK.first, LOOK.last, LOOK.symbols)
    assert (after.sharpe, after.n_bars, after.entered) == (1.25, 124, before.entered)


def test_the_same_evaluation_by_a_resumed_run_is_one_look() -> None:
    """Also in another run, with the instruments in another order, and with settings that do not move the phase's key;
    the first run keeps it.
    """
    enter(LOOK)
    enter(replace(LOOK, run="r2", symbols=("B", "A"), config_sha256="c2", sharpe=1.0))
    (only,) = overlapping(LOOK.first, LOOK.last, LOOK.symbols)
    assert (only.run, only.sharpe) == ("r1", 1.0)


@pytest.mark.parametrize(
    "changes",
    [{"kind": "promotion"}, {"last": "2024-06-27"}, {"symbols": ("A",)}, {"evaluation": "e2"}],
)
def test_anything_else_is_another_look(changes: dict[str, object]) -> None:
    enter(LOOK)
    enter(replace(LOOK, **changes))  # type: ignore[arg-type]
    assert len(overlapping("2024-01-01", "2024-12-31", ("A",))) == 2


def test_without_a_name_of_its_own_an_evaluation_is_its_run() -> None:
    for run in ("r1", "r1", "r2"):
        enter(replace(LOOK, evaluation="", run=run))
    assert [look.run for look in overlapping(LOOK.first, LOOK.last, ("A",))] == ["r1", "r2"]


def test_more_looks_than_a_page_and_more_instruments_than_a_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of two; the names of 2 000 instruments fill five tags."""
    monkeypatch.setattr(ledger, "_PAGE", 2)
    many = tuple(f"SYMBOL-{i:04d}" for i in range(2000))
    for number in range(5):
        enter(replace(LOOK, symbols=many, evaluation=f"e{number}"))
    found = overlapping(LOOK.first, LOOK.last, ("SYMBOL-1999",))
    assert [look.evaluation for look in found] == [f"e{number}" for number in range(5)]
    assert all(look.symbols == many for look in found)


# ---- what was seen


def test_a_record_comes_back_as_it_was_stored_wherever_it_is_read(tmp_path: Path) -> None:
    """A parquet beside the look; with a gap in an instrument and a bar whose net return is not known."""
    record = seen(0)
    record.returns[3, 1] = np.nan
    record.net[5] = np.nan
    entered = enter(replace(LOOK, sharpe=1.0), record)
    frame = pl.read_parquet(MlflowClient().download_artifacts(entered.entry, RECORD))
    assert frame.columns == ["time", "symbol", "return", "net"] and len(frame) == 240
    for _ in range(2):
        back = record_of(entered)
        assert back is not None and back.symbols == record.symbols
        assert_array_equal(back.times, record.times)
        assert_array_equal(back.returns, record.returns)
        assert_array_equal(back.net, record.net)
    assert [file.stem for file in (tmp_path / "tft-pipeline" / "looks").iterdir()] == [entered.record_sha256]
    for forgotten in ("the process", "the machine"):
        ledger._stored.cache_clear()
        if forgotten == "the machine":
            shutil.rmtree(tmp_path / "tft-pipeline")
        again = record_of(entered)
        assert again is not None
        assert_array_equal(again.net, record.net)


def test_a_look_takes_its_record_later_and_keeps_the_first() -> None:
    assert record_of(enter(LOOK)) is None
    first = enter(replace(LOOK, sharpe=1.0), seen(0))
    assert enter(replace(LOOK, sharpe=1.0), seen(1)).record_sha256 == first.record_sha256 != ""


def test_a_deleted_record_is_none(tmp_path: Path) -> None:
    entered = enter(LOOK, seen(0))
    shutil.rmtree(tmp_path / "tft-pipeline")
    MlflowClient()._tracking_client._get_artifact_repo(entered.entry).delete_artifacts(RECORD)
    assert record_of(entered) is None
    assert n_recipes([entered, enter(replace(LOOK, evaluation="e2"), seen(0))]) == 2


def test_tables_with_a_noise_column_each_under_one_configuration_are_three() -> None:
    """The hash of the configuration is the same; what was earned is not."""
    for number in range(3):
        enter(replace(LOOK, evaluation=f"table {number}", sharpe=float(number)), seen(number))
    looks = overlapping(LOOK.first, LOOK.last, LOOK.symbols, seen(0))
    assert {look.config_sha256 for look in looks} == {"c1"}
    assert [[(look.evaluation, look.recipe) for look in group] for group in by_recipe(looks)] == [
        [("table 0", 1)],
        [("table 1", 2)],
        [("table 2", 3)],
    ]


def test_settings_that_decide_nothing_are_one_recipe() -> None:
    """Another device, rule of promotion or limit of time: another hash and key, the same returns up to rounding."""
    for number, config in enumerate(("device", "registry.promote", "regime.enter", "tuning.timeout_seconds")):
        rounded = replace(seen(0), net=seen(0).net * (1 + 1e-7 * number))
        enter(replace(LOOK, config_sha256=config, evaluation=config), rounded)
    looks = overlapping(LOOK.first, LOOK.last, LOOK.symbols, seen(0))
    assert (len(looks), n_recipes(looks)) == (4, 1)


def test_a_renamed_instrument_is_the_same_holdout() -> None:
    enter(LOOK, seen(0))
    names = ("X", "Y")
    assert overlapping(LOOK.first, LOOK.last, names) == []  # by name alone it is not
    assert len(overlapping(LOOK.first, LOOK.last, names, seen(1, symbols=names))) == 1


def test_other_instruments_of_the_same_name_are_another_holdout() -> None:
    enter(LOOK, seen(0))
    other = replace(seen(1), returns=0.01 * np.random.default_rng(9).standard_normal((120, 2)))
    assert overlapping(LOOK.first, LOOK.last, LOOK.symbols, other) == []


def test_newer_bars_are_the_same_holdout_and_the_same_recipe() -> None:
    """Forty days later: 80 common bars, on which the recipe earned the same."""
    enter(LOOK, seen(0))
    later = replace(LOOK, first="2024-02-11", last="2024-06-08", evaluation="later")
    enter(later, seen(0, first=40))
    looks = overlapping(later.first, later.last, later.symbols, seen(0, first=40))
    assert (len(looks), n_recipes(looks)) == (2, 1)


def test_a_look_without_a_record_counts_by_dates_and_names() -> None:
    """Died in between, added by hand, or entered by an earlier version: each is a recipe of its own."""
    enter(replace(LOOK, evaluation="died"))
    enter(replace(LOOK, evaluation="by hand", sharpe=2.0, n_bars=120))
    enter(replace(LOOK, evaluation="renamed", symbols=("X", "Y")))
    enter(LOOK, seen(0))
    looks = overlapping(LOOK.first, LOOK.last, LOOK.symbols, seen(0))
    assert [look.evaluation for look in looks] == ["died", "by hand", "e1"]
    assert n_recipes(looks) == 3


def test_looks_at_several_holdouts_are_listed_apart() -> None:
    """Two of one market, the second renamed; one of another; one that shares bars with neither but joins two others."""
    other_market = replace(seen(2), returns=0.01 * np.random.default_rng(9).standard_normal((120, 2)))
    enter(replace(LOOK, evaluation="first"), seen(0, n_bars=60))
    enter(replace(LOOK, evaluation="elsewhere"), other_market)
    enter(replace(LOOK, first="2024-05-01", evaluation="late", symbols=("X",)), seen(1, n_bars=60, first=120))
    apart = [[look.evaluation for look in group] for group in by_holdout(all_looks())]
    assert apart == [["first"], ["elsewhere"], ["late"]]
    enter(replace(LOOK, evaluation="whole"), seen(1, n_bars=180))
    joined = [[look.evaluation for look in group] for group in by_holdout(all_looks())]
    assert joined == [["first", "late", "whole"], ["elsewhere"]]


def test_the_latest_number_stands_for_a_recipe() -> None:
    looks = [replace(LOOK, sharpe=sharpe) for sharpe in (1.0, 1.5, None)]
    assert stands_for(looks).sharpe == 1.5  # the last was never learnt
    assert stands_for(looks[2:]).sharpe is None


def test_a_deleted_ledger_comes_back_with_its_looks() -> None:
    """As the UI deletes it: its runs go with it, and nothing can be entered until it is restored."""
    assert not restore()
    own, other = (replace(LOOK, evaluation=name) for name in ("before", "after"))
    enter(own, seen(1))
    client = MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    assert restore() and not restore()
    back = {look.key: look for look in all_looks()}
    assert record_of(back[own.key]) is not None
    enter(other, seen(2))
    assert {look.key for look in all_looks()} == {*back, other.key}


def test_without_a_folder_to_cache_in_records_are_kept_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    entered = enter(replace(LOOK, evaluation="uncached"), seen(3))
    found = record_of(entered)
    assert found is not None
    assert_array_equal(found.net, seen(3).net)

"""Every look at a holdout is counted, once, by the bars and instruments it saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from pipeline.tracking import ledger
from pipeline.tracking.ledger import EXPERIMENT, Look, by_configuration, enter, overlapping

pytestmark = pytest.mark.usefixtures("module_store")

LOOK = Look("production", "2024-01-02", "2024-06-28", ("A", "B"), config_sha256="c1", run="r1", evaluation="e1")


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    """The module's store is one; each test finds no look in it."""
    yield
    client = MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment:
        for run in client.search_runs([experiment.experiment_id]):
            client.delete_run(run.info.run_id)


def test_an_empty_ledger_has_no_looks() -> None:
    assert overlapping("1900-01-01", "2100-01-01", ("A",)) == []


def test_a_look_comes_back_as_it_was_entered() -> None:
    entered = enter(replace(LOOK, sharpe=0.41, n_bars=124))
    assert replace(entered, entered="") == replace(LOOK, sharpe=0.41, n_bars=124)
    assert overlapping("2024-01-02", "2024-06-28", ("A",)) == [entered]
    (run,) = mlflow.search_runs(experiment_names=[EXPERIMENT], output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"sharpe": 0.41, "n_bars": 124.0}


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
    """Also in another run, and with the instruments in another order; the first run keeps it."""
    enter(LOOK)
    enter(replace(LOOK, run="r2", symbols=("B", "A"), sharpe=1.0))
    (only,) = overlapping(LOOK.first, LOOK.last, LOOK.symbols)
    assert (only.run, only.sharpe) == ("r1", 1.0)


@pytest.mark.parametrize(
    "changes",
    [{"kind": "promotion"}, {"config_sha256": "c2"}, {"last": "2024-06-27"}, {"symbols": ("A",)}, {"evaluation": "e2"}],
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


def test_the_latest_number_of_each_configuration_counts() -> None:
    looks = [
        replace(LOOK, sharpe=1.0),
        replace(LOOK, config_sha256="c2", sharpe=2.0),
        replace(LOOK, kind="comparison", sharpe=1.5),
        replace(LOOK, config_sha256="c2", sharpe=None),  # never learnt: the one before it stands
        replace(LOOK, config_sha256="c3", sharpe=None),
    ]
    assert {name: look.sharpe for name, look in by_configuration(looks).items()} == {"c1": 1.5, "c2": 2.0, "c3": None}

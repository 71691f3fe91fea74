"""What a walk-forward is judged by is cut from its own results, bar by bar."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from pipeline import assessment
from pipeline.assessment import _looks, _trials
from pipeline.config.schema import Config, Selection
from pipeline.config.sections import BaselinesConfig
from pipeline.data.dataset import Dataset
from pipeline.job import Job
from pipeline.phases.prefilter import Prefiltered
from pipeline.phases.tuning import Trial, Tuned
from pipeline.statistics.baseline_comparison import against
from pipeline.statistics.baselines import Baseline, NetworkSettings
from pipeline.statistics.inference import Looked
from pipeline.tracking.ledger import Look, enter
from tests.conftest import CPU, small_panel
from tests.pipeline.reporting.test_page import small_record
from tests.pipeline.statistics.test_baselines import FOLDS
from tft.market import Market
from tft.panel import Panel
from tft.positions import PositionsConfig
from tft.record import Record


def test_the_part_of_a_record_over_the_untuned_bars_can_be_paired() -> None:
    """Rows 40 to 149 of 160: 90 bars of the holdout have a known return in both."""
    record = small_record(160, holdout_bars=100)
    part = record.rows(np.isin(record.bars, np.arange(140, 250)))
    assert_array_equal(part.times, record.times[40:150])
    assert_array_equal(part.net(), record.net()[40:150])
    (row,) = against(part, {"the same": part}, "holdout")
    assert (row.n_bars, row.difference_annual, row.p_value) == (90, 0.0, 1.0)


@pytest.mark.parametrize("selection", ["holdout", "nested"])
def test_baselines_get_what_the_prefilter_kept_and_choose_before_anything_is_scored(
    selection: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All columns of each fold's own prefilter, none of what was tuned, and bars before the holdout; with nested
    selection those before the end of each fold's validation block."""
    panel = small_panel(420, 2, 4)
    config = Config(selection=selection, holdout_start="2020-11-06", baselines=BaselinesConfig(lstm=True))
    tuned = replace(config, positions=PositionsConfig(max_position=0.9, position_smooth=0.1))
    data = Dataset(panel=panel, sha256="", source="", n_rows=840)
    job = Job(config, data, CPU)
    kept = {0: panel.feature_names[:3], 1: panel.feature_names[1:]}
    choices = {
        fold: SimpleNamespace(features=("group_2",), config=tuned, filtered=Prefiltered(4, columns, ()))
        for fold, columns in kept.items()
    }
    walked = SimpleNamespace(
        selection=selection, folds=FOLDS, choices=choices, market=Market(panel, config.timing, CPU), n_development=310
    )
    given: dict[str, Any] = {}

    def run(panel: Panel, folds: Any, features: Any, *others: Any, **named: Any) -> dict[str, Baseline]:
        given.update(named | {"features": features})
        return {}

    monkeypatch.setattr(assessment, "run_baselines", run)
    assessment._baselines(job, choices[1], walked)  # type: ignore[arg-type]
    assert given["features"] == [kept[0], kept[1]]
    assert given["positions"] == config.positions
    assert given["chosen_before"] == ([215, 315] if selection == "nested" else [310, 310])
    assert given["lstm"] == NetworkSettings(config.seed, CPU)


def trial(number: int, state: str, returns: tuple[float, ...]) -> Trial:
    return Trial(number, state, 1.0, 2, {}, 1.0, returns)


def test_pruned_trials_count_but_have_no_returns() -> None:
    """The chosen trial is found by its number, not by its place."""
    tuned = Tuned(
        best={},
        best_trial=3,
        trials=(
            trial(0, "COMPLETE", (0.1, 0.2)),
            trial(1, "PRUNED", ()),
            trial(2, "FAIL", ()),
            trial(3, "COMPLETE", (0.3, 0.4)),
        ),
        times=("2024-01-01", "2024-01-02"),
        study="study",
    )
    trials = _trials(tuned)
    assert_array_equal(trials.returns, np.array([[0.1, 0.3], [0.2, 0.4]]))
    assert (trials.best, trials.n_started) == (1, 4)


# ---- how many have looked


TIMES = np.datetime64("2022-09-23", "us") + np.arange(262) * np.timedelta64(1, "D")
"""Of a panel in which a small record begins with bar 100."""
LOOK = Look("production", "2023-03-02", "2023-06-07", ("A", "B"), config_sha256="c1", run="r1")


def walked(recipe: int) -> Record:
    """A record on the same market whatever the recipe."""
    market = small_record(160, holdout_bars=100)
    position = np.random.default_rng(recipe).uniform(-0.3, 0.3, market.position.shape)
    gross = position * market.earned.held_return
    return replace(market, position=position, earned=replace(market.earned, gross=gross, net=gross - 1e-5))


@pytest.mark.usefixtures("module_store")
def test_the_other_recipes_at_a_holdout_deflate_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipe 0 looks twice, on two machines; 1 once, with a Sharpe; one is added by hand; one never said over how many
    bars its Sharpe is. Whoever looks sees them all, and counts the recipes but its own.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _looks(walked(0), enter(LOOK), TIMES)[1] == []
    other = enter(replace(LOOK, config_sha256="c2", run="r2"))
    assert [look.recipe for look in _looks(walked(1), other, TIMES)[0]] == [1, 2]
    enter(replace(other, sharpe=1.5, n_bars=98))
    enter(replace(LOOK, kind="added", run="", evaluation="by hand", sharpe=0.7, n_bars=80))
    enter(replace(LOOK, kind="added", run="", evaluation="vague", sharpe=9.0))
    again = enter(replace(LOOK, config_sha256="another device", run="r3"))
    looks, others = _looks(walked(0), again, TIMES)
    assert [look.run for look in looks] == ["r1", "r2", "", "", "r3"]
    assert [look.recipe for look in looks] == [1, 2, 3, 4, 1]
    assert others == [Looked(1.5, 98), Looked(0.7, 80), Looked(None, 0)]

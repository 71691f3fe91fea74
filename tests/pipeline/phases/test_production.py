"""Selection that cannot leak: what a choice may see, which folds make a record, and what killed work goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest
import torch

from pipeline.config.schema import Config, ConfigError, Selection, load_config
from pipeline.data.table import Dataset, panel_sha256
from pipeline.job import INNER, Job, from_json, to_json
from pipeline.phases import out_of_sample as oos
from pipeline.phases import prefilter
from pipeline.phases.exploration import Explored
from pipeline.phases.out_of_sample import Choice, choose, out_of_sample, record_folds, stitch_by_fold, untuned_record
from pipeline.tracking.progress import Quiet
from pipeline.tracking.runs import Silent, parent_run
from tests.conftest import CPU, NESTED_MICRO, small_panel
from tests.workplace import WholeJob, Workplace, artifacts
from tft.backtest import RawForecast, stitch, walk
from tft.folds import Fold
from tft.panel import AHEAD, Panel
from tft.positions import PositionsConfig, volatility_scale
from tft.train import Market, Recipe, fit_folds
from tft.volatility import Timing

NESTED = load_config(NESTED_MICRO)
HOLDOUT = replace(NESTED, selection="holdout")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_ahead(panel: Panel) -> Panel:
    """And the first column's value two bars later, as of a column that is known in advance."""
    ahead = np.full((*panel.returns.shape, 1), np.nan, dtype=np.float32)
    ahead[:-2] = panel.features[2:, :, :1]
    names = (*panel.feature_names, panel.feature_names[0] + AHEAD)
    return replace(panel, feature_names=names, features=np.concatenate([panel.features, ahead], axis=2))


def plain_panel(n_bars: int = 180) -> Panel:
    return small_panel(n_bars, 2, 5, seed=3, signal=0.5)


def corrupted(panel: Panel, first: int) -> Panel:
    """Other values in every cell of the bars from `first` on; none goes missing, none appears."""
    rng = np.random.default_rng(0)
    features, returns = panel.features.copy(), panel.returns.copy()
    features[first:] = np.where(np.isnan(features[first:]), np.nan, 3.0 * rng.standard_normal(features[first:].shape))
    returns[first:] = 0.05 * rng.standard_normal(returns[first:].shape)
    return replace(panel, features=features, returns=returns)


def job_of(panel: Panel, config: Config = NESTED) -> Job:
    """A job that writes nothing to MLflow."""
    data = Dataset(panel=panel, sha256=panel_sha256(panel), source="", n_rows=panel.returns.size)
    return Job(config, data, Silent(), Quiet(), CPU)


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_seconds(inner) for name, inner in value.items() if name not in ("seconds", "study")}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


def decided(choice: Choice) -> Any:
    """Everything phases 1, 3 and 4 said, to the last digit."""
    parts = (choice.filtered, choice.pruned, choice.tuned)
    return [choice.features, choice.config, *(json.dumps(without_seconds(json.loads(to_json(part)))) for part in parts)]


def choice_of(panel: Panel, fold: Fold, where: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The choice of one fold, made in a folder that knows of no other."""
    where.mkdir()
    monkeypatch.chdir(where)
    (choice,) = oos._choose_for_each(job_of(panel), [fold]).values()
    return decided(choice)


# What a choice may see


def test_the_choice_of_a_fold_sees_nothing_from_the_end_of_its_validation_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other values in every cell at or after end_i, known-in-advance columns included: the same choice to the last
    bit. One bar earlier the choice is another, as the check that this can fail."""
    panel = plain_panel()
    fold = record_folds(job_of(with_ahead(panel)))[0]
    end = fold.validation.stop
    first, same, other = (
        choice_of(with_ahead(one), fold, tmp_path / name, monkeypatch)
        for name, one in (("a", panel), ("b", corrupted(panel, end)), ("c", corrupted(panel, end - 1)))
    )
    assert first == same
    assert first != other


def test_the_choice_of_the_holdout_sees_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with `selection: holdout`: phases 1-4 see development bars alone, 126 of 180."""
    panel = plain_panel()
    found = {}
    for name, one in (("a", panel), ("b", corrupted(panel, 126)), ("c", corrupted(panel, 125))):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found[name] = decided(choose(job_of(with_ahead(one), HOLDOUT)))
    assert found["a"] == found["b"]
    assert found["a"] != found["c"]


def test_decisions_whose_label_reaches_the_end_take_no_part_in_a_choice(elsewhere: Path) -> None:
    """t + delay + h < end: the last bar that tuning scores is end - 1 - (delay + h)."""
    job = job_of(plain_panel())
    folds = record_folds(job)[:1]
    choice = oos._choose_for_each(job, folds)[folds[0].index]
    last = np.datetime64(choice.tuned.times[-1])
    end = folds[0].validation.stop
    assert last <= job.data.panel.times[end - 1 - 2]
    explored: Explored = json_results(Explored)[0]
    assert max(np.datetime64(row.test_end) for row in explored.folds) == job.data.panel.times[end - 1 - 2]


def json_results(kind: type[Any]) -> list[Any]:
    """Results of that kind that inner jobs left on disk."""
    texts = [file.read_text() for file in INNER.glob("*/result.json")]
    return [from_json(kind, text) for text in texts if set(json.loads(text)) == set(kind.__dataclass_fields__)]


# Which folds make the record


def test_the_record_begins_with_the_first_fold_that_has_three_inner_folds() -> None:
    """By hand for configs/nested_micro.yaml: the warm-up takes bars 0-2, so fold i ends at 43 + 35 i and is tested
    from 2 bars later on; the last label is that of bar 177 of 180. Three exploration folds 15 bars apart need
    3 + (40 + 2 + 1) + 2 * 15 + 2 = 78 bars, two tuning folds of 10 bars 3 + 43 + 19 + 2 = 67: fold 0 (43) has too
    few, fold 1 (78) just enough."""
    assert NESTED.min_inner_bars == 78
    folds = record_folds(job_of(plain_panel()))
    assert [(fold.index, fold.validation.stop, fold.test) for fold in folds] == [
        (1, 78, range(80, 115)),
        (2, 113, range(115, 150)),
        (3, 148, range(150, 178)),
    ]
    inner = job_of(plain_panel(), HOLDOUT).inner(job_of(plain_panel()).data.first_bars(78), n_development=78)
    assert len(inner.folds(78, step_size=15, max_folds=None)) == 3
    assert len(inner.folds(77, step_size=15, max_folds=None)) == 2


def test_all_folds_are_reported_of_a_holdout() -> None:
    assert [fold.index for fold in record_folds(job_of(plain_panel(), HOLDOUT))] == [0, 1, 2, 3]


def test_bars_enough_for_tuning_can_be_what_a_fold_waits_for() -> None:
    """Ten tuning folds of ten bars: 3 + 43 + 99 + 2 = 147 bars, which fold 3 (148) is the first to have."""
    config = replace(NESTED, tuning=replace(NESTED.tuning, folds=10))
    assert config.min_inner_bars == 147
    folds = record_folds(job_of(plain_panel(300), config))
    assert folds[0].index == 3 and folds[0].validation.stop == 148


@pytest.mark.parametrize("step_size", [1, 20, 35, 63, 100])
@pytest.mark.parametrize(("train_window", "inner_step"), [(40, 15), (52, 7), (40, 40)])
@pytest.mark.parametrize("horizon", [1, 2])
def test_what_is_said_to_be_needed_is_the_least_that_is_accepted(
    step_size: int, train_window: int, inner_step: int, horizon: int
) -> None:
    """63 labelled bars of record, and one bar less is refused with one sentence that says so."""
    config = replace(
        NESTED,
        horizon=horizon,
        purge_gap=3,
        walk_forward=replace(NESTED.walk_forward, train_window=train_window),
        exploration=replace(NESTED.exploration, step_size=inner_step),
        production=replace(NESTED.production, step_size=step_size),
    )
    n_bars = config.min_nested_bars
    folds = record_folds(job_of(plain_panel(n_bars), config))
    assert sorted({bar for fold in folds for bar in fold.test}) == list(
        range(n_bars - 63 - 1 - horizon, n_bars - 1 - horizon)
    )
    with pytest.raises(ValueError) as refused:
        record_folds(job_of(plain_panel(n_bars - 1), config))
    assert str(refused.value).startswith("selection: nested leaves ")
    assert f"the table has {n_bars - 1} bars, bring {n_bars}, or shorten" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_folds_that_max_folds_leaves_out_are_said_to_be_the_reason() -> None:
    """180 bars are enough, one fold of 28 of them is not."""
    config = replace(NESTED, production=replace(NESTED.production, max_folds=1))
    with pytest.raises(ValueError, match=r"leaves 28 bars of record, 63 are needed: raise production.max_folds \(1\)"):
        record_folds(job_of(plain_panel(), config))


def test_too_few_exploration_folds_are_a_fault_of_the_configuration() -> None:
    with pytest.raises(
        ConfigError, match=r"exploration\.max_folds is 2, selection: nested chooses on at least 3 folds"
    ):
        load_config(NESTED_MICRO, ["exploration.max_folds=2"])
    with pytest.raises(ConfigError, match="selection is 'inner', it must be one of holdout, nested"):
        load_config(NESTED_MICRO, ["selection=inner"])


# Stitching


def naive_path(
    raw: np.ndarray, scale: np.ndarray, positions: Mapping[int, PositionsConfig], ruling: list[int]
) -> np.ndarray:
    smoothed, out = np.zeros(raw.shape[1]), np.empty_like(raw)
    for t, fold in enumerate(ruling):
        own = positions[fold]
        capped = np.clip(raw[t], -own.max_position, own.max_position)
        smoothed = own.position_smooth * smoothed + (1.0 - own.position_smooth) * capped
        out[t] = smoothed * scale[t]
    return out


def test_each_fold_is_held_by_its_own_cap_and_smoothing() -> None:
    """Bar by bar, over the border, where the smoothed position goes on; where all are alike it is tft's own stitch."""
    panel = small_panel(150, 2, 1, seed=1)
    market = Market(panel, Timing(), CPU)
    rng = np.random.default_rng(2)
    blocks = [range(100, 120), range(120, 133), range(133, 150)]
    forecasts = [
        RawForecast(Fold(i + 4, range(50), range(60, 70), block), block, rng.uniform(-1, 1, (len(block), 2)))
        for i, block in enumerate(blocks)
    ]
    one = PositionsConfig(max_position=0.3, position_smooth=0.5)
    alike = stitch_by_fold(forecasts, dict.fromkeys((4, 5, 6), one), market, n_development=110)
    expected = stitch(forecasts, panel, market.sigma, one, market.timing, n_development=110)
    for name in ("position", "raw_position", "fold", "segment", "times"):
        np.testing.assert_array_equal(getattr(alike, name), getattr(expected, name))
    np.testing.assert_array_equal(alike.net(), expected.net())

    positions = {4: one, 5: replace(one, max_position=0.9, position_smooth=0.1), 6: replace(one, position_smooth=0.9)}
    record = stitch_by_fold(forecasts, positions, market, n_development=0)
    raw = np.concatenate([forecast.raw_position for forecast in forecasts])
    ruling = [4] * 20 + [5] * 13 + [6] * 17
    scale = volatility_scale(market.sigma[100:150], one, market.timing)
    held = naive_path(raw, scale, positions, ruling)
    np.testing.assert_allclose(record.position, held, rtol=1e-12)
    change = np.abs(np.diff(held, axis=0, prepend=np.zeros((1, 2))))
    net = held[:-2] * panel.returns[102:150] - 5e-4 * change[:-2]
    np.testing.assert_allclose(record.net()[:-2], net.mean(axis=1), rtol=1e-12)
    assert set(record.segment) == {"holdout"}


# Inner jobs


def test_an_inner_job_decides_as_an_ordinary_one_and_leaves_no_trace(module_store: Path) -> None:
    """On the same data, phase by phase to the last digit; no run, no study, and nothing said."""
    panel = plain_panel()
    with parent_run("ordinary", None) as parent:
        ordinary = job_of(panel)
        ordinary.parent = parent
        expected = decided(choose(ordinary))
        runs = len(mlflow.search_runs(search_all_experiments=True, output_format="list"))
        study = (module_store / "optuna.db").read_bytes()
        inner = ordinary.inner(ordinary.data)
        assert inner.is_inner and not ordinary.is_inner
        assert decided(choose(inner)) == expected
    assert len(mlflow.search_runs(search_all_experiments=True, output_format="list")) == runs == 1 + 4 + 2
    assert (module_store / "optuna.db").read_bytes() == study
    assert inner.keys == ordinary.keys, "what a phase depends on is the same, whoever asks"


class Interrupted(BaseException):
    """The process dies."""


class DiesAfter(Quiet):
    """Is told of each fold's choice, and dies with the n-th."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.left = n

    def say(self, text: str) -> None:
        if text.startswith("selection: fold"):
            self.left -= 1
            if not self.left:
                raise Interrupted


def test_a_killed_nested_run_goes_on_from_the_choices_that_were_made(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three folds had chosen: one prefilter and one tuning are left to do, and the choices are those of a run
    that was not killed. A fresh one makes all three again."""
    panel, counted = plain_panel(), []
    whole = prefilter.prefilter
    monkeypatch.setattr(prefilter, "prefilter", lambda *given: counted.append(1) or whole(*given))
    killed = job_of(panel)
    killed.reporter = DiesAfter(2)
    with pytest.raises(Interrupted):
        out_of_sample(killed)
    assert len(counted) == 2
    resumed = job_of(panel)
    choices = oos._choose_for_each(resumed, record_folds(resumed))
    assert len(counted) == 3
    fresh = job_of(panel)
    fresh.fresh = True
    again = oos._choose_for_each(fresh, record_folds(fresh))
    assert len(counted) == 6
    assert {fold: decided(one) for fold, one in choices.items()} == {fold: decided(one) for fold, one in again.items()}


def test_a_fold_that_cannot_choose_is_named(elsewhere: Path) -> None:
    panel = plain_panel()
    empty = replace(panel, features=np.full_like(panel.features, np.nan))
    with pytest.raises(ValueError, match=r"^selection of fold 1 on the bars before 2020-03-19: prefilter leaves none"):
        out_of_sample(job_of(empty))


# Walking


def test_seeds_are_averaged_and_each_has_its_record(elsewhere: Path) -> None:
    """Nested, two seeds: folds and bars by hand, all of it clean, and each fold with its own choice."""
    config = replace(NESTED, production=replace(NESTED.production, seeds=2))
    walked = out_of_sample(job_of(plain_panel(), config))
    assert walked.selection == "nested" and walked.n_development == 0
    assert [fold.index for fold in walked.folds] == sorted(walked.choices) == [1, 2, 3]
    assert walked.record.bars == range(80, 180) and set(walked.record.segment) == {"holdout"}
    owner = walked.record.fold  # -1 where no selected column is present
    expected = np.broadcast_to(np.array([1] * 35 + [2] * 35 + [3] * 30)[:, None], owner.shape)
    np.testing.assert_array_equal(owner, np.where(owner < 0, -1, expected))
    assert (owner >= 0).mean() > 0.9
    mean = np.mean([record.raw_position for record in walked.seed_records], axis=0)
    np.testing.assert_allclose(walked.record.raw_position, mean, rtol=1e-12)
    assert not np.allclose(walked.seed_records[0].raw_position, walked.seed_records[1].raw_position)
    assert all(outcome.validation_returns.shape == (2, 10) for own in walked.seed_outcomes for outcome in own)
    for outcome in walked.outcomes:
        assert len(outcome.vsn_weight) == len(walked.choices[outcome.fold.index].features)
    assert walked.positions == {fold: choice.config.positions for fold, choice in walked.choices.items()}


@pytest.mark.parametrize("selection", ["holdout", "nested"])
def test_the_final_fit_is_made_beside_the_folds_and_is_what_it_is_alone(selection: Selection, elsewhere: Path) -> None:
    """Of each seed, with its own choice; blocks by hand: 180 bars less 2 for the label, 10 of validation after a gap of
    2, and 40 in all. The record does not know of it."""
    config = replace(NESTED, selection=selection, production=replace(NESTED.production, seeds=2))
    job = job_of(plain_panel(), config)
    plain = out_of_sample(job)
    assert plain.final == ()
    final = choose(job)
    walked = out_of_sample(job, final=final)
    np.testing.assert_array_equal(walked.record.position, plain.record.position)
    np.testing.assert_array_equal(walked.seed_records[1].raw_position, plain.seed_records[1].raw_position)
    assert walked.folds == plain.folds and walked.choices.keys() == plain.choices.keys()
    assert walked.market.panel.feature_names == walked.choices[walked.folds[-1].index].features

    fold = Fold(walked.folds[-1].index + 1, range(138, 166), range(168, 178), range(180, 180))
    market = Market(job.data.panel.select(final.features), config.timing, CPU)
    for number, fit in enumerate(walked.final):
        tuned = final.config
        recipe = Recipe(tuned.model, tuned.training, config.timing, config.production.epochs, config.seed + number)
        (alone,) = fit_folds(market, [fold], recipe)
        assert (fit.fold.index, fit.fold.train, fit.fold.validation) == (fold.index, fold.train, fold.validation)
        assert len(fit.fold.test) == 0
        assert all(torch.equal(fit.parameters[name], alone.parameters[name]) for name in alone.parameters)
        np.testing.assert_array_equal(fit.scaler.mean, alone.scaler.mean)
    assert len(walked.final) == 2


def test_the_untuned_configuration_walks_the_holdout_on_the_same_columns(elsewhere: Path) -> None:
    """Folds that own holdout bars alone (those of 126 and later: 1 to 3 of 0 to 3), by tft's own walk and stitch.

    Nothing is walked where trial 0 is the best one, or there is no holdout.
    """
    job = job_of(plain_panel(), HOLDOUT)
    walked = out_of_sample(job)

    def claiming(best_trial: int) -> oos.Walked:
        choices = {
            fold: replace(choice, tuned=replace(choice.tuned, best_trial=best_trial))
            for fold, choice in walked.choices.items()
        }
        return replace(walked, choices=choices)

    assert untuned_record(job, claiming(0)) is None
    record = untuned_record(job, claiming(1))
    assert record is not None
    features = walked.choices[0].features
    market = Market(job.data.panel.select(features), HOLDOUT.timing, CPU)
    recipe = Recipe(HOLDOUT.model, HOLDOUT.training, HOLDOUT.timing, HOLDOUT.production.epochs, HOLDOUT.seed)
    own = [fold for fold in walked.folds if fold.test.stop > 126]
    assert [fold.index for fold in own] == [2, 3]
    forecasts = [one.forecast for _, one in walk(market, own, recipe, HOLDOUT.positions, test_until=180)]
    expected = stitch(
        forecasts, market.panel, market.sigma, HOLDOUT.positions, HOLDOUT.timing, n_development=job.n_development
    )
    assert record.bars == expected.bars == range(115, 180)
    np.testing.assert_array_equal(record.position, expected.position)
    np.testing.assert_array_equal(record.segment, expected.segment)
    clean = walked.record
    nowhere = replace(walked, record=replace(clean, segment=np.full(len(clean.segment), "development")))
    assert untuned_record(job, nowhere) is None


def test_volatility_of_its_own_scales_labels_and_positions(elsewhere: Path) -> None:
    """Twice the volatility halves the labels of every phase; the hash of what a phase sees knows it."""
    panel = plain_panel()
    plain = job_of(panel, HOLDOUT)
    sigma = 2.0 * plain.market(panel).sigma
    scaled = job_of(panel, HOLDOUT)
    scaled.data = replace(scaled.data, sigma=sigma)
    short = panel.first_bars(100)
    np.testing.assert_array_equal(scaled.market(short).sigma, sigma[:100])
    np.testing.assert_allclose(scaled.market(short).y, plain.market(short).y / 2.0)
    assert scaled.development_sha256 != plain.development_sha256
    shorter = scaled.data.first_bars(100)
    assert shorter.sha256 == panel_sha256(short, sigma[:100]) != panel_sha256(short)
    np.testing.assert_array_equal(shorter.sigma, sigma[:100])
    assert job_of(panel, HOLDOUT).data.first_bars(180).sha256 == panel_sha256(panel)


# From the command line


def test_a_whole_nested_job(nested_job: WholeJob) -> None:
    """The record is clean from its first bar on, every fold's choice is in a table, the deployed model chose on all
    bars, and no number that took part in selection is shown as one that did not."""
    place, run = nested_job, nested_job.parent
    record = pl.read_parquet(artifacts(run) / "oos_record.parquet")
    bars = pl.read_parquet(place.folder / "data/nested_micro.parquet")["date"].unique().sort().cast(pl.Datetime("us"))
    assert record["segment"].unique().to_list() == ["holdout"]
    assert record["time"].unique().sort().to_list() == bars[80:].to_list()
    for fold, tested in ((1, bars[80:115]), (2, bars[115:150]), (3, bars[150:180])):
        own = record.filter(pl.col("fold") == fold)["time"].unique().sort()
        assert own.is_in(tested.to_list()).all() and len(own) > 0.8 * len(tested)

    table = json.loads((artifacts(run) / "choices.json").read_text())
    choices = {name: [row[i] for row in table["data"]] for i, name in enumerate(table["columns"])}
    assert choices["fold"] == [1, 2, 3]
    assert [np.datetime64(bar) for bar in choices["chosen_before"]] == [np.datetime64(bars[b]) for b in (78, 113, 148)]
    assert [len(names.split(", ")) for names in choices["features"]] == choices["n_features"]
    assert all(0.001 <= lr <= 0.01 for lr in choices["lr"]) and {"max_position", "position_smooth"} <= set(choices)

    metrics = run.data.metrics
    assert "oos_sharpe" in metrics and "oos_sharpe_development" not in metrics and metrics["holdout_n_bars"] == 98
    assert run.data.tags["selection"] == "nested"
    assert sorted(place.children(run.info.run_id)) == ["exploration", "prefilter", "production", "pruning", "tuning"]
    tuned = json.loads((artifacts(place.child(run.info.run_id, "tuning")) / "result.json").read_text())
    assert np.datetime64(tuned["times"][-1]) >= np.datetime64(bars[176]), "the deployed model chose on all bars"

    page = " ".join((artifacts(run) / "report.html").read_text().split())
    assert "Nested out-of-sample Sharpe" in page and "selection: nested" in page
    assert "Development" not in page and "development Sharpe" in page, "the trials' own figure is named as what it is"
    assert "nested (every fold selected on the bars before it)" in nested_job.output
    assert nested_job.errors.count("selection: fold ") == 3
    version = place.client.get_model_version("tft-production", "1")
    assert "Nested, columns and parameters of each fold" in version.description
    assert "Development" not in version.description


def test_too_few_bars_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """145 are needed (see above: fold 1 is tested from bar 80 on, 63 bars, 2 for the label)."""
    assert NESTED.min_nested_bars == 145
    short = "data.source=data/short.parquet;data.sample.n_bars=144"
    done = Workplace(tmp_path).run("production", "--config", str(NESTED_MICRO), "--set", short, code=2)
    (complaint,) = (line for line in done.stderr.splitlines() if line.startswith("Error"))
    assert complaint == (
        "Error: selection: nested leaves 62 bars of record, 63 are needed: the table has 144 bars, bring 145, or "
        "shorten walk_forward.train_window or exploration.step_size"
    )
    assert "running" not in done.stderr

"""Selection that cannot leak: what a choice may see, jobs inside a job, and what killed work goes on from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest

from pipeline import flow
from pipeline.config.bars import min_nested_bars
from pipeline.config.reading import from_json, load_config, to_json
from pipeline.config.schema import Config
from pipeline.data.dataset import panel_sha256
from pipeline.phases import prefilter
from pipeline.phases.exploration import Explored
from pipeline.phases.production import Choice
from pipeline.tracking.kept import KEPT, RESULT
from pipeline.tracking.progress import Quiet
from pipeline.tracking.runs import parent_run
from tests.conftest import NESTED_MICRO, small_panel
from tests.pipeline.jobs import job_of, out_of_sample, silent
from tests.workplace import WholeJob, Workplace, artifacts
from tft.panel import AHEAD, Panel

NESTED = load_config(NESTED_MICRO)
HOLDOUT = replace(NESTED, selection="holdout")
ONE_FOLD = replace(NESTED, production=replace(NESTED.production, step_size=80))
"""Of 200 bars, fold 1 alone makes the record: it ends at 43 + 80 = 123."""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plain_panel(n_bars: int = 180) -> Panel:
    return small_panel(n_bars, 2, 5, seed=3, signal=0.5)


def with_ahead(panel: Panel) -> Panel:
    """And the first column's value two bars later, as of a column that is known in advance."""
    ahead = np.full((*panel.returns.shape, 1), np.nan, dtype=np.float32)
    ahead[:-2] = panel.features[2:, :, :1]
    names = (*panel.feature_names, panel.feature_names[0] + AHEAD)
    return replace(panel, feature_names=names, features=np.concatenate([panel.features, ahead], axis=2))


def corrupted(panel: Panel, first: int) -> Panel:
    """Other values in every cell of the bars from `first` on; none goes missing, none appears."""
    rng = np.random.default_rng(0)
    features, returns = panel.features.copy(), panel.returns.copy()
    features[first:] = np.where(np.isnan(features[first:]), np.nan, 3.0 * rng.standard_normal(features[first:].shape))
    returns[first:] = 0.05 * rng.standard_normal(returns[first:].shape)
    return replace(panel, features=features, returns=returns)


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_seconds(inner) for name, inner in value.items() if name not in ("seconds", "study")}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


def decided(choice: Choice) -> Any:
    """Everything phases 1, 3 and 4 said, to the last digit."""
    parts = (choice.filtered, choice.pruned, choice.tuned)
    return [choice.features, choice.config, *(json.dumps(without_seconds(json.loads(to_json(part)))) for part in parts)]


def chosen_in(where: Path, monkeypatch: pytest.MonkeyPatch, panel: Panel, config: Config) -> Any:
    """What the first fold of the record was fitted with, chosen in a folder that knows of no other job."""
    where.mkdir()
    monkeypatch.chdir(where)
    choices = out_of_sample(job_of(panel, config)).choices
    return decided(choices[min(choices)])


# What a choice may see


def test_the_choice_of_a_fold_sees_nothing_from_the_end_of_its_validation_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other values in every cell at or after that end, known-in-advance columns included: the same choice to the last
    bit. One bar earlier the choice is another, as the check that this can fail."""
    panel, end = plain_panel(200), 123
    first, same, other = (
        chosen_in(tmp_path / name, monkeypatch, with_ahead(one), ONE_FOLD)
        for name, one in (("a", panel), ("b", corrupted(panel, end)), ("c", corrupted(panel, end - 1)))
    )
    assert first == same
    assert first != other


def test_the_choice_of_the_holdout_sees_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with `selection: holdout`: phases 1-4 see development bars alone, 126 of 180."""
    panel = plain_panel()
    first, same, other = (
        chosen_in(tmp_path / name, monkeypatch, with_ahead(one), HOLDOUT)
        for name, one in (("a", panel), ("b", corrupted(panel, 126)), ("c", corrupted(panel, 125)))
    )
    assert first == same
    assert first != other


def test_decisions_whose_label_reaches_the_end_take_no_part_in_a_choice(elsewhere: Path) -> None:
    """t + delay + h < end: the last bar that tuning scores, and exploration tests, is end - 1 - (delay + h)."""
    job = job_of(plain_panel(200), ONE_FOLD)
    (choice,) = out_of_sample(job).choices.values()
    last = job.data.panel.times[123 - 1 - 2]
    assert np.datetime64(choice.tuned.times[-1]) <= last
    (explored,) = kept_results(Explored)
    assert max(np.datetime64(row.test_end) for row in explored.folds) == last


def kept_results(kind: type[Any]) -> list[Any]:
    """Results of that kind that jobs inside other jobs left on disk."""
    texts = [file.read_text() for file in KEPT.root.rglob(RESULT)]
    return [from_json(kind, text) for text in texts if set(json.loads(text)) == set(kind.__dataclass_fields__)]


def test_volatility_of_its_own_scales_labels_and_positions() -> None:
    """Twice the volatility halves the labels of every phase; the hash of what a phase sees knows it."""
    panel, timing = plain_panel(), HOLDOUT.timing
    plain = job_of(panel, HOLDOUT)
    sigma = 2.0 * plain.all_bars.market(timing).sigma
    scaled = job_of(panel, HOLDOUT, sigma=sigma)
    for of_plain, of_scaled, n_bars in (
        (plain.development, scaled.development, 126),
        (plain.all_bars, scaled.all_bars, 180),
    ):
        np.testing.assert_array_equal(of_scaled.market(timing).sigma, sigma[:n_bars])
        np.testing.assert_allclose(of_scaled.market(timing).y, of_plain.market(timing).y / 2.0)
    assert scaled.development_sha256 != plain.development_sha256
    short, shorter = panel.first_bars(100), scaled.data.first_bars(100)
    assert shorter.sha256 == panel_sha256(short, sigma[:100]) != panel_sha256(short)
    np.testing.assert_array_equal(shorter.sigma, sigma[:100])
    assert plain.data.first_bars(180).sha256 == panel_sha256(panel)


# Jobs inside a job


def test_a_job_inside_another_decides_as_an_ordinary_one_and_leaves_no_trace(
    module_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the same data, phase by phase to the last digit; no run, no study, and nothing said."""
    job = job_of(plain_panel(), NESTED)
    with parent_run("ordinary", None) as parent:
        expected = flow.choose(job, parent, Quiet())
        runs = len(mlflow.search_runs(search_all_experiments=True, output_format="list"))
        study = (module_store / "optuna.db").read_bytes()
        capsys.readouterr()
        inside = flow.choose(job.on(job.data), silent(), Quiet())
    assert decided(inside.choice) == decided(expected.choice)
    assert len(mlflow.search_runs(search_all_experiments=True, output_format="list")) == runs == 1 + 4 + 2
    assert (module_store / "optuna.db").read_bytes() == study
    assert capsys.readouterr() == ("", "")
    assert inside.keys == expected.keys, "what a phase depends on is the same, whoever asks"


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
    monkeypatch.setattr(prefilter, "prefilter", lambda *given, **more: counted.append(1) or whole(*given, **more))
    with pytest.raises(Interrupted):
        out_of_sample(job_of(panel, NESTED), DiesAfter(2))
    assert len(counted) == 2
    resumed = out_of_sample(job_of(panel, NESTED))
    assert len(counted) == 3
    again = out_of_sample(job_of(panel, NESTED, fresh=True))
    assert len(counted) == 6
    first, second = ({fold: decided(one) for fold, one in walked.choices.items()} for walked in (resumed, again))
    assert first == second


def test_a_fold_that_cannot_choose_is_named(elsewhere: Path) -> None:
    panel = plain_panel()
    empty = replace(panel, features=np.full_like(panel.features, np.nan))
    with pytest.raises(ValueError, match=r"^selection of fold 1 on the bars before 2020-03-19: prefilter leaves none"):
        out_of_sample(job_of(empty, NESTED))


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
    version = place.client.get_model_version("tft-nested-micro", "1")
    assert "Nested, columns and parameters of each fold" in version.description
    assert "Development" not in version.description


def test_too_few_bars_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """145 are needed (see above: fold 1 is tested from bar 80 on, 63 bars, 2 for the label)."""
    assert min_nested_bars(NESTED) == 145
    short = "data.source=data/short.parquet;data.sample.n_bars=144"
    done = Workplace(tmp_path).run("production", "--config", str(NESTED_MICRO), "--set", short, code=2)
    (complaint,) = (line for line in done.stderr.splitlines() if line.startswith("Error"))
    assert complaint == (
        "Error: selection: nested leaves 62 bars of record, 63 are needed: the table has 144 bars, bring 145, or "
        "shorten walk_forward.train_window or exploration.step_size"
    )
    assert "running" not in done.stderr

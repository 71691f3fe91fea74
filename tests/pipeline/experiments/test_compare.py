"""Production runs compared: what is logged of a comparison, what is run for one, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from pipeline.cli.commands import main
from pipeline.config.reading import to_mapping
from pipeline.config.schema import ConfigError
from pipeline.experiments.compare import compare_runs, parse_purge_gaps, with_purge_gap
from pipeline.experiments.comparison_report import differing
from pipeline.tracking import ledger
from pipeline.tracking.runs import EXPERIMENT, Run
from tests.conftest import MICRO
from tests.pipeline.experiments.test_production_runs import (
    CONFIG,
    N_BARS,
    N_HOLDOUT,
    child_of,
    production_run,
    record,
)
from tests.workplace import WholeJob, artifacts, run_named
from tft.metrics import sharpe

pytestmark = pytest.mark.usefixtures("module_store")


def table(run: MlflowRun, name: str) -> dict[str, list[Any]]:
    logged = json.loads((artifacts(run) / name).read_text())
    return {column: [row[i] for row in logged["data"]] for i, column in enumerate(logged["columns"])}


def annual_sharpe(seed: int, segment: str) -> float:
    """Of the mean over instruments by bar, computed without the code under test."""
    bars = record(seed).filter(pl.col("segment") == segment).group_by("time").agg(pl.col("pnl").mean())
    return sharpe(bars["pnl"].to_numpy(), periods_per_year=252)


# ---- what a comparison logs


def test_a_comparison_is_a_run_with_its_tables_figure_and_links() -> None:
    client = MlflowClient()
    baseline = production_run(0, settings={"purge_gap": 2})
    candidate = production_run(1, settings={"purge_gap": 7, "seed": 8})
    Run(baseline).metrics({"seed_sharpe_spread": 0.4})
    done = compare_runs(baseline, candidate, holdout=False)
    run = client.get_run(done.run_id)
    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == EXPERIMENT
    expected = {"command": "compare", "baseline_run": baseline, "candidate_run": candidate}
    assert {name: run.data.tags[name] for name in expected} == expected
    # The numbers are those of the records' development bars.
    sharpes = annual_sharpe(0, "development"), annual_sharpe(1, "development")
    logged = run.data.metrics
    assert (logged["sharpe_baseline"], logged["sharpe_candidate"]) == pytest.approx(sharpes, rel=1e-9)
    assert logged["sharpe_difference"] == pytest.approx(sharpes[1] - sharpes[0], rel=1e-9)
    assert logged["sharpe_difference_low"] < logged["sharpe_difference"] < logged["sharpe_difference_high"]
    assert logged["n_bars"] == N_BARS - N_HOLDOUT
    assert logged["seed_sharpe_spread_baseline"] == 0.4
    figures = table(run, "comparison.json")
    row = figures["figure"].index("sharpe")
    assert figures["difference"][row] == pytest.approx(sharpes[1] - sharpes[0], rel=1e-9)
    for column, metric in (("low", "low"), ("high", "high"), ("p_value", "p_value"), ("detectable", "detectable")):
        assert figures[column][row] == logged[f"sharpe_difference_{metric}"]
    assert {"turnover", "max_drawdown", "seed_sharpe_spread"} <= set(figures["figure"])
    # Folds 0, 1 and, with the 30 development bars it owns, 2.
    folds = table(run, "comparison_folds.json")
    assert (folds["baseline"], folds["candidate"], folds["n_bars"]) == ([0, 1, 2], [0, 1, 2], [40, 40, 30])
    settings = table(run, "differing_parameters.json")
    assert settings == {"parameter": ["seed", "purge_gap"], "baseline": ["7", "2"], "candidate": ["8", "7"]}
    assert (artifacts(run) / "comparison.png").read_bytes().startswith(b"\x89PNG")
    # Both runs are one click away.
    note = run.data.tags["mlflow.note.content"]
    for run_id in (baseline, candidate):
        assert f"(#/experiments/{run.info.experiment_id}/runs/{run_id})" in note
    assert done.sentences[0] in note and "| purge_gap | 2 | 7 |" in note
    # What it says: the result first, then that development took part in selection, and that one seed has no floor.
    assert done.sentences[0].startswith(f"run {candidate[:8]} against {baseline[:8]}: Sharpe difference ")
    assert done.sentences[1].startswith("Baseline and candidate from 2024-01-01 to 2024-04-19: annual net Sharpe ")
    assert "only a difference beyond" in done.sentences[0] and "110 development bars" in done.sentences[0]
    assert any("chosen on development bars: neither Sharpe is out-of-sample" in said for said in done.sentences)
    assert any("noise floor is unknown: the baseline and the candidate trained one seed" in s for s in done.sentences)


def test_the_seeds_spread_stands_beside_the_difference() -> None:
    several = to_mapping(CONFIG)["production"] | {"seeds": 3}
    runs = [production_run(seed, settings={"production": several}) for seed in (0, 1)]
    for run_id, spread in zip(runs, (0.41, 0.52), strict=True):
        Run(run_id).metrics({"seed_sharpe_spread": spread})
    said = compare_runs(*runs, holdout=False).sentences
    assert any("standard deviation of 0.41 (baseline) and 0.52 (candidate)" in sentence for sentence in said)


def test_a_comparison_on_the_holdout_is_a_look_of_each_run_and_counts_once() -> None:
    baseline, candidate = production_run(2, settings={}), production_run(3, settings={})
    development = compare_runs(baseline, candidate, holdout=False)
    span = "2024-01-01", "2024-12-31"
    assert [look for look in ledger.overlapping(*span, ["A"]) if look.run == development.run_id] == []
    done = compare_runs(baseline, candidate, holdout=True)
    compare_runs(baseline, candidate, holdout=True)  # the same numbers again are no further look
    looks = {look.config_sha256: look for look in ledger.overlapping(*span, ["A"])}
    assert looks.keys() == {"config 2", "config 3"}
    for seed in (2, 3):
        look = looks[f"config {seed}"]
        assert (look.kind, look.symbols, look.run, look.n_bars) == ("comparison", ("A", "B"), done.run_id, N_HOLDOUT)
        assert look.sharpe == pytest.approx(annual_sharpe(seed, "holdout"), rel=1e-9)
        assert (look.first[:10], look.last[:10]) == ("2024-04-20", "2024-07-18")
    assert "90 holdout bars" in done.sentences[0]
    assert "This was a look at the holdout, and is counted as one." in done.sentences


def test_a_run_cannot_be_compared_with_itself_nor_over_other_years() -> None:
    run_id = production_run(settings={})
    with pytest.raises(ValueError, match=f"same production run {run_id}: give two runs"):
        compare_runs(run_id, child_of(run_id, "production"), holdout=False)
    weekly = production_run(settings={"periods_per_year": 52.0})
    with pytest.raises(ValueError, match="252 and 52 periods_per_year"):
        compare_runs(run_id, weekly, holdout=False)
    # A refused comparison leaves no run behind.
    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    assert not client.search_runs([experiment], f"tags.baseline_run = '{run_id}'")


def test_differing_settings_are_those_that_one_lacks_or_that_are_not_equal() -> None:
    found = differing({"a": 1, "b": [1], "c": None}, {"a": 2, "b": [1], "d": 0})
    assert found == {"a": (1, 2), "d": (None, 0)}  # c is None in one and absent in the other


# ---- purge gaps


def test_only_what_the_gap_needs_is_changed() -> None:
    narrow, wide = with_purge_gap(CONFIG, 0), with_purge_gap(CONFIG, 4)
    assert narrow.purge_gap == 0 and narrow.allow_label_overlap
    assert wide.purge_gap == 4 and not wide.allow_label_overlap
    for config in (narrow, wide):
        changed = differing(to_mapping(CONFIG), to_mapping(config))
        assert changed.keys() <= {"purge_gap", "allow_label_overlap", "registry"}
        assert config.registry.promote == "never" and config.registry.name == CONFIG.registry.name
    with pytest.raises(ConfigError, match="leaves no bar to train on"):
        with_purge_gap(CONFIG, CONFIG.walk_forward.train_window)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5", "must be two gaps such as 0,5"),
        ("0,2,5", "must be two gaps such as 0,5"),
        ("0,-5", "the least gap is 0 bars"),
        ("3,3", "the same run twice"),
        ("0,five", "two whole numbers of bars"),
        ("0,", "two whole numbers of bars"),
    ],
)
def test_gaps_that_make_no_comparison_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_purge_gaps(text)


# ---- the command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "two runs are compared: give --baseline and --candidate, or --purge-gaps such as 0,5"),
        (("--baseline", "abcd"), "two runs are compared"),
        (("--baseline", "abcd", "--purge-gaps", "0,5"), "both runs and --purge-gaps are given"),
        (("--purge-gaps", "5"), "must be two gaps such as 0,5"),
        (("--purge-gaps", "-1,5"), "the least gap is 0 bars"),
        (("--baseline", "abcd" * 8, "--candidate", "abcd"), "has an id that begins with abcd"),
    ],
)
def test_faults_are_sentences_and_exit_code_2(arguments: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(main, ["compare", *arguments])
    assert done.exit_code == 2 and "Traceback" not in done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and said in line


@pytest.mark.slow
def test_two_purge_gaps_are_run_and_compared(job_copy: WholeJob) -> None:
    """The run with gap 2 is there already; the one with gap 0 is made, nested, with prefilter reused; and neither is
    made again when the command is repeated."""
    job, command = job_copy, ("compare", "--config", str(MICRO), "--purge-gaps", "0,2")
    done = job.run(*command)
    comparison = job.client.get_run(run_named(done.stdout))
    experiment = comparison.info.experiment_id
    (made,) = job.client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{comparison.info.run_id}'")
    assert (made.info.run_name, made.data.tags["command"], made.info.status) == (
        "purge gap 0",
        "production",
        "FINISHED",
    )
    assert (made.data.params["purge_gap"], made.data.params["allow_label_overlap"]) == ("0", "True")
    assert made.data.params["registry.promote"] == "never"
    assert {name for name, (child,) in job.children(made.info.run_id).items() if "reused_from" in child.data.tags} == {
        "prefilter"
    }
    assert f"purge gap 2: nothing it depends on has changed, reusing run {job.run_id}" in done.stderr
    assert "purge gap 0: labels overlap below a gap of 1, so allow_label_overlap is true for this run" in done.stderr
    tags = comparison.data.tags
    assert (tags["command"], tags["baseline_run"], tags["candidate_run"]) == ("compare", made.info.run_id, job.run_id)
    settings = table(comparison, "differing_parameters.json")
    assert settings["parameter"] == ["purge_gap", "allow_label_overlap", "registry.promote"]
    # The candidate's Sharpe is recomputed from its record, on the bars that both own.
    assert comparison.data.metrics["n_bars"] <= job.parent.data.metrics["development_n_bars"]
    assert "purge gap 2 against 0: Sharpe difference " in done.stdout
    assert "bars allow no inference, 63 do" in done.stdout  # the micro table is that small
    assert "sharpe_difference_p_value" not in comparison.data.metrics

    again = job.run(*command)
    second = job.client.get_run(run_named(again.stdout))
    assert again.stderr.count("nothing it depends on has changed, reusing run") == 2
    assert ": running" not in again.stderr
    assert second.data.metrics["sharpe_difference"] == comparison.data.metrics["sharpe_difference"]
    assert second.data.tags["baseline_run"] == made.info.run_id

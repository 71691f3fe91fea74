"""Production runs compared: what is logged of a comparison, what is run for one, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient
from scipy.stats import ttest_ind

from pipeline.cli.commands import main
from pipeline.config.reading import to_mapping
from pipeline.experiments.compare import compare_runs
from pipeline.experiments.comparison_report import differing, in_one_sentence
from pipeline.statistics.seed_comparison import SeedDifference
from pipeline.tracking import ledger
from pipeline.tracking.runs import EXPERIMENT, Run
from tests.conftest import MICRO, NESTED_MICRO
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
    assert logged["sharpe_difference_standard_error"] > 0.0
    assert "sharpe_difference_p_value" not in logged and "sharpe_difference_low" not in logged  # one seed an arm
    assert logged["n_bars"] == N_BARS - N_HOLDOUT
    figures = table(run, "comparison.json")
    row = figures["figure"].index("sharpe")
    assert figures["difference"][row] == pytest.approx(sharpes[1] - sharpes[0], rel=1e-9)
    assert figures["standard_error"][row] == logged["sharpe_difference_standard_error"]
    assert figures["p_value"][row] is None
    assert {"turnover_at_target", "max_drawdown_at_target"} <= set(figures["figure"])
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
    # What it says: the result first, and why one run of each allows no p; that development took part in selection.
    label = f"whole job, 1 seed an arm: run {candidate[:8]} minus {baseline[:8]}: Sharpe difference "
    assert done.sentences[0].startswith(label)
    assert done.sentences[0].endswith(
        "(of the bars; of the seeds unknown), on 110 development bars; no p: a p-value needs 5 seeds an arm, since "
        "seeds alone move a Sharpe."
    )
    assert done.sentences[1].startswith("Baseline and candidate from 2024-01-01 to 2024-04-19: annual net Sharpe ")
    assert any("chosen on development bars: neither Sharpe is out-of-sample" in said for said in done.sentences)


def test_five_runs_of_each_recipe_are_compared_over_their_seeds() -> None:
    runs = [production_run(seed, settings={"seed": seed, "purge_gap": 2 + seed // 5}) for seed in range(10)]
    baseline, candidate = ",".join(runs[:5]), ", ".join(run[:12] for run in runs[5:])
    done = compare_runs(baseline, candidate, holdout=False)
    run = MlflowClient().get_run(done.run_id)
    sharpes = [annual_sharpe(seed, "development") for seed in range(10)]
    expected = ttest_ind(sharpes[5:], sharpes[:5], equal_var=False)
    logged = run.data.metrics
    assert logged["sharpe_difference"] == pytest.approx(sum(sharpes[5:]) / 5 - sum(sharpes[:5]) / 5, rel=1e-9)
    # The error is Welch's and what the bars add to all seeds of an arm alike, so that p is no smaller.
    assert logged["sharpe_difference_p_value"] >= expected.pvalue * (1.0 - 1e-9)
    parts = [logged[f"sharpe_difference_{part}"] for part in ("sampling_error", "seed_error", "standard_error")]
    assert parts[0] ** 2 + parts[1] ** 2 == pytest.approx(parts[2] ** 2, rel=1e-9)
    assert "whole job, 5 seeds an arm: run " in done.sentences[0] and "p = " in done.sentences[0]
    assert "(of which seeds " in done.sentences[0] and "only a difference beyond" in done.sentences[0]
    # Metrics and a table by arm and seed.
    history = MlflowClient().get_metric_history(done.run_id, "seed_sharpe_candidate")
    assert [one.value for one in sorted(history, key=lambda one: one.step)] == pytest.approx(sharpes[5:], rel=1e-9)
    seeds = table(run, "comparison_seeds.json")
    assert seeds["arm"] == ["baseline"] * 5 + ["candidate"] * 5 and seeds["seed"] == [0, 1, 2, 3, 4] * 2
    assert seeds["sharpe"] == pytest.approx(sharpes, rel=1e-9)


def test_an_arm_is_one_recipe_with_different_seeds() -> None:
    one, again = (production_run(seed, settings={"seed": seed}) for seed in (20, 21))
    other = production_run(22, settings={"seed": 22, "purge_gap": 9})
    with pytest.raises(ValueError, match=r"the baseline's runs .* differ by purge_gap: an arm is one recipe"):
        compare_runs(f"{one},{other}", again, holdout=False)
    same_seed = production_run(23, settings={"seed": 20})
    with pytest.raises(ValueError, match=r"the candidate's run .* has seed 20 like another of its runs"):
        compare_runs(again, f"{one},{same_seed}", holdout=False)
    with pytest.raises(ValueError, match="is given twice"):
        compare_runs(f"{one},{again}", one, holdout=False)


def test_the_spread_of_a_runs_networks_stands_beside_the_difference() -> None:
    several = to_mapping(CONFIG)["production"] | {"seeds": 3}
    runs = [production_run(seed, settings={"production": several}) for seed in (0, 1)]
    for run_id, spread in zip(runs, (0.41, 0.52), strict=True):
        Run(run_id).metrics({"seed_sharpe_spread": spread})
    said = compare_runs(runs[0], runs[1], holdout=False).sentences
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
        assert look.sharpe == seed + 0.5  # beyond drift, as the run logged it
        own = ledger.record_of(look)
        # The bars in which the last two decisions are held are not in the stored record.
        assert own is not None and (len(own.times), own.symbols) == (N_HOLDOUT - 2, ("A", "B"))
        assert (look.first[:10], look.last[:10]) == ("2024-04-20", "2024-07-18")
    assert "90 holdout bars" in done.sentences[0]
    assert "This was a look at the holdout by each of 2 trainings, and is counted as such." in done.sentences


def test_a_run_cannot_be_compared_with_itself_nor_over_other_years() -> None:
    run_id = production_run(settings={})
    with pytest.raises(ValueError, match=f"production run {run_id} is given twice"):
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


# ---- sentences


def said(**given: Any) -> str:
    found = SeedDifference(441, ((0.4,) * 5, (0.5,) * 5), 0.12, **given)
    return in_one_sentence("fixed selection", "purge gap 5 minus 0", found, "holdout")


def test_the_sentence_names_the_comparison_its_seeds_and_what_its_error_is_made_of() -> None:
    known = {"standard_error": 0.4, "sampling_error": 0.26, "seed_error": 0.3}
    assert said(**known, degrees_of_freedom=9.0, p_value=0.77, interval=(-0.78, 1.02), detectable=1.26) == (
        "fixed selection, 5 seeds an arm: purge gap 5 minus 0: Sharpe difference +0.12 ± 0.40 (of which seeds 0.30 and "
        "bars 0.26), 95 % -0.78 to 1.02, p = 0.77, on 441 holdout bars; only a difference beyond 1.26 would have been "
        "found."
    )
    assert said(**known, undefined="why") == (
        "fixed selection, 5 seeds an arm: purge gap 5 minus 0: Sharpe difference +0.12 ± 0.40 (of which seeds 0.30 and "
        "bars 0.26), on 441 holdout bars; no p: why."
    )
    assert said(undefined="why") == (
        "fixed selection, 5 seeds an arm: purge gap 5 minus 0: Sharpe difference +0.12 on 441 holdout bars, which says "
        "nothing: why."
    )


# ---- the command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "two recipes are compared: give --baseline and --candidate, or --purge-gaps such as 0,5"),
        (("--baseline", "abcd"), "two recipes are compared"),
        (("--baseline", "abcd", "--purge-gaps", "0,5"), "both runs and --purge-gaps are given"),
        (("--purge-gaps", "5"), "must be two gaps such as 0,5"),
        (("--purge-gaps", "-1,5"), "the least gap is 0 bars"),
        (("--purge-gaps", "0,5", "--seeds", "0"), "seeds is 0, the least is 1; a p-value needs 5"),
        (("--purge-gaps", "0,2", "--config", str(NESTED_MICRO)), "with selection: nested every fold chooses anew"),
        (("--baseline", "abcd" * 8, "--candidate", "abcd"), "has an id that begins with abcd"),
    ],
)
def test_faults_are_sentences_and_exit_code_2(arguments: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(main, ["compare", *arguments])
    assert done.exit_code == 2 and "Traceback" not in done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and said in line


@pytest.mark.slow
def test_two_purge_gaps_are_trained_and_compared(job_copy: WholeJob) -> None:
    """The baseline's gap is the configured one, so that its selection is that of the finished job; nothing is trained
    again when the command is repeated."""
    job = job_copy
    command = ("compare", "--config", str(MICRO), "--purge-gaps", "2,0", "--seeds", "1", "--holdout", "true")
    done = job.run(*command)
    run = job.client.get_run(run_named(done.stdout))
    assert (run.data.tags["command"], run.data.tags["comparison"]) == ("compare", "fixed-selection")
    for phase in ("prefilter", "exploration", "pruning", "tuning"):
        assert f"{phase}: nothing it depends on has changed, reusing run" in done.stderr
    assert "purge gap 0: labels overlap below a gap of 1, so allow_label_overlap is true for this arm" in done.stderr
    assert "fixed-selection: 2 trainings (1 seed for each of two arms) of one selection" in done.stderr
    assert "fixed selection, 1 seed an arm: purge gap 0 minus 2: Sharpe difference " in done.stdout
    assert "; no p: a p-value needs 5 seeds an arm, since seeds alone move a Sharpe." in done.stdout
    assert "Both arms train on 110 bars a fold and are tested on the same dates" in done.stdout
    # The arm with the configured gap is the finished job's record: the same columns, parameters, seed and folds. It is
    # fitted without the final fit beside it, so that it is equal to rounding, which training makes more of.
    assert run.data.metrics["sharpe_baseline"] == pytest.approx(job.parent.data.metrics["oos_sharpe"], rel=0.01)
    assert run.data.metrics["n_bars"] == job.parent.data.metrics["holdout_n_bars"]
    settings = table(run, "differing_parameters.json")
    assert settings["parameter"] == [
        "purge_gap",
        "allow_label_overlap",
        "walk_forward.train_window",
        "walk_forward.first_bar",
    ]
    assert "| purge_gap | 2 | 0 |" in run.data.tags["mlflow.note.content"]
    (trained,) = (runs for phase, runs in job.children(run.info.run_id).items() if phase.endswith("repetition"))
    assert {one.info.run_name for one in trained} == {"purge gap 2 seed 7", "purge gap 0 seed 7"}

    again = job.run(*command)
    second = job.client.get_run(run_named(again.stdout))
    assert "fixed-selection: 2 of 2 repetitions are finished already, reusing them" in again.stderr
    assert ": running" not in again.stderr
    assert second.data.metrics["sharpe_difference"] == run.data.metrics["sharpe_difference"]

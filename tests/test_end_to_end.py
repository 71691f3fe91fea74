"""The whole job from the command line: what it leaves in MLflow, what it reuses, and what it never looks at."""

from __future__ import annotations

import html
import json
import math
import shutil
import signal
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from mlflow.entities import Run as MlflowRun

from pipeline.reporting.artifacts import FOLD_METRICS
from pipeline.statistics.sharpe import sharpe_inference
from pipeline.statistics.significance import best_of_epochs
from pipeline.tracking.runs import EXPERIMENT, PHASE_KEY
from tests.conftest import MICRO
from tests.workplace import WholeJob, Workplace, artifacts, run_named

PHASES = ("prefilter", "exploration", "pruning", "tuning", "production")
SELECTING = PHASES[:4]
"""The phases that choose something, and may see development bars only."""
N_HOLDOUT_BARS = 90
"""Of the 300 of configs/micro.yaml."""


def table(run: MlflowRun, name: str) -> dict[str, list[Any]]:
    """A logged table by column."""
    content = json.loads((artifacts(run) / name).read_text())
    return {column: [row[i] for row in content["data"]] for i, column in enumerate(content["columns"])}


def without_seconds(value: Any) -> Any:
    """A result without its wall times, the only thing in it that may differ between two runs."""
    if isinstance(value, dict):
        return {name: without_seconds(inner) for name, inner in value.items() if name != "seconds"}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


def result(run: MlflowRun) -> Any:
    return without_seconds(json.loads((artifacts(run) / "result.json").read_text()))


# What the job leaves behind


def test_a_parent_run_and_five_child_runs_in_the_experiment(whole_job: WholeJob) -> None:
    """All of them finished, each child tagged with its phase."""
    experiment = whole_job.client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None and EXPERIMENT == "tft-production"
    assert whole_job.parent.info.experiment_id == experiment.experiment_id
    children = whole_job.children(whole_job.run_id)
    assert sorted(children) == sorted(PHASES)
    assert all(len(runs) == 1 for runs in children.values())
    assert {run.info.status for runs in children.values() for run in runs} == {"FINISHED"}
    assert whole_job.parent.info.status == "FINISHED"


def test_each_trial_is_a_run_below_tuning(whole_job: WholeJob) -> None:
    """With the trial's parameters, so that trials compare in the UI."""
    trials = whole_job.children(whole_job.child(whole_job.run_id, "tuning").info.run_id)["trial"]
    assert len(trials) == 3
    assert all({"lr", "d_hidden", "max_position"} <= run.data.params.keys() for run in trials)


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_says_how_long_and_how_much_memory(whole_job: WholeJob, phase: str) -> None:
    """phase_seconds and peak_rss_bytes, of a plausible size."""
    metrics = whole_job.child(whole_job.run_id, phase).data.metrics
    assert 0.0 < metrics["phase_seconds"] < 300.0
    assert 1e8 < metrics["peak_rss_bytes"] < 1e11


@pytest.mark.parametrize("phase", ["", *PHASES])
def test_every_run_says_what_it_ran_on(whole_job: WholeJob, phase: str) -> None:
    """Tags with the hashes of data and configuration, the commit and the purge gap, and the table as an input."""
    run = whole_job.child(whole_job.run_id, phase) if phase else whole_job.parent
    tags = run.data.tags
    assert len(tags["data_sha256"]) == len(tags["config_sha256"]) == 64
    assert tags["git_commit"]
    assert tags["purge_gap"] == "2"
    (given,) = run.inputs.dataset_inputs
    assert json.loads(given.dataset.source)["uri"] == "data/micro.parquet"
    assert tags["data_sha256"].startswith(given.dataset.digest)


@pytest.mark.parametrize("phase", ["", "production"])
def test_the_headline_metrics_are_on_the_parent_and_on_production(whole_job: WholeJob, phase: str) -> None:
    run = whole_job.child(whole_job.run_id, phase) if phase else whole_job.parent
    names = ("oos_sharpe", "oos_sharpe_gross", "oos_sharpe_development", "val_oos_gap_mean", *FOLD_METRICS)
    assert all(math.isfinite(run.data.metrics[name]) for name in names)
    counts = ("n_features_initial", "n_features_prefiltered", "n_features_selected")
    initial, prefiltered, selected = (run.data.metrics[name] for name in counts)
    assert (initial, prefiltered) == (16, 12)
    assert 1 <= selected <= 8


@pytest.mark.parametrize("phase", ["exploration", "production"])
def test_fold_metrics_by_step_are_the_fold_table(whole_job: WholeJob, phase: str) -> None:
    """Step = fold; a fold without a figure has no step."""
    run = whole_job.child(whole_job.run_id, phase)
    folds = table(run, "folds.json")
    assert len(folds["fold"]) == {"exploration": 2, "production": 4}[phase]
    for metric, column in FOLD_METRICS.items():
        logged = {m.step: m.value for m in whole_job.client.get_metric_history(run.info.run_id, metric)}
        assert logged == {
            fold: value for fold, value in zip(folds["fold"], folds[column], strict=True) if value is not None
        }
    gaps = [value for value in folds["val_oos_gap"] if value is not None]
    assert run.data.metrics["val_oos_gap_mean"] == pytest.approx(sum(gaps) / len(gaps), abs=1e-12)


def test_the_gap_is_validation_less_out_of_sample(whole_job: WholeJob) -> None:
    """And the best epoch's validation Sharpe is never below the kept one's."""
    folds = table(whole_job.parent, "folds.json")
    columns = ("val_sharpe", "oos_sharpe", "val_oos_gap", "val_sharpe_best_epoch")
    for kept, oos, gap, best in zip(*(folds[name] for name in columns), strict=True):
        assert best >= kept
        if oos is not None:
            assert gap == pytest.approx(kept - oos, abs=1e-12)


@pytest.mark.parametrize("phase", ["", "pruning"])
def test_the_selection_tables_have_their_columns(whole_job: WholeJob, phase: str) -> None:
    """Best first, a column a fold; the groups add up to the rows."""
    run = whole_job.child(whole_job.run_id, phase) if phase else whole_job.parent
    weights, groups = table(run, "vsn_weights.json"), table(run, "feature_groups.json")
    columns = ["rank", "feature", "group", "mean_weight", "relative_weight", "stability", "selected"]
    assert list(weights)[:7] == columns
    assert len(weights) == 9 and all(name.startswith("fold_") for name in list(weights)[7:])
    assert weights["rank"] == list(range(1, 13))
    assert weights["relative_weight"] == sorted(weights["relative_weight"], reverse=True)
    assert sum(weights["selected"]) == whole_job.parent.data.metrics["n_features_selected"]
    assert sum(groups["n_features"]) == 12 and sum(groups["n_selected"]) == sum(weights["selected"])
    by_fold = np.array([weights[name] for name in list(weights)[7:]])
    assert np.allclose(by_fold.mean(axis=0), weights["mean_weight"])


def test_prefilter_gives_a_reason_for_every_column_it_drops(whole_job: WholeJob) -> None:
    run = whole_job.child(whole_job.run_id, "prefilter")
    dropped, truth = table(run, "dropped.json"), json.loads((whole_job.folder / "data/micro.truth.json").read_text())
    assert all(dropped["reason"])
    assert len(dropped["feature"]) == 4
    assert set(truth["planted"]) <= set(table(run, "kept.json")["feature"])


@pytest.mark.parametrize("phase", ["", "tuning"])
def test_the_trials_table_holds_every_trial(whole_job: WholeJob, phase: str) -> None:
    """Trial 0 is the untuned configuration; the best completed one is marked."""
    trials = table(whole_job.child(whole_job.run_id, phase) if phase else whole_job.parent, "trials.json")
    assert trials["trial"] == [0, 1, 2]
    assert (trials["lr"][0], trials["d_hidden"][0], trials["max_position"][0]) == (0.005, 8, 0.5)
    done = [s for s, state in zip(trials["oos_sharpe"], trials["state"], strict=True) if state == "COMPLETE"]
    assert [s for s, best in zip(trials["oos_sharpe"], trials["best"], strict=True) if best] == [max(done)]


@pytest.mark.parametrize(
    ("phase", "names"),
    [
        ("", "validation_vs_oos equity vsn_heatmap stability_against_weight probe_null training_curves calibration"),
        ("", "contributions months course information_coefficient group_losses"),
        (
            "production",
            "validation_vs_oos equity vsn_heatmap stability_against_weight probe_null training_curves calibration",
        ),
        ("exploration", "validation_vs_oos training_curves"),
        ("pruning", "vsn_heatmap stability_against_weight probe_null"),
    ],
)
def test_the_figures_are_pictures(whole_job: WholeJob, phase: str, names: str) -> None:
    run = whole_job.child(whole_job.run_id, phase) if phase else whole_job.parent
    for name in names.split():
        assert (artifacts(run) / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name


def test_tuning_has_the_plots_of_its_study(whole_job: WholeJob) -> None:
    plots = list((artifacts(whole_job.child(whole_job.run_id, "tuning")) / "optuna").glob("*.png"))
    assert len(plots) >= 2


@pytest.mark.parametrize("segment", ["holdout", "development"])
def test_the_record_gives_the_logged_sharpe(whole_job: WholeJob, segment: str) -> None:
    """Mean over instruments by bar, then mean over standard deviation (ddof 1), annual: net, and gross of costs."""
    record = pl.read_parquet(artifacts(whole_job.parent) / "oos_record.parquet")
    names = ["time", "symbol", "fold", "raw_position", "position", "return", "pnl"]
    assert record.columns[:7] == names and "segment" in record.columns
    portfolio = (
        record.filter(pl.col("segment") == segment)
        .with_columns(pl.col("pnl", "pnl_gross").fill_nan(None))
        .group_by("time")
        .agg(pl.col("pnl", "pnl_gross").mean())
        .drop_nulls()
    )
    suffix = "" if segment == "holdout" else "_development"
    of_phase = whole_job.child(whole_job.run_id, "production").data.metrics
    for column, metric in (("pnl", f"oos_sharpe{suffix}"), ("pnl_gross", f"oos_sharpe{suffix}_gross")):
        annual = portfolio[column].mean() / portfolio[column].std(ddof=1) * math.sqrt(252)  # type: ignore[operator]
        assert of_phase[metric] == pytest.approx(annual, rel=1e-9)
    assert portfolio.height == of_phase["holdout_n_bars" if segment == "holdout" else "development/n_bars"]


def test_the_record_reaches_the_last_bar_and_holds_no_bar_twice(whole_job: WholeJob) -> None:
    """The bars without a label are forecast; the holdout is the last 90 bars."""
    record = pl.read_parquet(artifacts(whole_job.parent) / "oos_record.parquet")
    bars = pl.read_parquet(whole_job.folder / "data/micro.parquet")["date"].unique().sort()
    assert record["time"].max() == bars.cast(pl.Datetime("us"))[-1]
    assert not record.select("time", "symbol").is_duplicated().any()
    holdout = record.filter(pl.col("segment") == "holdout")["time"].unique().sort().cast(pl.Date)
    assert holdout.to_list() == bars[-N_HOLDOUT_BARS:].to_list()


@pytest.mark.parametrize("phase", ["", "production"])
def test_each_sharpe_is_logged_with_what_luck_alone_would_give(whole_job: WholeJob, phase: str) -> None:
    """The same figures as from the logged record, and the verdict that follows from them."""
    run = whole_job.child(whole_job.run_id, phase) if phase else whole_job.parent
    metrics = run.data.metrics
    record = pl.read_parquet(artifacts(run) / "oos_record.parquet")
    net = (
        record.filter((pl.col("segment") == "holdout") & pl.col("pnl").is_not_nan())
        .group_by("time")
        .agg(pl.col("pnl").mean())
        .sort("time")["pnl"]
        .to_numpy()
    )
    judged = sharpe_inference(net, periods_per_year=252)
    assert metrics["oos_sharpe"] == pytest.approx(judged.sharpe)
    assert metrics["oos_sharpe_se"] == pytest.approx(judged.standard_error)
    assert metrics["oos_skill"] + metrics["oos_drift"] == pytest.approx(judged.sharpe)
    assert 0.0 < metrics["oos_p_value"] == metrics["oos_p_value_deflated"] == metrics["oos_verdict_p_value"] < 1.0
    assert 0.0 < metrics["oos_psr"] == metrics["oos_dsr"] < 1.0
    assert (metrics["oos_sharpe_low"], metrics["oos_sharpe_high"]) == pytest.approx((judged.low, judged.high))
    assert metrics["n_looks"] == metrics["n_configurations_looked"] == 1
    assert phase == "" or math.isfinite(metrics["tuning_sharpe_dsr"])
    assert run.data.tags["verdict"].startswith(f"Holdout Sharpe: earned {judged.sharpe:z.2f}, of which drift ")


@pytest.mark.parametrize("phase", ["", "production"])
def test_records_stand_beside_each_other_at_one_volatility_and_against_costs_and_delays(
    whole_job: WholeJob, phase: str
) -> None:
    """The model by segment, then each rule; return is Sharpe times the target; at a cost of 5 bps stands the record's
    own Sharpe, at none that before costs."""
    run = whole_job.child(whole_job.run_id, phase) if phase else whole_job.parent
    rows, metrics = table(run, "comparable.json"), whole_job.child(whole_job.run_id, "production").data.metrics
    rules = table(run, "baselines.json")["baseline"]
    assert list(zip(rows["name"], rows["segment"], strict=True)) == [
        ("model", "holdout"),
        ("model", "development"),
        *((rule, "holdout") for rule in rules),
    ]
    assert set(rows["volatility_target"]) == {0.15}
    assert rows["volatility"][0] == metrics["holdout_annual_volatility"]
    assert rows["return_at_target"][0] == pytest.approx(0.15 * metrics["oos_sharpe"])
    for name in ("return_at_target", "max_drawdown_at_target", "turnover_at_target", "break_even_cost_bps"):
        assert metrics[f"holdout_{name}"] == rows[name][0]
        assert metrics[f"baseline_long_only_{name}"] == rows[name][2]
    choices = table(run, "baseline_choices.json")
    assert choices["baseline"] == [rule for rule in rules for _ in range(4)]
    assert choices["fold"] == table(run, "folds.json")["fold"] * len(rules)
    # 35 bars of development choose no smoothing: the configured one stays.
    assert set(choices["position_smooth"]) == {0.3}
    # Net is linear in the cost: it is 0 where the gross return is spent.
    gross, net = (metrics[f"oos_sharpe{suffix}"] for suffix in ("_gross", ""))
    assert (rows["break_even_cost_bps"][0] > 5.0) == (net > 0.0) and (rows["break_even_cost_bps"][0] > 0.0) == (
        gross > 0.0
    )
    curve = table(run, "frictions.json")
    at = {
        (name, against, value): sharpe
        for name, segment, against, value, sharpe in zip(*curve.values(), strict=True)
        if segment == "holdout"
    }
    assert at["model", "cost_bps", 5.0] == pytest.approx(net) and at["model", "cost_bps", 0.0] == pytest.approx(gross)
    of_phase = whole_job.child(whole_job.run_id, "production").info.run_id
    history = whole_job.client.get_metric_history(of_phase, "holdout_sharpe_at_cost_bps")
    assert {(m.step, m.value) for m in history} == {
        (int(value), sharpe)
        for (name, against, value), sharpe in at.items()
        if (name, against) == ("model", "cost_bps")
    }
    assert (artifacts(run) / "frictions.png").exists()


@pytest.mark.parametrize("phase", ["", "production"])
def test_the_forecast_distributions_are_scored_by_fold_and_over_the_record(whole_job: WholeJob, phase: str) -> None:
    """The headline metrics are the holdout's row, the fold metrics the folds' rows; the card says it in a sentence."""
    run = whole_job.child(whole_job.run_id, phase) if phase else whole_job.parent
    rows, metrics = table(run, "calibration.json"), whole_job.child(whole_job.run_id, "production").data.metrics
    folds = table(run, "folds.json")
    assert rows["part"] == [*(f"fold {fold}" for fold in folds["fold"]), "development", "holdout"]
    assert rows["segment"][-2:] == ["development", "holdout"]
    assert (rows["n_bars"][-1], rows["n_cells"][-1]) == (88, 264)
    for score in ("log_score_gain", "crps_gain"):
        assert metrics[f"calibration_{score}"] == rows[score][-1]
        assert metrics[f"calibration_{score}_t"] == rows[f"{score}_t"][-1]
        assert rows[f"{score}_t"][-1] == pytest.approx(rows[score][-1] / rows[f"{score}_se"][-1])
        logged = {m.step: m.value for m in whole_job.client.get_metric_history(run.info.run_id, f"fold_{score}")}
        assert folds[score] == rows[score][:4]
        assert logged == {f: gain for f, gain in zip(folds["fold"], folds[score], strict=True) if gain is not None}
    assert [bars < 10 for bars in rows["n_bars"]] == [gain is None for gain in rows["log_score_gain"]]
    for name in ("coverage_50", "coverage_90", "slope"):
        assert metrics[f"calibration_{name}"] == rows[name][-1]
    assert 0.0 < metrics["calibration_coverage_50"] < metrics["calibration_coverage_90"] <= 1.0
    worse = min(rows["log_score_gain_t"][-1], rows["crps_gain_t"][-1]) < -2.0
    assert ("worse than the unconditional one" in run.data.tags["verdict"]) == worse
    card = whole_job.client.get_model_version("tft-micro", "1").description or ""
    gain = rows["log_score_gain"][-1]
    assert f"- Calibration: On 88 holdout bars the forecast distribution gains log score {gain:+z.4f} ±" in card


def test_before_training_it_is_said_what_so_few_bars_can_show(whole_job: WholeJob) -> None:
    """88 bars with a known return: 2.49 sqrt(252 / 88)."""
    detectable = whole_job.parent.data.metrics["detectable_sharpe"]
    assert detectable == pytest.approx(2.4865 * math.sqrt(252 / 88), rel=1e-4)
    said = "record will have 88 bars, on which a true Sharpe (beyond drift) under 4.2 is likely to be missed"
    assert whole_job.errors.index(said) < whole_job.errors.index("exploration: running")


def test_the_verdict_is_on_the_terminal_on_the_page_and_on_the_card(whole_job: WholeJob) -> None:
    verdict = whole_job.parent.data.tags["verdict"]
    assert verdict in " ".join(whole_job.output.split())
    assert "Look 1 at this holdout." in whole_job.output
    page = html.unescape(" ".join((artifacts(whole_job.parent) / "report.html").read_text().split()))
    assert verdict in page.replace("−", "-")
    assert verdict in (whole_job.client.get_model_version("tft-micro", "1").description or "")


def test_the_validation_returns_of_every_epoch_are_kept(whole_job: WholeJob) -> None:
    """They give the logged Sharpes; the fold table says what noise as correlated as they are would have shown."""
    kept = pl.read_parquet(artifacts(whole_job.parent) / "validation_returns.parquet")
    assert kept.columns == ["fold", "epoch", "time", "net"]
    folds = table(whole_job.parent, "folds.json")
    for row, fold in enumerate(folds["fold"]):
        own = kept.filter(pl.col("fold") == fold)
        blocks = [own.filter(pl.col("epoch") == epoch).sort("time") for epoch in range(folds["n_epochs"][row])]
        assert sum(len(block) for block in blocks) == len(own)
        first, last = (str(blocks[0]["time"][i].isoformat()) for i in (0, -1))
        assert (first, last) == (folds["validation_start"][row][:19], folds["validation_end"][row][:19])
        returns = np.stack([block["net"].to_numpy() for block in blocks])
        annual = returns.mean(axis=1) / returns.std(axis=1, ddof=1) * math.sqrt(252)
        assert annual[folds["kept_epoch"][row]] == pytest.approx(folds["val_sharpe"][row])
        assert annual.max() == pytest.approx(folds["val_sharpe_best_epoch"][row])
        assert folds["val_sharpe_best_of_independent_noise"][row] == best_of_epochs(*returns.shape)
        assert 0.0 <= folds["val_sharpe_best_of_noise"][row] < 1.05 * best_of_epochs(*returns.shape)


def test_the_holdout_is_in_the_ledger_of_looks(whole_job: WholeJob) -> None:
    experiment = whole_job.client.get_experiment_by_name("tft-holdout-looks")
    assert experiment is not None
    run = whole_job.parent
    looks = [
        look
        for look in whole_job.client.search_runs([experiment.experiment_id])
        if look.data.tags["config_sha256"] == run.data.tags["config_sha256"]
    ]
    (look,) = looks  # though other tests run the same job again
    assert look.data.tags["run"] == whole_job.run_id
    assert look.data.metrics == {"sharpe": pytest.approx(run.data.metrics["oos_sharpe_neutral"]), "n_bars": 88.0}
    seen = pl.read_parquet(artifacts(look) / "holdout_record.parquet")
    record = pl.read_parquet(artifacts(run) / "oos_record.parquet").filter(pl.col("segment") == "holdout")
    earned = record.filter(pl.col("pnl").is_finite()).group_by("time", maintain_order=True).agg(pl.col("pnl").mean())
    np.testing.assert_allclose(seen.unique("time", maintain_order=True)["net"], earned["pnl"], rtol=1e-12)
    # By the bar in which it is earned: two bars after the decision.
    dates = pl.read_parquet(whole_job.folder / "data" / "micro.parquet")["date"].unique().sort()
    assert seen["time"].unique().sort().cast(pl.Date).to_list() == dates[-88:].to_list()


def test_a_new_store_says_that_it_knows_of_no_look(whole_job: WholeJob) -> None:
    said = "knows of no earlier look at any holdout: if these bars were looked at elsewhere, set prior_looks"
    assert whole_job.errors.index(said) < whole_job.errors.index("exploration: running")


@pytest.mark.slow
def test_recipes_count_and_neither_settings_that_decide_nothing_nor_hashes(job_copy: WholeJob) -> None:
    """The same job with another threshold of the regime, and four looks made elsewhere: one recipe and four. Then a
    table with one column of noise more under the same file: another recipe, though its configuration has the same hash.
    """

    def figures(*overrides: str) -> dict[str, Any]:
        settings = ";".join(["registry.promote=never", *overrides])
        done = job_copy.run("production", "--config", str(MICRO), "--set", settings)
        assert "knows of no earlier look" not in done.stderr
        run = job_copy.client.get_run(run_named(done.stdout))
        return run.data.metrics | run.data.tags

    first = job_copy.parent.data.metrics
    same = figures("regime.enter=0.6", "prior_looks=4")
    assert same["oos_sharpe"] == first["oos_sharpe"]
    assert (same["n_looks"], same["n_configurations_looked"]) == (2, 5)
    source = job_copy.folder / "data" / "micro.parquet"
    table = pl.read_parquet(source)
    noise = pl.Series("extra_noise", np.random.default_rng(0).standard_normal(table.height))
    table.with_columns(noise).write_parquet(source)
    changed = figures()
    assert changed["oos_sharpe"] != first["oos_sharpe"]
    assert (changed["n_looks"], changed["n_configurations_looked"]) == (3, 2)


def test_the_report_opens_without_a_network(whole_job: WholeJob) -> None:
    """It embeds its pictures, and loads nothing from elsewhere."""
    page = (artifacts(whole_job.parent) / "report.html").read_text()
    loaded: list[str] = []

    class Loads(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            for name, value in attrs:
                if name in ("src", "srcset", "href", "data", "poster", "action", "xlink:href", "background"):
                    loaded.append(value or "")

    Loads().feed(page)
    n_figures = len(list(artifacts(whole_job.parent).glob("*.png")))
    assert page.count("<svg") == n_figures > 0
    assert not [value for value in loaded if value.lstrip().lower().startswith(("http:", "https:", "//"))]
    assert "@import" not in page
    assert not [part for part in page.split("url(")[1:] if not part.startswith("#")]
    assert whole_job.run_id not in page  # the same page is logged to two runs


def test_nothing_is_pickled(whole_job: WholeJob) -> None:
    """Neither by name nor by content, in artifacts, registered models and checkpoints."""
    files = [path for name in ("mlruns", "checkpoints") for path in (whole_job.folder / name).rglob("*")]
    files = [path for path in files if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {".safetensors", ".json", ".png", ".parquet"} <= kinds
    assert not kinds & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".cloudpickle", ".npy"}
    for path in files:
        start = path.read_bytes()[:4]
        pickled = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
        assert not pickled and start != b"PK\x03\x04", path  # torch.save writes the latter


def test_the_checkpoint_is_named_and_the_fits_that_led_to_it_are_gone(whole_job: WholeJob) -> None:
    folder = whole_job.folder / whole_job.parent.data.tags["checkpoint"]
    assert sorted(path.name for path in folder.iterdir()) == ["meta.json", "model.safetensors"]
    assert not list((whole_job.folder / "checkpoints").rglob("*fit*.safetensors"))


def test_the_command_says_what_it_did(whole_job: WholeJob) -> None:
    """The missing table that was generated, each phase, the headline, the model version and how to look at it."""
    assert "data/micro.parquet did not exist: generated it" in whole_job.errors
    assert all(f"{phase}: running" in whole_job.errors for phase in PHASES)
    assert f"{whole_job.parent.data.metrics['oos_sharpe']:.2f}" in whole_job.output
    assert "tft-micro version 1: promoted to Production" in whole_job.output
    assert f"mlflow ui --workers 1 --backend-store-uri {whole_job.store}" in whole_job.output
    assert "Traceback" not in whole_job.errors


# Reuse


@pytest.mark.slow
def test_a_second_run_reuses_phases_1_to_4_and_gives_the_same(job_copy: WholeJob) -> None:
    """By hash; it says so on the terminal and in a tag, and its own five runs are complete."""
    done = job_copy.run("production", "--config", str(MICRO))
    run_id = run_named(done.stdout)
    for phase in SELECTING:
        first, again = job_copy.child(job_copy.run_id, phase), job_copy.child(run_id, phase)
        source = job_copy.client.get_run(again.data.tags["reused_from"])  # the newest with this key
        assert source.data.tags[PHASE_KEY] == first.data.tags[PHASE_KEY] == again.data.tags[PHASE_KEY]
        assert f"{phase}: nothing it depends on has changed, reusing run {source.info.run_id}" in done.stderr
        assert result(again) == result(source) == result(first)
    assert "reused_from" not in job_copy.child(run_id, "production").data.tags
    second = job_copy.client.get_run(run_id)
    for name in ("oos_sharpe", "oos_sharpe_development", "val_oos_gap_mean", "n_features_selected"):
        assert second.data.metrics[name] == job_copy.parent.data.metrics[name]


@pytest.mark.slow
def test_a_changed_setting_reruns_what_depends_on_it_alone(job_copy: WholeJob) -> None:
    """pruning.max_features is read by pruning: it runs again and tuning after it, the two phases before do not."""
    limit = int(job_copy.parent.data.metrics["n_features_selected"]) + 20
    done = job_copy.run("tuning", "--config", str(MICRO), "--set", f"pruning.max_features={limit}")
    children = job_copy.children(job_copy.client.get_run(run_named(done.stdout)).data.tags["mlflow.parentRunId"])
    reused = {phase for phase, runs in children.items() if "reused_from" in runs[0].data.tags}
    assert reused == {"prefilter", "exploration"}
    assert "pruning: running" in done.stderr


def test_at_most_max_features_are_kept(job_copy: WholeJob) -> None:
    """The best of those kept without the limit; and the two phases before pruning are reused."""
    done = job_copy.run("pruning", "--config", str(MICRO), "--set", "pruning.weight_threshold=0;pruning.max_features=3")
    run = job_copy.client.get_run(run_named(done.stdout))
    weights = table(run, "vsn_weights.json")
    assert weights["selected"] == [rank <= sum(weights["selected"]) for rank in weights["rank"]]
    assert 1 <= sum(weights["selected"]) <= 3
    assert done.stderr.count("reusing run") == 2


def test_a_run_can_be_gone_on_with(job_copy: WholeJob) -> None:
    """--run-id: the phases become children of the run given, and no other parent appears."""
    client = job_copy.client
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    given = client.create_run(experiment.experiment_id, run_name="mine").info.run_id
    job_copy.run("prefilter", "--config", str(MICRO), "--run-id", given, "--fresh", "true")
    child = job_copy.child(given, "prefilter")
    assert child.info.status == client.get_run(given).info.status == "FINISHED"
    assert client.get_run(given).info.run_name == "mine"
    assert "reused_from" not in child.data.tags  # --fresh true


# The holdout


def corrupted(source: Path, target: Path) -> None:
    """Another value in every cell of the holdout; dates, symbols and what is missing stay as they are."""
    frame = pl.read_parquet(source)
    rng = np.random.default_rng(0)
    in_holdout = pl.col("date") >= frame["date"].unique().sort()[-N_HOLDOUT_BARS]
    changed = [
        pl.when(in_holdout & pl.col(name).is_not_null())
        .then(pl.Series(name, 0.02 * rng.standard_normal(frame.height) + (100.0 if name == "close" else 0.0)))
        .otherwise(pl.col(name))
        .cast(frame.schema[name])
        .alias(name)
        for name in frame.columns
        if name not in ("date", "symbol")
    ]
    other = frame.with_columns(changed)
    assert other.null_count().equals(frame.null_count())
    assert other.filter(~in_holdout).equals(frame.filter(~in_holdout))
    assert not any(
        other.filter(in_holdout)[name].equals(frame.filter(in_holdout)[name]) for name in ("ret_1d", "close")
    )
    other.write_parquet(target)


@pytest.mark.slow
def test_phases_1_to_4_never_see_the_holdout(
    whole_job: WholeJob, tmp_path: Path, store_in: Callable[[Path], Path]
) -> None:
    """With other values in every cell of the holdout, and a store that knows nothing, their results are the same to
    the last bit. So `tuning` alone on a fresh store works too."""
    place = Workplace(store_in(tmp_path))
    corrupted(whole_job.folder / "data/micro.parquet", tmp_path / "other.parquet")
    done = place.run("tuning", "--config", str(MICRO), "--set", "data.source=other.parquet")
    tuning = place.client.get_run(run_named(done.stdout))
    children = place.children(tuning.data.tags["mlflow.parentRunId"])
    assert sorted(children) == sorted(SELECTING)
    for phase in SELECTING:
        first, other = whole_job.child(whole_job.run_id, phase), children[phase][0]
        assert other.data.tags["data_sha256"] != first.data.tags["data_sha256"]
        assert "reused_from" not in other.data.tags
        assert result(other) == result(first), phase


# Phases alone, and ends that nobody wished for


@pytest.mark.parametrize("phase", SELECTING[:3])
def test_a_phase_alone_runs_what_it_needs(
    whole_job: WholeJob, tmp_path: Path, store_in: Callable[[Path], Path], phase: str
) -> None:
    """On a fresh store, and nothing after it."""
    place = Workplace(store_in(tmp_path))
    (tmp_path / "data").mkdir()
    shutil.copy(whole_job.folder / "data/micro.parquet", tmp_path / "data")
    done = place.run(phase, "--config", str(MICRO))
    assert f"{phase} is done" in done.stdout
    run = place.client.get_run(run_named(done.stdout))
    children = place.children(run.data.tags["mlflow.parentRunId"])
    assert sorted(children) == sorted(SELECTING[: SELECTING.index(phase) + 1])
    assert result(run) == result(whole_job.child(whole_job.run_id, phase))


@pytest.mark.slow
def test_a_terminated_run_ends_as_killed(job_copy: WholeJob) -> None:
    """SIGTERM in the middle of training: the phase's run and its parent say KILLED, neither goes on as RUNNING."""
    endless = "exploration.epochs=1000000;training.patience=0"
    process = job_copy.start("exploration", "--config", str(MICRO), "--set", endless)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "exploration: running" in line:
                break
        time.sleep(1.0)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode not in (0, None), rest
    experiment = job_copy.parent.info.experiment_id
    runs = job_copy.client.search_runs([experiment], "attributes.status = 'KILLED'")
    assert sorted(run.data.tags.get("phase", "") for run in runs) == ["", "exploration"]
    assert not job_copy.client.search_runs([experiment], "attributes.status = 'RUNNING'")
    (killed,) = (run for run in runs if run.data.tags.get("phase") == "exploration")
    assert killed.data.metrics["phase_seconds"] > 0.0


@pytest.mark.slow
def test_a_registry_that_cannot_be_reached_loses_nothing(job_copy: WholeJob) -> None:
    """The command says so and ends with 3; the checkpoint, the record and the report are there."""
    done = job_copy.run(
        "production",
        *("--config", str(MICRO), "--set", "production.epochs=1"),
        code=3,
        MLFLOW_REGISTRY_URI="http://127.0.0.1:9",
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )
    run = job_copy.client.get_run(run_named(done.stdout))
    complaints = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(complaints) == 1
    assert complaints[0].startswith("Error: the model could not be registered as tft-micro (")
    assert run.data.tags["checkpoint"] in complaints[0]
    assert run.data.tags["trouble"] == complaints[0].removeprefix("Error: ")
    assert "Traceback" not in done.stderr
    assert (job_copy.folder / run.data.tags["checkpoint"] / "model.safetensors").exists()
    assert (artifacts(run) / "oos_record.parquet").exists() and (artifacts(run) / "report.html").exists()
    assert run.info.status == "FINISHED"


def test_a_version_is_promoted_later_by_the_rule(job_copy: WholeJob) -> None:
    """By that of the configuration, on its table; what never is promoted stays a challenger."""
    second = ("production", "--config", str(MICRO), "--set", "registry.promote=never;regime.enter=0.6")
    assert "version 2: not promoted, the rule is never to promote" in job_copy.run(*second).stdout
    refused = job_copy.run("models", "promote", "2", "--config", str(MICRO), "--set", "registry.promote=never")
    assert "Version 2 is not promoted: the rule is never to promote; by hand:" in refused.stdout
    done = job_copy.run("models", "promote", "2", "--config", str(MICRO))
    assert "Version 2 is promoted: the rule is to promote always." in done.stdout

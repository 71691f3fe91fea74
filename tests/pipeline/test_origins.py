"""What a finished job says of where its record comes from, beside sums over the record that it left."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from mlflow.entities import Run

from pipeline.phases.permutation import N_PERMUTATIONS
from tests.conftest import MICRO
from tests.workplace import WholeJob, artifacts, run_named


def table(run: Run, name: str) -> pl.DataFrame:
    content = json.loads((artifacts(run) / name).read_text())
    columns: dict[str, list[Any]] = dict(zip(content["columns"], zip(*content["data"], strict=True), strict=True))
    return pl.DataFrame({column: list(values) for column, values in columns.items()}, strict=False)


@pytest.mark.parametrize("segment", ["holdout", "development"])
def test_the_contributions_of_a_job_are_group_sums_of_its_record(whole_job: WholeJob, segment: str) -> None:
    """A cell adds its net return over the number of instruments of its bar."""
    cells = (
        pl.read_parquet(artifacts(whole_job.parent) / "oos_record.parquet")
        .filter((pl.col("segment") == segment) & pl.col("pnl").is_finite())
        .with_columns(net=pl.col("pnl") / pl.len().over("time"))
    )
    rows = table(whole_job.parent, "attribution.json").filter(pl.col("segment") == segment)

    def kept(by: str) -> dict[str, float]:
        own = rows.filter(pl.col("by") == by)
        return dict(zip(own["name"], own["net"], strict=True))

    def summed(key: pl.Expr) -> dict[str, float]:
        own = cells.group_by(key.alias("key")).agg(pl.col("net").sum())
        return dict(zip(own["key"], own["net"], strict=True))

    assert kept("instrument") == pytest.approx(summed(pl.col("symbol")))
    assert kept("month") == pytest.approx(summed(pl.col("time").dt.strftime("%Y-%m")))
    assert kept("year") == pytest.approx(summed(pl.col("time").dt.strftime("%Y")))
    sides = pl.when(pl.col("position") > 0).then(pl.lit("long")).otherwise(pl.lit("short"))
    assert kept("side") == pytest.approx(summed(sides))
    for by in ("instrument", "side", "year", "month", "volatility", "all"):
        assert sum(kept(by).values()) == pytest.approx(cells["net"].sum()), by


def test_the_groups_of_a_job_are_those_of_its_columns(whole_job: WholeJob) -> None:
    weights, losses = (table(whole_job.parent, name) for name in ("vsn_weights.json", "group_losses.json"))
    selected = weights.filter(pl.col("selected")).group_by("group").len()
    assert dict(zip(losses["group"], losses["n_columns"], strict=True)) == dict(selected.iter_rows())
    assert set(losses["segment"]) == {"holdout"}
    assert losses["weight"].sum() == pytest.approx(1.0, abs=0.1) and losses["weight"].is_sorted(descending=True)
    assert f"permuted groups: {len(losses) * N_PERMUTATIONS}/{len(losses) * N_PERMUTATIONS}" in whole_job.errors


@pytest.mark.slow
def test_a_combinatorial_job_is_a_holdout_job_with_paths_beside_it(job_copy: WholeJob) -> None:
    """The same choices, reused, and the same record; 3 splits of 3 groups, which make a path, on development alone."""
    settings = "selection=combinatorial;combinatorial.n_groups=3;combinatorial.n_test_groups=1"
    done = job_copy.run_in_a_process("production", "--config", str(MICRO), "--set", settings)
    assert done.stderr.count("reusing run") == 4
    assert "combinatorial: 3 splits of the development bars are trained, which give 1 paths" in done.stderr
    run = job_copy.client.get_run(run_named(done.stdout))
    for name in ("oos_sharpe", "oos_sharpe_development", "n_features_selected"):
        assert run.data.metrics[name] == job_copy.parent.data.metrics[name]
    paths = table(run, "paths.json")
    assert paths["history"].to_list() == ["path 0", "walk-forward"]
    assert paths["sharpe"][0] == pytest.approx(run.data.metrics["cpcv_sharpe"])
    assert (paths["n_bars"][1], paths["sharpe"][1]) == (35, None), "too few bars for an error, and so for a Sharpe"
    assert "Other histories of the chosen recipe" in (artifacts(run) / "report.html").read_text()

"""A small version of the whole job on a real table of 276 columns, where there is one. It runs; no more is asked."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ROOT
from tests.workplace import Workplace, artifacts, run_named

PANEL = ROOT.parent / "shared" / "data" / "panel.parquet"
CONFIG = ROOT / "configs" / "realdata_small.yaml"

pytestmark = [pytest.mark.realdata, pytest.mark.skipif(not PANEL.exists(), reason=f"{PANEL} is not there")]


def test_the_whole_job_runs_on_a_real_table(tmp_path: Path) -> None:
    """From the command line, to a registered model; every figure it logs is a finite number."""
    place = Workplace(tmp_path)
    done = place.run("production", "--config", str(CONFIG), "--set", f"data.source={PANEL}")
    run_id = run_named(done.stdout)
    children = place.children(run_id)
    assert sorted(children) == ["exploration", "prefilter", "production", "pruning", "tuning"]
    metrics = place.client.get_run(run_id).data.metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["n_features_initial"] == 276
    assert 200 <= metrics["n_features_prefiltered"] <= 276
    assert 1 <= metrics["n_features_selected"] <= 12
    for name in ("oos_sharpe", "oos_sharpe_gross", "oos_sharpe_development", "val_oos_gap_mean"):
        assert abs(metrics[name]) < 20.0
    assert metrics["oos_sharpe"] < metrics["oos_sharpe_gross"]  # costs cost
    assert metrics["holdout_n_bars"] > 500

    record = pl.read_parquet(artifacts(place.child(run_id, "production")) / "oos_record.parquet")
    assert record["symbol"].n_unique() == 12
    assert record["position"].is_finite().all()
    assert record["time"].max() == pl.read_parquet(PANEL, columns=["date"])["date"].cast(pl.Datetime("us")).max()
    assert not place.client.get_run(run_id).data.tags.get("trouble")
    assert "tft-realdata version 1" in done.stdout

"""`tft-pipeline models` and `tft-pipeline refit`, on the model of a finished job."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import Result

from pipeline.registry.versions import folder_sha256
from tests.conftest import MICRO
from tests.workplace import WholeJob, run_named
from tft.checkpoint import TrainedModel, load_checkpoint

NAMED = ("--name", "tft-micro")


def models(job: WholeJob, *arguments: str, code: int = 0) -> Result:
    return job.run("models", *arguments, *NAMED, code=code)


def standing(job: WholeJob) -> dict[str, tuple[str, list[str]]]:
    found = job.client.search_model_versions("name = 'tft-micro'")
    each = [job.client.get_model_version("tft-micro", one.version) for one in found]
    return {str(one.version): (one.current_stage, sorted(one.aliases)) for one in each}


def complaints(done: Result) -> list[str]:
    assert "Traceback" not in done.output
    return [line.removeprefix("Error: ") for line in done.stderr.splitlines() if line.startswith("Error: ")]


def test_list_and_show(job_copy: WholeJob) -> None:
    """One line a version; of one version the figures, the verdict, and the digest of its files."""
    listed = models(job_copy, "list").stdout
    assert "Production" in listed and "production" in listed
    assert f"{job_copy.parent.data.metrics['oos_sharpe']:.4f}" in listed
    run = job_copy.child(job_copy.run_id, "production").info.run_id
    assert run in listed
    shown = models(job_copy, "show", "1").stdout
    digest = folder_sha256(job_copy.folder / job_copy.parent.data.tags["checkpoint"])
    assert f"  checkpoint: {digest}, as registered\n" in shown
    assert f"  verdict: {job_copy.parent.data.tags['verdict']}\n" in shown
    assert "  stage: Production\n" in shown and f"  run: {run}\n" in shown
    assert re.search(r"  promoted: 20\S+ the rule is to promote always\n", shown)
    assert "Holdout, never seen by selection: annual net Sharpe" in shown
    (weights,) = (job_copy.folder / "cache").rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert f"NOT the one registered ({digest})" in models(job_copy, "show", "1").stdout


def test_what_cannot_be_done_is_a_sentence(job_copy: WholeJob) -> None:
    """With exit code 2; the registry stays as it is."""
    before = standing(job_copy)
    for arguments, said in (
        (("show", "7"), "no model tft-micro with version 7 in the registry"),
        (("promote", "1"), "promote needs --config, which names the rule and the table of newer bars, or a reason"),
        (("promote", "1", "--why", "again"), "version 1 of tft-micro has Production already"),
        (("archive", "1"), "version 1 of tft-micro has Production: `tft-pipeline models rollback`, or promote another"),
        (("rollback",), "no version of tft-micro is known to have had Production before version 1"),
    ):
        (sentence,) = complaints(models(job_copy, *arguments, code=2))
        assert sentence.startswith(said)
    nobody = job_copy.run("models", "list", "--name", "nobody", code=2)
    assert complaints(nobody) == [
        f"no model nobody in the registry {job_copy.store}: run `tft-pipeline production` first"
    ]
    assert standing(job_copy) == before == {"1": ("Production", ["production"])}


def longer_table(job: WholeJob, n_more: int = 70) -> Path:
    """The job's table with `n_more` later bars: those of its beginning again."""
    table = pl.read_parquet(job.folder / "data/micro.parquet")
    days = table["date"].unique().sort()
    again = table.filter(pl.col("date").is_in(days[:n_more].implode()))
    shift = np.busday_count(days[0], days[-1]) + 1
    later = np.busday_offset(again["date"].to_numpy(), shift, roll="forward")
    path = job.folder / "data/longer.parquet"
    pl.concat([table, again.with_columns(date=pl.Series(later).cast(table.schema["date"]))]).write_parquet(path)
    return path


def checkpoint_of(job: WholeJob, done: Result) -> TrainedModel:
    run = job.client.get_run(run_named(done.stdout))
    return load_checkpoint(job.folder / run.data.tags["checkpoint"])


@pytest.mark.slow
def test_a_refresh_is_the_final_fit_on_newer_bars_and_nothing_else(job_copy: WholeJob) -> None:
    """The same columns and parameters; registered, judged by its gates, and rolled back in one command."""
    refit = ("refit", "--config", str(MICRO), "--set", "registry.promote=if_better")
    (said,) = complaints(job_copy.run(*refit, code=2))
    assert "was fitted up to 2026-02-10" in said and "a refresh needs newer bars" in said

    table = longer_table(job_copy)
    done = job_copy.run(*refit, "--set", f"data.source={table}")
    new, old = checkpoint_of(job_copy, done), load_checkpoint(job_copy.folder / job_copy.parent.data.tags["checkpoint"])
    assert (new.feature_names, new.config, new.positions, new.seed) == (
        old.feature_names,
        old.config,
        old.positions,
        old.seed,
    )
    last = pl.read_parquet(table)["date"].max()
    assert new.fit_end.startswith(str(last)) and new.fit_end > old.fit_end
    run = job_copy.client.get_run(run_named(done.stdout))
    assert run.data.tags["command"] == "refit" and run.data.tags["refresh_of"] == "1"
    tags = [job_copy.client.get_model_version("tft-micro", version).tags for version in "12"]
    assert tags[0]["recipe_sha256"] == tags[1]["recipe_sha256"]
    assert "it is a refresh of version 1" in done.stdout
    card = job_copy.client.get_model_version("tft-micro", "2").description or ""
    assert "A refresh of version 1: its recipe" in card and "there is no record of it out of sample" in card

    if "2" not in [version for version, (stage, _) in standing(job_copy).items() if stage == "Production"]:
        assert standing(job_copy)["2"] == ("Staging", ["challenger"])
        models(job_copy, "promote", "2", "--why", "its gates are for larger models")
    assert standing(job_copy) == {"2": ("Production", ["production"]), "1": ("Archived", [])}
    assert models(job_copy, "rollback").stdout == "Version 1 has Production again, version 2 is archived.\n"
    assert standing(job_copy) == {"2": ("Archived", []), "1": ("Production", ["production"])}


@pytest.mark.slow
def test_a_refit_of_nothing_is_a_sentence(job_copy: WholeJob) -> None:
    """No version in Production under that name, a version that is not there, a table that lacks a column."""
    table = pl.read_parquet(job_copy.folder / "data/micro.parquet")
    read = load_checkpoint(job_copy.folder / job_copy.parent.data.tags["checkpoint"]).feature_names[0]
    table.drop(read).write_parquet(job_copy.folder / "data/lacks.parquet")
    for arguments, said in (
        (("--set", "registry.name=nobody"), "no model nobody with alias 'production' in the registry"),
        (("--version", "9"), "no model tft-micro with version 9 in the registry"),
        (("--set", "data.source=data/lacks.parquet"), f"data/lacks.parquet lacks the column {read}, which version 1"),
    ):
        (sentence,) = complaints(job_copy.run("refit", "--config", str(MICRO), *arguments, code=2))
        assert sentence.startswith(said)

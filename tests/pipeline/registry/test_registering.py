"""What a registered version holds and says of itself, and what happens when the registry fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import yaml
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.registry import registering
from pipeline.registry.example import input_example
from pipeline.strategy import TFTStrategy
from tests.conftest import ROOT
from tests.pipeline.registry.conftest import deliver
from tests.workplace import WholeJob, artifacts
from tft.checkpoint import TrainedModel, load_checkpoint
from tft.panel import Panel
from tft.table import TableFormat
from tft.volatility import MIN_RETURNS


def test_the_description_is_the_model_card(
    client: MlflowClient, good: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """Tags name the run, the end of the fit and the data."""
    deliver(good, panel, tmp_path / "carded", "card", "never")
    version = client.get_model_version("card", "1")
    assert version.description == "# Card of carded"
    assert version.tags["fit_end"] == good.fit_end[:10] and len(good.fit_end) > 10  # daily bars
    assert version.tags["data_sha256"] == good.data_sha256
    assert client.get_run(version.tags["run_id"]).info.status == "FINISHED"


def test_the_card_of_a_job_says_what_the_model_is_worth(whole_job: WholeJob) -> None:
    """Holdout and development apart, folds and purge gap, and that of the final weights nothing is known."""
    version = whole_job.client.get_model_version("tft-micro", "1")
    card = version.description or ""
    metrics = whole_job.parent.data.metrics
    assert f"Holdout, never seen by selection: annual net Sharpe {metrics['oos_sharpe']:.2f}" in card
    assert f"not out-of-sample: annual net Sharpe {metrics['oos_sharpe_development']:.2f}" in card
    assert re.search(r" \d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d, 4 walk-forward folds", card)  # daily bars
    assert "4 walk-forward folds with a purge gap of 2 bars" in card
    assert "no performance of them is known" in card


@pytest.mark.parametrize(
    ("stored", "said"),
    [("register", "could not be registered"), ("promote", "is registered but could not be promoted")],
)
def test_a_registry_that_fails_is_said_and_the_checkpoint_stays(
    client: MlflowClient,
    good: TrainedModel,
    panel: Panel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stored: str,
    said: str,
) -> None:
    """Whether it fails before or after the version is there: a sentence, not an exception."""

    def gone(*_: object, **__: object) -> None:
        raise MlflowException("nobody\n answers")

    monkeypatch.setattr(registering, stored, gone)
    done = deliver(good, panel, tmp_path / "kept", f"gone-{stored}", "always")
    assert not done.promoted
    (sentence,) = done.trouble
    assert said in sentence and "(nobody answers)" in sentence
    assert load_checkpoint(tmp_path / "kept").seed == good.seed
    assert done.version == ("" if stored == "register" else "1")


# What is registered


@pytest.fixture(scope="module")
def registered(whole_job: WholeJob) -> tuple[ModelVersion, Path]:
    """The first version of the whole job, and the folder its model is stored in."""
    version = whole_job.client.get_model_version("tft-micro", "1")
    uri = whole_job.client.get_model_version_download_uri("tft-micro", "1")
    if uri.startswith("models:/"):
        uri = whole_job.client.get_logged_model(uri.removeprefix("models:/")).artifact_location
    return version, Path(uri.removeprefix("file://"))


def test_the_model_belongs_to_the_production_run(whole_job: WholeJob, registered: tuple[ModelVersion, Path]) -> None:
    version, _ = registered
    production = whole_job.child(whole_job.run_id, "production")
    assert version.tags["run_id"] == production.info.run_id
    assert production.data.tags["model_version"] == "1"
    assert artifacts(production).exists()


def test_the_script_of_the_model_is_named_without_this_machines_folders(
    registered: tuple[ModelVersion, Path],
) -> None:
    """Models from code: MLmodel names the script beside it, not where it was taken from."""
    _, folder = registered
    text = (folder / "MLmodel").read_text()
    flavor = yaml.safe_load(text)["flavors"]["python_function"]
    assert flavor["model_code_path"] == "served_model.py"
    assert (folder / "served_model.py").read_bytes() == (ROOT / "pipeline/registry/served_model.py").read_bytes()
    assert str(ROOT) not in text
    assert flavor["loader_module"] == "mlflow.pyfunc.loaders.code_model"
    assert not list(folder.rglob("*.pkl"))


def test_the_model_carries_the_network_and_nothing_of_the_pipeline(registered: tuple[ModelVersion, Path]) -> None:
    """tft/ travels along, caches do not; the requirements are pinned and few."""
    _, folder = registered
    assert (folder / "code" / "tft" / "model.py").exists()
    assert not (folder / "code" / "pipeline").exists()
    assert not [path for path in (folder / "code").rglob("*") if path.suffix == ".pyc"]
    required = (folder / "requirements.txt").read_text().split()
    assert {line.split("==")[0] for line in required} == {"mlflow", "torch", "numpy", "pandas", "safetensors"}
    assert f"torch=={torch.__version__.split('+')[0]}" in required


def test_the_signature_names_the_columns(whole_job: WholeJob, registered: tuple[ModelVersion, Path]) -> None:
    """Keys and selected columns in; one row per instrument with positions, distribution and regime out."""
    _, folder = registered
    trained = load_checkpoint(next((folder / "artifacts").iterdir()))
    declared = mlflow.models.Model.load(str(folder)).signature
    keys = ["date", "symbol", "close", "ret_1d", "timestamp"]  # the table's own, then the usual ones
    assert declared.inputs.input_names() == [*trained.feature_names, *keys]
    assert declared.inputs.optional_input_names() == keys  # the model itself says which of them it lacks
    outputs = declared.outputs.input_names()
    assert outputs[:7] == ["symbol", "time", "position", "raw_position", "probability_up", "mu", "sigma"]
    assert outputs[-1] == "regime"


def test_the_input_example_is_typed_and_the_model_decides_on_it(
    whole_job: WholeJob, registered: tuple[ModelVersion, Path]
) -> None:
    """The last bars of the table, as many as positions need a volatility of; its values are the table's."""
    _, folder = registered
    stored = mlflow.models.Model.load(str(folder))
    example = stored.load_input_example(str(folder))
    assert example is not None
    table = pl.read_parquet(whole_job.folder / "data/micro.parquet").sort("date", "symbol").to_pandas()
    kinds = {name: str(example[name].dtype) for name in example.columns}
    assert {kinds.pop("date"), kinds.pop("symbol")} <= {"object", "str"}  # text, as JSON has it
    assert set(kinds.values()) == {"float64"}
    assert set(example["symbol"]) == set(table["symbol"]) and example["date"].nunique() == MIN_RETURNS + 1
    last = example[example["date"] == example["date"].max()].sort_values("symbol")
    assert last["date"].iloc[0].startswith(f"{table['date'].max():%Y-%m-%d}")
    asked = table[table["date"] == table["date"].max()]
    for name in kinds:
        np.testing.assert_allclose(
            last[last["symbol"].isin(asked["symbol"])][name], asked[name].astype(float), rtol=1e-5, atol=1e-9
        )
    decided = mlflow.pyfunc.load_model(str(folder)).predict(example)
    assert len(decided) == 3 and decided["position"].notna().all()


@pytest.mark.parametrize(
    ("time_format", "times"),
    [("%Y%m%d", lambda day: int(f"{day:%Y%m%d}")), ("epoch_ms", lambda day: int(day.timestamp()) * 1000)],
)
def test_a_model_takes_the_example_and_the_table_whatever_format_the_times_had(
    good: TrainedModel, panel: Panel, time_format: str, times: Callable[[pd.Timestamp], int]
) -> None:
    """The example as JSON has it, in ISO text, and the same bars as the table writes them: one decision."""
    own = replace(good, table_format=TableFormat({"timestamp": "Date", "symbol": "symbol"}, time_format))
    example = input_example(own, panel)
    as_stored = example.assign(Date=[day.isoformat() for day in example["Date"]])
    as_trained = example.assign(Date=[times(day.tz_localize("UTC")) for day in example["Date"]])
    assert TFTStrategy(own).decide(as_stored) == TFTStrategy(own).decide(as_trained) == TFTStrategy(own).decide(example)


@pytest.mark.slow
def test_the_model_loads_where_unpickling_is_forbidden_and_the_project_is_not_installed(
    whole_job: WholeJob, tmp_path: Path
) -> None:
    """In another process and folder, with the project hidden from the import system: tft comes out of the model, and
    decides as the project's own does."""
    code = """
import importlib.util, json, sys

class Hide:  # the project's own copy cannot be found; the one that travels with the model is on sys.path
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "pipeline":
            raise ModuleNotFoundError(name)

# An editable install finds the project by a hook or by an entry of sys.path: take both away.
sys.meta_path[:] = [Hide(), *(hook for hook in sys.meta_path if "editable" not in str(hook).lower())]
sys.path[:] = [entry for entry in sys.path if entry != sys.argv[1]]
assert importlib.util.find_spec("tft") is None

import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/tft-micro@production")
decided = model.predict(pandas.read_parquet(sys.argv[2]))
import tft
print(json.dumps([tft.__file__, dict(zip(decided["symbol"], decided["position"]))]))
"""
    environment = whole_job.environment() | {
        "MLFLOW_TRACKING_URI": whole_job.store,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(ROOT), str(whole_job.folder / "data/micro.parquet")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    file, positions = json.loads(done.stdout.splitlines()[-1])
    assert ROOT not in Path(file).parents
    assert Path(file).parts[-2:] == ("tft", "__init__.py")
    strategy = TFTStrategy(load_checkpoint(whole_job.folder / whole_job.parent.data.tags["checkpoint"]))
    signals = strategy.decide(pl.read_parquet(whole_job.folder / "data/micro.parquet"))
    assert positions == pytest.approx({name: signal.position for name, signal in signals.items()}, abs=1e-5)

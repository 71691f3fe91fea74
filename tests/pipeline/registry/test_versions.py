"""Registering and promoting: who gets the stage and the alias, and what the registered model holds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import polars as pl
import pytest
import torch
import yaml
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.config.schema import RegistryConfig
from pipeline.registry import versions as registry
from pipeline.registry.versions import (
    ALIAS,
    ARTIFACT,
    STAGE,
    RegistryError,
    find_version,
    promote,
    register_and_promote,
)
from pipeline.strategy import TFTStrategy
from pipeline.tracking.ledger import overlapping
from pipeline.tracking.runs import Run
from tests.conftest import ROOT, small_panel
from tests.workplace import WholeJob, artifacts
from tft.checkpoint import CheckpointManager, TrainedModel, load_checkpoint
from tft.model import ModelConfig, TemporalFusionTransformer
from tft.panel import Panel
from tft.positions import PositionsConfig, RegimeConfig
from tft.scaling import Scaler
from tft.volatility import Timing

FIT_END = 162
"""The last bar of the fit; the panel's last is 319."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of this file's own; each test uses its own model name in it."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture
def client(store: Path, mlflow_uri: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("XDG_CACHE_HOME", str(store / "cache"))
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.chdir(store)
    mlflow_uri(f"sqlite:///{store / 'mlflow.db'}")
    return MlflowClient()


@pytest.fixture(scope="module")
def panel() -> Panel:
    """Its first feature says nearly all about the return in which the position is held."""
    return small_panel(320, 2, 3, signal=0.9)


@pytest.fixture(scope="module")
def good(panel: Panel) -> TrainedModel:
    """An untrained network whose random opinion happens to follow the signal; said to be fitted on bars 0 to 162."""
    config = ModelConfig(d_hidden=8, n_heads=2, seq_len=6, n_context=0)
    torch.manual_seed(6)
    network = TemporalFusionTransformer(config, n_variables=3, n_assets=2, loss_mode="joint_mle")
    return TrainedModel(
        config=config,
        loss_mode="joint_mle",
        feature_names=panel.feature_names,
        known=(),
        symbols=panel.symbols,
        scaler=Scaler.fit(panel.features),
        parameters={name: value.detach()[None].clone() for name, value in network.named_parameters()},
        timing=Timing(),
        positions=PositionsConfig(cost_bps=0.0, position_smooth=0.0),
        regime=RegimeConfig(),
        seed=5,
        fit_end=str(panel.times[FIT_END]),
        data_sha256="0" * 64,
    )


@pytest.fixture(scope="module")
def bad(good: TrainedModel) -> TrainedModel:
    """The same network with the sign of mu turned: it takes the opposite positions."""
    turned = dict(good.parameters)
    for name in ("windows.head.weight", "windows.head.bias"):
        turned[name] = turned[name].clone()
        turned[name][..., 0] *= -1.0
    return replace(good, parameters=turned)


def deliver(
    trained: TrainedModel,
    panel: Panel,
    folder: Path,
    name: str,
    promote: registry.Rule,
    *,
    holdout_sharpe: float | None = 1.0,
) -> registry.Registered:
    """Save, register and promote, as the production phase does."""
    CheckpointManager(folder).save(trained)
    with mlflow.start_run() as active:
        return register_and_promote(
            folder,
            trained,
            RegistryConfig(name, promote),
            run=Run(active.info.run_id),
            panel=panel,
            holdout_sharpe=holdout_sharpe,
            card=f"# Card of {folder.name}",
        )


def standing(client: MlflowClient, name: str) -> dict[str, tuple[str, list[str]]]:
    """(stage, aliases) by version."""
    return {str(one.version): (one.current_stage or "", list(one.aliases)) for one in registry.versions(name)}


def test_the_opposite_positions_are_taken_by_construction(good: TrainedModel, bad: TrainedModel, panel: Panel) -> None:
    """What the comparisons below rest on: one earns, the other loses as much."""
    gain, loss = (registry._returns_after(trained, panel, FIT_END + 1) for trained in (good, bad))
    assert np.allclose(gain, -loss, atol=1e-7)
    assert gain.mean() / gain.std() * np.sqrt(252) > 10.0


def test_always_promotes(client: MlflowClient, bad: TrainedModel, panel: Panel, tmp_path: Path) -> None:
    """Even what loses: stage and alias, exclusively; the version before is archived."""
    first = deliver(bad, panel, tmp_path / "one", "always", "always", holdout_sharpe=-3.0)
    assert (first.version, first.promoted, first.trouble) == ("1", True, ())
    assert standing(client, "always") == {"1": (STAGE, [ALIAS])}
    worse = replace(bad, metrics={"oos_sharpe": -4.0})
    second = deliver(worse, panel, tmp_path / "two", "always", "always", holdout_sharpe=-4.0)
    assert second.promoted
    assert standing(client, "always") == {"2": (STAGE, [ALIAS]), "1": ("Archived", [])}
    assert (STAGE, ALIAS) == ("Production", "production")
    tags = client.get_model_version("always", "2").tags
    assert tags["oos_sharpe"] == "-4.0000"
    assert tags["promoted_at"].startswith("20")


def test_never_promotes_nothing(client: MlflowClient, good: TrainedModel, panel: Panel, tmp_path: Path) -> None:
    """However good; the version is registered all the same, and says why."""
    done = deliver(good, panel, tmp_path / "one", "never", "never", holdout_sharpe=9.0)
    assert (done.version, done.promoted, done.reason) == ("1", False, "the rule is never to promote")
    assert standing(client, "never") == {"1": ("None", [])}


@pytest.mark.parametrize(
    ("sharpe", "promoted", "said"),
    [(0.4, True, "holdout Sharpe is 0.40"), (-0.4, False, "holdout Sharpe is -0.40"), (None, False, "no holdout")],
)
def test_without_an_incumbent_the_holdout_sharpe_must_be_positive(
    client: MlflowClient,
    good: TrainedModel,
    panel: Panel,
    tmp_path: Path,
    sharpe: float | None,
    promoted: bool,
    said: str,
) -> None:
    name = f"alone-{promoted}-{sharpe is None}"
    done = deliver(good, panel, tmp_path / "one", name, "if_better", holdout_sharpe=sharpe)
    assert done.promoted is promoted
    assert said in done.reason
    assert standing(client, name) == {"1": (STAGE, [ALIAS]) if promoted else ("None", [])}


def test_better_than_the_incumbent_is_promoted(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """Over the bars after both fits, whatever its holdout Sharpe was."""
    deliver(bad, panel, tmp_path / "one", "better", "always")
    done = deliver(good, panel, tmp_path / "two", "better", "if_better", holdout_sharpe=-1.0)
    assert done.promoted
    n_bars = 319 - FIT_END - 2
    assert re.fullmatch(
        rf"its annual Sharpe is \+\d+\.\d\d against version 1 over {n_bars} bars after both fits "
        r"\(p = 0\.[01]\d, the limit is 0\.2\)",
        done.reason,
    )
    assert standing(client, "better") == {"2": (STAGE, [ALIAS]), "1": ("Archived", [])}


def test_a_comparison_with_the_incumbent_is_a_look_by_both_versions(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """Over the bars after both fits whose return is known; comparing them again is no other look."""
    bars = (str(panel.times[FIT_END + 1]), str(panel.times[319 - 2]))
    before = len(overlapping(*bars, panel.symbols))
    deliver(bad, panel, tmp_path / "one", "looked", "always")
    deliver(good, panel, tmp_path / "two", "looked", "if_better")
    promote("looked", "1", rule="if_better", panel=panel, holdout_sharpe=None)
    looks = [look for look in overlapping(*bars, panel.symbols) if look.evaluation.startswith("looked version")]
    assert len(overlapping(*bars, panel.symbols)) == before + len(looks)
    assert [look.evaluation for look in looks] == ["looked version 2 against 1", "looked version 1 against 2"]
    assert {(look.kind, look.first, look.last, look.symbols) for look in looks} == {("promotion", *bars, panel.symbols)}
    assert all(look.n_bars == 319 - FIT_END - 2 for look in looks)
    new, old = (look.sharpe for look in looks)
    assert new is not None and old is not None and new > 0.0 > old


def test_worse_than_the_incumbent_is_not_promoted(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """Significantly worse is as little a reason as any: the incumbent stays."""
    deliver(good, panel, tmp_path / "one", "worse", "always")
    done = deliver(bad, panel, tmp_path / "two", "worse", "if_better", holdout_sharpe=5.0)
    assert not done.promoted
    assert "its annual Sharpe is -" in done.reason
    assert standing(client, "worse") == {"2": ("None", []), "1": (STAGE, [ALIAS])}


def test_as_good_as_the_incumbent_is_not_promoted(
    client: MlflowClient, good: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """The difference has to be positive: the same model again is no better."""
    deliver(good, panel, tmp_path / "one", "same", "always")
    done = deliver(good, panel, tmp_path / "two", "same", "if_better")
    assert not done.promoted, done.reason
    assert not done.trouble


@pytest.mark.parametrize("who", ["candidate", "incumbent"])
def test_too_few_bars_after_both_fits_are_refused_with_a_sentence(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path, who: str
) -> None:
    """The later of the two fits counts, whichever of them it is; 62 bars are too few."""
    late = str(panel.times[320 - 62 - 2 - 1])
    name = f"few-{who}"
    deliver(replace(bad, fit_end=late) if who == "incumbent" else bad, panel, tmp_path / "one", name, "always")
    new = replace(good, fit_end=late) if who == "candidate" else good
    done = deliver(new, panel, tmp_path / "two", name, "if_better")
    assert not done.promoted
    assert done.reason == (
        "62 bars lie after the fit of both it and the incumbent (version 1), 63 are needed to compare them: try "
        "`tft-pipeline models --promote 2` with newer bars, or set registry.promote: always"
    )
    assert standing(client, name)["1"] == (STAGE, [ALIAS])


def test_63_bars_after_both_fits_are_enough(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    late = str(panel.times[320 - 63 - 2 - 1])
    deliver(replace(bad, fit_end=late), panel, tmp_path / "one", "enough", "always")
    done = deliver(good, panel, tmp_path / "two", "enough", "if_better")
    assert "over 63 bars after both fits" in done.reason
    assert done.promoted


def test_an_incumbent_of_other_instruments_is_not_compared(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    deliver(replace(bad, symbols=("A", "B")), panel, tmp_path / "one", "other", "always")
    done = deliver(good, panel, tmp_path / "two", "other", "if_better")
    assert not done.promoted
    assert "the incumbent (version 1) uses other instruments or columns" in done.reason


def test_a_version_registered_earlier_can_be_promoted_later(
    client: MlflowClient, good: TrainedModel, bad: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    deliver(bad, panel, tmp_path / "one", "later", "always")
    deliver(good, panel, tmp_path / "two", "later", "never")
    assert promote("later", "2", rule="if_better", panel=panel, holdout_sharpe=None)[0]
    assert find_version("later", alias=ALIAS) == find_version("later", stage=STAGE) == "2"


def test_the_description_is_the_model_card(
    client: MlflowClient, good: TrainedModel, panel: Panel, tmp_path: Path
) -> None:
    """And tags name the run, the end of the fit and the data."""
    deliver(good, panel, tmp_path / "carded", "card", "never")
    version = client.get_model_version("card", "1")
    assert version.description == "# Card of carded"
    assert version.tags["fit_end"] == good.fit_end
    assert version.tags["data_sha256"] == good.data_sha256
    assert client.get_run(version.tags["run_id"]).info.status == "FINISHED"


def test_the_card_of_a_job_says_what_the_model_is_worth(whole_job: WholeJob) -> None:
    """Holdout and development apart, folds and purge gap, and that of the final weights nothing is known."""
    version = whole_job.client.get_model_version("tft-production", "1")
    card = version.description or ""
    metrics = whole_job.parent.data.metrics
    assert f"Holdout, never seen by selection: annual net Sharpe {metrics['oos_sharpe']:.2f}" in card
    assert f"not out-of-sample: annual net Sharpe {metrics['oos_sharpe_development']:.2f}" in card
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

    monkeypatch.setattr(registry, stored, gone)
    done = deliver(good, panel, tmp_path / "kept", f"gone-{stored}", "always")
    assert not done.promoted
    (sentence,) = done.trouble
    assert said in sentence and "(nobody answers)" in sentence
    assert load_checkpoint(tmp_path / "kept").seed == good.seed
    assert done.version == ("" if stored == "register" else "1")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"stage": "Staging"}, "stage 'Staging'"),
        ({"stage": "Nonsense"}, "stage 'Nonsense'"),
        ({"alias": "champion"}, "alias 'champion'"),
        ({"version": "17"}, "version 17"),
        ({"version": "latest"}, "version latest"),
    ],
)
def test_what_is_not_in_the_registry_is_said(
    whole_job: WholeJob, mlflow_uri: Callable[[str], None], asked: dict[str, str], said: str
) -> None:
    """Name, what was asked for, and which registry; the same for a model nobody registered."""
    mlflow_uri(whole_job.store)
    for name in ("tft-production", "tft-nowhere"):
        with pytest.raises(RegistryError) as raised:
            find_version(name, **asked)
        assert f"no model {name} with {said} in the registry {whole_job.store}" in str(raised.value)


# What is registered


@pytest.fixture(scope="module")
def registered(whole_job: WholeJob) -> tuple[ModelVersion, Path]:
    """The first version of the whole job, and the folder its model is stored in."""
    version = whole_job.client.get_model_version("tft-production", "1")
    uri = whole_job.client.get_model_version_download_uri("tft-production", "1")
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
    assert (folder / "served_model.py").read_bytes() == (ROOT / "pipeline" / "served_model.py").read_bytes()
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
    keys = ["date", "timestamp", "symbol", "ret_1d", "close"]
    assert declared.inputs.input_names() == [*trained.feature_names, *keys]
    assert declared.inputs.optional_input_names() == keys  # the model itself says which of them it lacks
    outputs = declared.outputs.input_names()
    assert outputs[:7] == ["symbol", "time", "position", "raw_position", "probability_up", "mu", "sigma"]
    assert outputs[-1] == "regime"


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
model = mlflow.pyfunc.load_model("models:/tft-production@production")
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


def test_the_downloaded_checkpoint_is_the_one_that_was_written(
    whole_job: WholeJob, mlflow_uri: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Downloaded once: the second time nothing is fetched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow_uri(whole_job.store)
    folder = registry.download("tft-production", "1") / ARTIFACT
    written = whole_job.folder / whole_job.parent.data.tags["checkpoint"]
    for name in ("model.safetensors", "meta.json"):
        assert (folder / name).read_bytes() == (written / name).read_bytes()

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("downloaded twice")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", refused)
    assert registry.download("tft-production", "1") / ARTIFACT == folder
    assert os.environ["XDG_CACHE_HOME"] in str(folder)

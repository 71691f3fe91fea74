"""The model registry: register a checkpoint, promote it by a rule, find it again by stage, alias or version."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Literal

import mlflow
import numpy as np
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType

import tft
from pipeline.config.sections import RegistryConfig
from pipeline.statistics.significance import MIN_INFERENCE_BARS, sharpe_difference
from pipeline.tracking.ledger import Look, enter
from pipeline.tracking.runs import Run
from tft.backtest import block_earnings
from tft.checkpoint import TrainedModel, load_checkpoint
from tft.metrics import sharpe
from tft.panel import AHEAD, Panel
from tft.positions import portfolio_return
from tft.predict import Predictor

ALIAS = "production"
STAGE = "Production"
ARTIFACT = "checkpoint"
PROMOTION_P = 0.2
UNREACHABLE = (MlflowException, OSError, Boto3Error, BotoCoreError, ClientError)
"""What a registry or artifact store that cannot be reached or written raises."""

Rule = Literal["always", "never", "if_better"]


class RegistryError(ValueError):
    """No such model, version, stage or alias."""


@dataclass(frozen=True)
class Registered:
    version: str
    """Empty if it could not be registered."""
    promoted: bool
    reason: str
    trouble: tuple[str, ...] = ()


def register_and_promote(
    folder: Path,
    trained: TrainedModel,
    config: RegistryConfig,
    *,
    run: Run,
    panel: Panel,
    holdout_sharpe: float | None,
    card: str,
) -> Registered:
    """Register the checkpoint in `folder` and promote it by the configured rule. A registry that cannot be reached
    is said, not raised: the training is finished and its checkpoint is on disk.
    """
    try:
        registered = register(folder, trained, config.name, run=run, card=card)
    except UNREACHABLE as error:
        reason = " ".join(str(error).split())[:300]
        return Registered(
            "",
            False,
            "not registered",
            (f"the model could not be registered as {config.name} ({reason}): its checkpoint is safe in {folder}",),
        )
    try:
        promoted, why = promote(
            config.name, registered, rule=config.promote, panel=panel, holdout_sharpe=holdout_sharpe
        )
    except UNREACHABLE as error:
        reason = " ".join(str(error).split())[:300]
        return Registered(
            registered,
            False,
            "not promoted",
            (f"version {registered} of {config.name} is registered but could not be promoted ({reason})",),
        )
    return Registered(registered, promoted, why)


def register(folder: Path, trained: TrainedModel, name: str, *, run: Run, card: str) -> str:
    """Log the checkpoint as a pyfunc model of the active run, holding nothing pickled, and register it. Returns the
    version.
    """
    script = Path(__file__).with_name("served_model.py")
    client = MlflowClient()
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / ARTIFACT  # MLflow keeps the folder's own name
        shutil.copytree(folder, checkpoint)
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(script),
            artifacts={ARTIFACT: str(checkpoint)},
            code_paths=[str(Path(tft.__file__).parent)],
            pip_requirements=[
                f"{package}=={installed_version(package).split('+')[0]}"
                for package in ("mlflow", "torch", "numpy", "pandas", "safetensors")
            ],
            signature=signature(trained),
            registered_model_name=name,
            metadata={"fit_end": trained.fit_end, "data_sha256": trained.data_sha256},
        )
        # MLflow writes down where the script was taken from; loading looks for it beside MLmodel, by its name.
        stored = client.get_logged_model(info.model_id).artifact_location
        described = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{stored}/MLmodel", dst_path=scratch))
        described.write_text(described.read_text().replace(str(script.resolve()), script.name))
        client.log_model_artifact(info.model_id, str(described))
    version = str(info.registered_model_version)
    client.update_model_version(name, version, description=card)
    for metric, value in trained.metrics.items():
        client.set_model_version_tag(name, version, metric, f"{value:.4f}")
    for tag, text in {"run_id": run.run_id, "fit_end": trained.fit_end, "data_sha256": trained.data_sha256}.items():
        client.set_model_version_tag(name, version, tag, text)
    return version


def promote(
    name: str, version: str, *, rule: Rule, panel: Panel | None, holdout_sharpe: float | None
) -> tuple[bool, str]:
    """Give the version the stage and the alias if the rule lets it. Returns whether, and why, in a sentence.

    `if_better`: against the incumbent, the paired Sharpe difference on the bars of `panel` after both versions' fit
    must be positive with p < 0.2 over at least 63 bars; without an incumbent, the holdout Sharpe must be positive.
    The comparison is a look at those bars, and is entered in the ledger for both versions.
    """
    client = MlflowClient()
    incumbent = _by_alias(client, name, ALIAS)
    passed, reason = True, "the rule is to promote always"
    if rule == "never":
        passed, reason = False, "the rule is never to promote"
    elif rule == "if_better" and (incumbent is None or incumbent.version == version):
        if holdout_sharpe is None:
            passed, reason = False, "there is no holdout, so nothing says that it is any good"
        else:
            passed = holdout_sharpe > 0.0
            reason = f"there is no incumbent and its holdout Sharpe is {holdout_sharpe:.2f}"
    elif rule == "if_better":
        assert incumbent is not None
        passed, reason = _better(client, name, version, str(incumbent.version), panel)
    if passed:
        with _quiet():
            if hasattr(client, "transition_model_version_stage"):
                client.transition_model_version_stage(name, version, STAGE, archive_existing_versions=True)
        client.set_registered_model_alias(name, ALIAS, version)
        client.set_model_version_tag(name, version, "promoted_at", datetime.now(UTC).isoformat(timespec="seconds"))
    return passed, reason


def _better(client: MlflowClient, name: str, candidate: str, incumbent: str, panel: Panel | None) -> tuple[bool, str]:
    if panel is None:
        return False, "no bars were given on which to compare it with the incumbent"
    new, old = (load_checkpoint(download(name, version) / ARTIFACT) for version in (candidate, incumbent))
    after = max(np.datetime64(new.fit_end), np.datetime64(old.fit_end))
    first = int(np.searchsorted(panel.times, after, side="right"))
    n_bars = len(panel.times) - first - 1 - new.timing.delay_bars
    if n_bars < MIN_INFERENCE_BARS:
        return False, (
            f"{max(n_bars, 0)} bars lie after the fit of both it and the incumbent (version {incumbent}), "
            f"{MIN_INFERENCE_BARS} are needed to compare them: try `tft-pipeline models --promote {candidate}` with "
            f"newer bars, or set registry.promote: always"
        )
    if old.symbols != panel.symbols or not set(old.feature_names) <= set(panel.feature_names):
        return False, f"the incumbent (version {incumbent}) uses other instruments or columns: compare them by hand"
    looks = [
        enter(_look(client, name, version, panel, first, n_bars, against))
        for version, against in ((candidate, incumbent), (incumbent, candidate))
    ]
    returns = [_returns_after(trained, panel, first) for trained in (new, old)]
    for look, own in zip(looks, returns, strict=True):
        enter(replace(look, sharpe=sharpe(own, periods_per_year=new.timing.periods_per_year), n_bars=n_bars))
    compared = sharpe_difference(*returns)
    annual = compared.difference * np.sqrt(new.timing.periods_per_year)
    passed = compared.difference > 0.0 and compared.p_value < PROMOTION_P
    return passed, (
        f"its annual Sharpe is {annual:+.2f} against version {incumbent} over {n_bars} bars after both fits "
        f"(p = {compared.p_value:.2f}, the limit is {PROMOTION_P})"
    )


def _look(client: MlflowClient, name: str, version: str, panel: Panel, first: int, n_bars: int, against: str) -> Look:
    """One version's side of a comparison, over `n_bars` bars from `first` on."""
    run = client.get_model_version(name, version).run_id or ""
    tags = client.get_run(run).data.tags if run else {}
    return Look(
        kind="promotion",
        first=str(panel.times[first]),
        last=str(panel.times[first + n_bars - 1]),
        symbols=panel.symbols,
        config_sha256=tags.get("config_sha256", f"{name} version {version}"),
        run=run,
        evaluation=f"{name} version {version} against {against}",
    )


def _returns_after(trained: TrainedModel, panel: Panel, first: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Net portfolio returns (n,) of a checkpoint's own decisions from bar `first` on."""
    prediction = Predictor(trained).run(panel.select(trained.feature_names))
    position = prediction.position[len(prediction.times) - (len(panel.times) - first) :]
    net = block_earnings(position, range(first, len(panel.times)), panel.returns, trained.positions, trained.timing).net
    return portfolio_return(net)[: len(position) - 1 - trained.timing.delay_bars]


def signature(trained: TrainedModel) -> ModelSignature:
    """Names of the columns that go in and types of those that come out. Types of the input are left open: a table's
    whole numbers, flags and dates are read as they were in training.
    """
    plain = [name for name in trained.feature_names if not name.endswith(AHEAD)]
    usual = ("date", "timestamp", "symbol", "ret_1d", "close")
    inputs: list[ColSpec | TensorSpec] = [ColSpec(AnyType(), name) for name in dict.fromkeys((*plain, *trained.known))]
    # The model itself says which of these it lacks: one of the first two, the symbol, and one of the last two.
    inputs += [ColSpec(AnyType(), trained.key_columns.get(name, name), required=False) for name in usual]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec("string", "symbol"),
        ColSpec("datetime", "time"),
        *(ColSpec("double", n) for n in _NUMBERS),
    ]
    outputs.append(ColSpec("string", "regime"))
    return ModelSignature(Schema(inputs), Schema(outputs))


_NUMBERS = (
    "position",
    "raw_position",
    "probability_up",
    "mu",
    "sigma",
    "q05",
    "q10",
    "q25",
    "q50",
    "q75",
    "q90",
    "q95",
)


def find_version(name: str, *, stage: str | None = None, alias: str | None = None, version: str | None = None) -> str:
    """The version number that a stage, an alias or a version means. Raises RegistryError if there is none."""
    client = MlflowClient()
    wanted = f"version {version}" if version else f"alias {alias!r}" if alias else f"stage {stage!r}"
    try:
        with _quiet():
            if version:
                return str(client.get_model_version(name, str(version)).version)
            if alias:
                return str(client.get_model_version_by_alias(name, alias).version)
            found = [v for v in client.search_model_versions(f"name = '{name}'") if v.current_stage == stage]
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
            found = []
        else:
            raise
    if not found:
        raise RegistryError(
            f"no model {name} with {wanted} in the registry {mlflow.get_registry_uri()}: see `tft-pipeline models`, or "
            f"set MLFLOW_TRACKING_URI"
        )
    return str(max(found, key=lambda v: int(v.version)).version)


def resolve_and_download(
    name: str, *, stage: str | None = None, alias: str | None = None, version: str | None = None
) -> tuple[str, Path]:
    """(version, folder) of a model, downloaded once. When the registry cannot be reached the last answer for the same
    question serves, with a warning. Raises RegistryError.
    """
    memory = _cache(name) / "resolved.json"
    question = f"{stage}|{alias}|{version}"
    known: dict[str, list[str]] = json.loads(memory.read_text()) if memory.exists() else {}
    try:
        found = find_version(name, stage=stage, alias=alias, version=version)
        folder = download(name, found)
    except UNREACHABLE as error:
        if question not in known:
            raise
        found, folder = known[question][0], _cache(name) / known[question][1]
        warnings.warn(f"the registry cannot be reached ({error}): using version {found} as before", stacklevel=2)
    if known.get(question) != [found, folder.name]:
        memory.parent.mkdir(parents=True, exist_ok=True)
        scratch = memory.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(known | {question: [found, folder.name]}))
        scratch.replace(memory)
    return found, folder


def download(name: str, version: str) -> Path:
    """The folder of artifacts of a version, downloaded once to the user's cache."""
    # By the version's model too: a registry that was deleted and made anew counts from 1 again.
    source = MlflowClient().get_model_version(name, version).source or ""
    folder = _cache(name) / f"{version}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            with _quiet():
                whole = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"models:/{name}/{version}", dst_path=str(scratch)
                )
            (Path(whole) / "artifacts").rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _cache(name: str) -> Path:
    """One folder a registry and model, in the user's cache."""
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    uri = mlflow.get_registry_uri()
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).resolve()}"
    registry = hashlib.sha256(uri.encode()).hexdigest()[:12]
    return root / "tft-pipeline" / "models" / registry / name


def versions(name: str) -> list[ModelVersion]:
    """All versions of a model, newest first, with their aliases."""
    client = MlflowClient()
    with _quiet():
        found = client.search_model_versions(f"name = '{name}'")
        return sorted((client.get_model_version(name, v.version) for v in found), key=lambda v: -int(v.version))


def _by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Stages are deprecated upstream and served here on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield

"""The versions of a registered model: found by stage, alias or number, listed, downloaded once.

MLflow is imported when the registry is asked and not before: a trader's process that never asks does not load it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "production"
STAGE = "Production"
ARTIFACT = "checkpoint"
"""Name of the checkpoint's folder among the artifacts of a version."""
DIGEST = "checkpoint_sha256"
"""Tag of a version: `folder_sha256` of the checkpoint it was registered with."""


class RegistryError(ValueError):
    """The registry holds no such model, version, stage or alias."""


def find_version(name: str, *, stage: str | None = None, alias: str | None = None, version: str | None = None) -> str:
    """Number of the version with a stage, an alias or a number; the newest where several have the stage.

    Raises RegistryError if there is none.
    """
    import mlflow

    client = mlflow.MlflowClient()
    wanted = f"version {version}" if version else f"alias {alias!r}" if alias else f"stage {stage!r}"
    try:
        with quiet_mlflow():
            if version:
                return str(client.get_model_version(name, str(version)).version)
            if alias:
                return str(client.get_model_version_by_alias(name, alias).version)
            found = [v for v in client.search_model_versions(f"name = '{name}'") if v.current_stage == stage]
    except mlflow.exceptions.MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
            found = []
        else:
            raise
    if not found:
        raise RegistryError(
            f"no model {name} with {wanted} in the registry {mlflow.get_registry_uri()}: see `tft-pipeline models "
            f"list`, or set MLFLOW_TRACKING_URI"
        )
    return str(max(found, key=lambda v: int(v.version)).version)


def resolve_and_download(
    name: str, *, stage: str | None = None, alias: str | None = None, version: str | None = None
) -> tuple[str, Path]:
    """Number and artifact folder of the version with a stage, an alias or a number; it is downloaded once.

    When the registry cannot be reached, the last answer to the same question is used, with a warning; without one, what
    `unreachable` lists is raised. Raises RegistryError if the registry holds no such model.
    """
    memory = _cache(name) / "resolved.json"
    question = f"{stage}|{alias}|{version}"
    known: dict[str, list[str]] = json.loads(memory.read_text()) if memory.exists() else {}
    try:
        found = find_version(name, stage=stage, alias=alias, version=version)
        folder = download(name, found)
    except unreachable() as error:
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
    """Folder of a version's artifacts in the user's cache, downloaded if it is not there yet."""
    import mlflow

    # The source tells apart versions of equal number: a registry that was deleted and made anew counts from 1 again.
    source = mlflow.MlflowClient().get_model_version(name, version).source or ""
    folder = _cache(name) / f"{version}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            with quiet_mlflow():
                whole = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"models:/{name}/{version}", dst_path=str(scratch)
                )
            (Path(whole) / "artifacts").rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def folder_sha256(folder: Path) -> str:
    """SHA-256 over the names and the bytes of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _cache(name: str) -> Path:
    """Folder of a model in the user's cache; each registry has its own."""
    import mlflow

    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    uri = mlflow.get_registry_uri()
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).resolve()}"
    registry = hashlib.sha256(uri.encode()).hexdigest()[:12]
    return root / "tft-pipeline" / "models" / registry / name


def versions(name: str) -> list[ModelVersion]:
    """All versions of a model with their aliases, newest first."""
    import mlflow

    client = mlflow.MlflowClient()
    with quiet_mlflow():
        found = client.search_model_versions(f"name = '{name}'")
        return sorted((client.get_model_version(name, v.version) for v in found), key=lambda v: -int(v.version))


def unreachable() -> tuple[type[Exception], ...]:
    """The exceptions of a registry or artifact store that cannot be reached or written."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException

    return (MlflowException, OSError, Boto3Error, BotoCoreError, ClientError)


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Silence MLflow's warnings: it has deprecated stages, which are served here on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield

"""Versions by stage, alias and number, and their download."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from pipeline.registry.versions import ARTIFACT, RegistryError, download, find_version
from tests.workplace import WholeJob


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
    for name in ("tft-micro", "tft-nowhere"):
        with pytest.raises(RegistryError) as raised:
            find_version(name, **asked)
        assert f"no model {name} with {said} in the registry {whole_job.store}" in str(raised.value)


def test_the_downloaded_checkpoint_is_the_one_that_was_written(
    whole_job: WholeJob, mlflow_uri: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Downloaded once: the second time nothing is fetched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow_uri(whole_job.store)
    folder = download("tft-micro", "1") / ARTIFACT
    written = whole_job.folder / whole_job.parent.data.tags["checkpoint"]
    for name in ("model.safetensors", "meta.json"):
        assert (folder / name).read_bytes() == (written / name).read_bytes()

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("downloaded twice")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", refused)
    assert download("tft-micro", "1") / ARTIFACT == folder
    assert os.environ["XDG_CACHE_HOME"] in str(folder)

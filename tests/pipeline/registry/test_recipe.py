"""By what a refresh is known, and that a version carries its recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from pipeline.config.schema import Config
from pipeline.config.sections import DataConfig, RegistryConfig
from pipeline.registry.recipe import FINGERPRINT, FitRecipe, recipe_of
from pipeline.registry.versions import RegistryError
from tests.pipeline.registry.conftest import deliver
from tft.checkpoint import TrainedModel
from tft.panel import Panel

RECIPE = FitRecipe(("a_1", "b_1"), Config())


def changed(section: str, **given: Any) -> FitRecipe:
    config = RECIPE.config
    return replace(RECIPE, config=replace(config, **{section: replace(getattr(config, section), **given)}))


@pytest.mark.parametrize(
    "other",
    [
        replace(RECIPE, features=("b_1", "a_1")),
        replace(RECIPE, config=replace(RECIPE.config, seed=8)),
        changed("model", d_hidden=64),
        changed("training", lr=0.001),
        changed("positions", max_position=0.5),
        changed("production", seeds=5),
        changed("production", epochs=40),
        changed("walk_forward", train_window=300),
        changed("regime", enter=0.6),
    ],
)
def test_whatever_the_fit_and_the_positions_depend_on_is_another_recipe(other: FitRecipe) -> None:
    assert other.sha256 != RECIPE.sha256


@pytest.mark.parametrize(
    "other",
    [
        changed("data", source="newer.parquet"),
        changed("registry", name="other", promote="never"),
        changed("tuning", n_trials=100),
        changed("pruning", max_features=10),
        replace(RECIPE, config=replace(RECIPE.config, device="cuda", holdout_fraction=0.1)),
    ],
)
def test_the_bars_and_what_found_the_recipe_are_not_part_of_it(other: FitRecipe) -> None:
    assert other.sha256 == RECIPE.sha256


def test_on_another_table_the_recipe_stays_the_same() -> None:
    """Where a table is and what its key columns are called is its own; which columns are known is the recipe's."""
    own = replace(RECIPE, config=replace(RECIPE.config, data=DataConfig(known=("expiry",))))
    other = Config(seed=99, data=DataConfig(source="new.csv", close_column="px"), registry=RegistryConfig("x", "never"))
    moved = own.on(other)
    assert moved.sha256 == own.sha256
    data = moved.config.data
    assert (data.source, data.close_column, data.known) == ("new.csv", "px", ("expiry",))
    assert (moved.config.seed, moved.config.registry.name) == (7, "x")


def test_a_version_carries_its_recipe(client: MlflowClient, good: TrainedModel, panel: Panel, tmp_path: Path) -> None:
    deliver(good, panel, tmp_path / "one", "carried", "never", recipe=3)
    found = recipe_of("carried", "1")
    assert found == FitRecipe(good.feature_names, Config(seed=3, registry=RegistryConfig("carried", "never")))
    assert client.get_model_version("carried", "1").tags[FINGERPRINT] == found.sha256


def test_a_version_without_a_recipe_is_a_sentence(
    client: MlflowClient, good: TrainedModel, panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of an earlier version of this project, or of a later one."""
    deliver(good, panel, tmp_path / "one", "without", "never")

    class Info:
        metadata: dict[str, str] | None = None

    monkeypatch.setattr(mlflow.models, "get_model_info", lambda uri: Info)
    with pytest.raises(RegistryError, match="version 1 of without does not carry its recipe"):
        recipe_of("without", "1")
    Info.metadata = {"recipe": '{"features": ["a"], "config": {"flux": 3}}'}
    with pytest.raises(RegistryError, match=r"is that of another version of this project .*flux"):
        recipe_of("without", "1")

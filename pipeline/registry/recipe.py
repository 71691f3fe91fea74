"""The recipe of a version: how it was fitted, from which a refresh is fitted again, and by which one is known."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import mlflow
from mlflow.tracking import MlflowClient

from pipeline.config.reading import from_json, to_json
from pipeline.config.schema import Config, sha256_of
from pipeline.registry.versions import RegistryError, quiet_mlflow

METADATA = "recipe"
"""Key in the metadata of the logged model: the recipe travels with it and cannot be edited."""
FINGERPRINT = "recipe_sha256"


@dataclass(frozen=True)
class FitRecipe:
    """The columns and settings of the final fit."""

    features: tuple[str, ...]
    config: Config
    """With the tuned parameters in their sections."""

    @property
    def sha256(self) -> str:
        """Hash of all that makes two versions on the same bars the same model: columns, model, training, positions,
        folds, seeds and regime. The bars do not enter, nor what found the recipe, nor where it is registered.
        """
        config = self.config
        production = {"epochs": config.production.epochs, "seeds": config.production.seeds}
        return sha256_of(
            list(self.features),
            config.training_settings() | production | {"regime": asdict(config.regime), "known": config.data.known},
        )

    def on(self, other: Config) -> FitRecipe:
        """The recipe on the table, the device and under the name of another configuration."""
        data = replace(other.data, known=self.config.data.known)
        return replace(self, config=replace(self.config, data=data, device=other.device, registry=other.registry))


def recipe_of(name: str, version: str) -> FitRecipe:
    """The recipe of a registered version. Raises RegistryError if it carries none that can be read."""
    source = MlflowClient().get_model_version(name, version).source
    with quiet_mlflow():
        metadata = mlflow.models.get_model_info(str(source)).metadata or {}
    if METADATA not in metadata:
        raise RegistryError(
            f"version {version} of {name} does not carry its recipe: it was registered by an earlier version of this "
            f"project; run `tft-pipeline production`"
        )
    try:
        return from_json(FitRecipe, metadata[METADATA])
    except AssertionError as error:
        raise RegistryError(
            f"the recipe of version {version} of {name} is that of another version of this project ({error}): run "
            f"`tft-pipeline production`"
        ) from None


def to_metadata(recipe: FitRecipe) -> dict[str, str]:
    return {METADATA: to_json(recipe)}

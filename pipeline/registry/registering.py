"""Registering a checkpoint: the logged model, its signature, its card."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path

import mlflow
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType

import tft
from pipeline.bar_labels import bar_label, bar_unit
from pipeline.data.errors import one_line
from pipeline.registry.evidence import Evidence, keep
from pipeline.registry.example import input_columns, input_example
from pipeline.registry.promotion import promote
from pipeline.registry.recipe import FINGERPRINT, FitRecipe, to_metadata
from pipeline.registry.standing import enter
from pipeline.registry.versions import ARTIFACT, DIGEST, folder_sha256, quiet_mlflow, unreachable
from pipeline.tracking.runs import Run
from tft.checkpoint import TrainedModel
from tft.panel import Panel
from tft.table import CONTRACT

OUTPUT_NUMBERS = (
    *("position", "raw_position", "probability_up", "mu", "sigma"),
    *("q05", "q10", "q25", "q50", "q75", "q90", "q95"),
)
"""Columns of the served model's output that hold numbers."""


@dataclass(frozen=True)
class Registered:
    """The version that a checkpoint became in the registry, and whether it was promoted."""

    version: str
    """Empty if it could not be registered."""
    promoted: bool
    reason: str
    """Why it was promoted, or why not."""
    trouble: tuple[str, ...] = ()
    """Sentences on what failed and where the checkpoint is."""
    model_id: str = ""
    """The logged model that the version is of; empty if it could not be registered."""


def register_and_promote(
    folder: Path,
    trained: TrainedModel,
    recipe: FitRecipe,
    *,
    run: Run,
    panel: Panel,
    evidence: Evidence,
    card: str,
) -> Registered:
    """Register the checkpoint in `folder` and promote it by the rule of the recipe's configuration.

    `panel` (all columns, up to the newest bar) and `evidence` are what the rule judges by; `card` describes the
    version, in Markdown. A registry that cannot be reached is reported in `trouble`, not raised: the training is
    finished and its checkpoint is on disk.
    """
    config = recipe.config.registry
    try:
        registered, model_id = register(folder, trained, recipe, run=run, panel=panel, evidence=evidence, card=card)
    except unreachable() as error:
        return Registered(
            "",
            False,
            "not registered",
            (
                f"the model could not be registered as {config.name} ({one_line(error)}): its checkpoint is safe in "
                f"{folder}",
            ),
        )
    try:
        decision = promote(config.name, registered, rule=config.promote, panel=panel)
    except unreachable() as error:
        return Registered(
            registered,
            False,
            "not promoted",
            (f"version {registered} of {config.name} is registered but could not be promoted ({one_line(error)})",),
            model_id,
        )
    return Registered(registered, decision.promoted, decision.reason, model_id=model_id)


def register(
    folder: Path, trained: TrainedModel, recipe: FitRecipe, *, run: Run, panel: Panel, evidence: Evidence, card: str
) -> tuple[str, str]:
    """Log the checkpoint as a pyfunc model of the active run, with nothing pickled in it, and register the model.

    The version is the challenger then, and carries its recipe, its evidence and its digest. Returns its number and the
    id of the logged model; raises what `unreachable` lists.
    """
    name = recipe.config.registry.name
    script = Path(__file__).with_name("served_model.py")
    client = MlflowClient()
    with quiet_mlflow(), tempfile.TemporaryDirectory() as scratch:
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
            input_example=input_example(trained, panel),
            registered_model_name=name,
            metadata={"fit_end": trained.fit_end, "data_sha256": trained.data_sha256, **to_metadata(recipe)},
        )
        # MLflow writes down where the script was taken from; loading looks for it beside MLmodel, by its name.
        stored = client.get_logged_model(info.model_id).artifact_location
        described = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{stored}/MLmodel", dst_path=scratch))
        described.write_text(described.read_text().replace(str(script.resolve()), script.name))
        client.log_model_artifact(info.model_id, str(described))
    version = str(info.registered_model_version)
    enter(name, version)
    client.update_model_version(name, version, description=card)
    for metric, value in trained.metrics.items():
        client.set_model_version_tag(name, version, metric, f"{value:.4f}")
    tags = {
        "run_id": run.run_id,
        "fit_end": bar_label(trained.fit_end, bar_unit(panel.times)),
        "data_sha256": trained.data_sha256,
        FINGERPRINT: recipe.sha256,
        DIGEST: folder_sha256(folder),
    }
    for tag, text in tags.items():
        client.set_model_version_tag(name, version, tag, text)
    keep(name, version, evidence)
    return version, str(info.model_id)


def signature(trained: TrainedModel) -> ModelSignature:
    """Names of the input columns, and names and types of the output columns.

    Types of the input are left open, and its example shows them: a table's whole numbers, flags, categories and dates
    are read as they were in training, where MLflow refuses a whole number for a double and a category for a string.
    """
    # The table's own names of the keys, and the usual ones, by which they are found as well.
    keys = dict.fromkeys(
        (*trained.table_format.columns.values(), *(name for names in CONTRACT.values() for name in names))
    )
    inputs: list[ColSpec | TensorSpec] = [ColSpec(AnyType(), name) for name in input_columns(trained)]
    # The model itself says which of these it lacks: one of the first two, the symbol, and one of the last two.
    inputs += [ColSpec(AnyType(), name, required=False) for name in keys]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec("string", "symbol"),
        ColSpec("datetime", "time"),
        *(ColSpec("double", n) for n in OUTPUT_NUMBERS),
    ]
    outputs.append(ColSpec("string", "regime"))
    return ModelSignature(Schema(inputs), Schema(outputs))

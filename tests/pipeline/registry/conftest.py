"""Two checkpoints of opposite opinions, a registry of its own for each file, and the way into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from pipeline.config.schema import Config
from pipeline.config.sections import RegistryConfig
from pipeline.registry.evidence import Evidence
from pipeline.registry.promotion import Rule
from pipeline.registry.recipe import FitRecipe
from pipeline.registry.registering import Registered, register_and_promote
from pipeline.registry.versions import versions
from pipeline.tracking.runs import Run
from tests.conftest import small_panel
from tft.checkpoint import CheckpointManager, TrainedModel
from tft.model import ModelConfig, TemporalFusionTransformer
from tft.panel import Panel
from tft.positions import PositionsConfig, RegimeConfig
from tft.scaling import Scaler
from tft.volatility import Timing

FIT_END = 162
"""The last bar of the fit, the day after tomorrow; the panel's last bar is 319."""
LAST = 319
SKILL = Evidence(finds_skill=True, verdict="Found.", long_only_high=0.7)


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
    """Its first feature says nearly all about the return in which the position is held.

    Bars after the fit lie in the future: they come after whatever is registered now, on any clock of the world.
    """
    past = small_panel(LAST + 1, 2, 3, signal=0.9)
    first = np.datetime64("today", "D") + np.timedelta64(2 - FIT_END, "D")
    return replace(past, times=(first + np.arange(LAST + 1) * np.timedelta64(1, "D")).astype("datetime64[us]"))


@pytest.fixture(scope="module")
def good(panel: Panel) -> TrainedModel:
    """An untrained network whose random opinion happens to follow the signal; said to be fitted on bars 0 to 162."""
    config = ModelConfig(d_hidden=8, n_heads=2, seq_len=6, n_context=0)
    torch.manual_seed(7)
    network = TemporalFusionTransformer(config, n_variables=3, n_assets=2, loss_mode="joint_mle")
    torch.nn.init.zeros_(network.cells.direct.pairs)  # no direct term: `bad` turns the head alone
    return TrainedModel(
        config=config,
        loss_mode="joint_mle",
        feature_names=panel.feature_names,
        known=(),
        symbols=panel.symbols,
        scaler=Scaler.fit(panel.features),
        parameters={name: value.detach()[None].clone() for name, value in network.named_parameters()},
        correlation=0.0,
        gain=1.0,
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
    promote: Rule,
    *,
    evidence: Evidence = SKILL,
    recipe: int = 1,
) -> Registered:
    """Save, register and promote, as the production phase does on the bars up to the fit.

    recipe: equal numbers are one recipe.
    """
    CheckpointManager(folder).save(trained)
    with mlflow.start_run() as active:
        return register_and_promote(
            folder,
            trained,
            FitRecipe(trained.feature_names, Config(seed=recipe, registry=RegistryConfig(name, promote))),
            run=Run(active.info.run_id),
            panel=panel.first_bars(FIT_END + 1),
            evidence=evidence,
            card=f"# Card of {folder.name}",
        )


def standing(client: MlflowClient, name: str) -> dict[str, tuple[str, list[str]]]:
    """(stage, aliases) by version."""
    return {str(one.version): (one.current_stage or "", sorted(one.aliases)) for one in versions(name)}


CHALLENGES = ("Staging", ["challenger"])
WAITS = ("Staging", [])
IN_PRODUCTION = ("Production", ["production"])
ARCHIVED = ("Archived", [])

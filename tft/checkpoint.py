"""Checkpoints: a folder with `model.safetensors` and a readable `meta.json`, replaced atomically.

Nothing is pickled. Shapes: S seeds (networks whose positions are averaged), V variables.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from tft.head import LossMode
from tft.model import ModelConfig, TemporalFusionTransformer
from tft.positions import PositionsConfig, RegimeConfig
from tft.scaling import Scaler
from tft.table import TableFormat
from tft.volatility import MEMORY_BARS, Timing
from tft.windows import CONTEXT_POOL_BARS

SCHEMA_VERSION = 2
WEIGHTS = "model.safetensors"
META = "meta.json"


class CheckpointError(ValueError):
    """A checkpoint cannot be read; the message says which file is at fault and why."""


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """Everything a live process needs to turn bars into positions."""

    config: ModelConfig
    loss_mode: LossMode
    feature_names: tuple[str, ...]
    known: tuple[str, ...]
    symbols: tuple[str, ...]
    scaler: Scaler
    parameters: Mapping[str, Tensor]
    """Parameters by name, each (S, ...): one network per seed"""
    correlation: float
    """Of forecast errors between instruments, for the cross-sectional step (cross_section.py)"""
    gain: float
    """Factor on the raw positions of the averaged networks after that step"""
    timing: Timing
    positions: PositionsConfig
    regime: RegimeConfig
    seed: int
    """Seed of the context draws; network s draws its contexts with seed + s"""
    fit_end: str
    """ISO time of the last bar that any label used for fitting or for model selection reaches"""
    data_sha256: str
    table_format: TableFormat = field(default_factory=TableFormat)
    """How the training table was read: a live table is read in the same way"""
    fold_bounds: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def min_history_bars(self) -> int:
        """Number of bars a table must hold for its last decision to equal the one made with the whole history.

        One bar more than the longest memory, because the first return takes two closes.
        """
        reach = CONTEXT_POOL_BARS if self.config.n_context else self.config.seq_len
        return max(reach, MEMORY_BARS, self.config.seq_len) + 1

    def network(self) -> TemporalFusionTransformer:
        """An untrained network of the architecture that `parameters` belong to."""
        with torch.random.fork_rng(devices=[]):
            return TemporalFusionTransformer(
                self.config,
                n_variables=len(self.feature_names),
                n_assets=len(self.symbols),
                loss_mode=self.loss_mode,
            )


def aside_of(folder: Path) -> Path:
    """Path to which `write_folder_atomically` moves the old content of a folder while it puts the new in its place."""
    return folder.with_name(f".{folder.name}.was")


def write_folder_atomically(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace `folder` by one that holds `files`, creating its parents: readers see the old or the new content whole.

    A process killed between the last two renames leaves the old content in `aside_of(folder)`; readers look there when
    the folder itself is missing. Raises OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(folder)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, content in files.items():
            with (fresh / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        fresh.chmod(0o755)
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)  # left behind by a process that was killed
            folder.rename(aside)
        fresh.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    except BaseException:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors on any device, serialised in the safetensors format."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _readable(values: NDArray[np.float32]) -> list[float | None]:
    """Values as JSON numbers, with None (null) for those that are not finite."""
    return [float(value) if np.isfinite(value) else None for value in values]


def _digest(meta: Mapping[str, Any]) -> str:
    """SHA-256 of the content of meta.json, independent of its layout."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


class CheckpointManager:
    """Saves and loads one checkpoint folder; writes to the fallback folder if that one cannot be written."""

    def __init__(self, folder: str | Path, *, fallback: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self.fallback = None if fallback is None else Path(fallback)

    def save(self, trained: TrainedModel) -> Path:
        """Write the checkpoint, read it back to verify it, and return the folder that holds it.

        That is the fallback if `self.folder` could not be written. Raises OSError or CheckpointError if neither could.
        """
        tensors = dict(trained.parameters)
        tensors["scaler.mean"] = torch.from_numpy(trained.scaler.mean)
        tensors["scaler.std"] = torch.from_numpy(trained.scaler.std)
        weights = tensors_to_bytes(tensors)
        meta: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "model": asdict(trained.config),
            "loss_mode": trained.loss_mode,
            "feature_names": list(trained.feature_names),
            "known": list(trained.known),
            "symbols": list(trained.symbols),
            "scaler": {name: _readable(getattr(trained.scaler, name)) for name in ("mean", "std")},
            "timing": asdict(trained.timing),
            "positions": asdict(trained.positions),
            "regime": asdict(trained.regime),
            "correlation": trained.correlation,
            "gain": trained.gain,
            "seed": trained.seed,
            "fit_end": trained.fit_end,
            "min_history_bars": trained.min_history_bars,
            "data_sha256": trained.data_sha256,
            "key_columns": dict(trained.table_format.columns),
            "time_format": trained.table_format.time_format,
            "offsets": dict(trained.table_format.offsets),
            "fold_bounds": dict(trained.fold_bounds),
            "metrics": dict(trained.metrics),
        }
        meta["meta_sha256"] = _digest(meta)
        files = {WEIGHTS: weights, META: json.dumps(meta, indent=2).encode()}
        try:
            write_folder_atomically(self.folder, files)
            load_checkpoint(self.folder)
            return self.folder
        except (OSError, CheckpointError):  # not written, or read back differently
            if self.fallback is None:
                raise
            write_folder_atomically(self.fallback, files)
            load_checkpoint(self.fallback)
            return self.fallback

    def load(self) -> TrainedModel:
        """Load the checkpoint in `self.folder`. Raises CheckpointError if it is missing, corrupt or outdated."""
        return load_checkpoint(self.folder)


def load_checkpoint(folder: str | Path) -> TrainedModel:
    """Read and verify a checkpoint folder. Raises CheckpointError, which names the file at fault and the reason."""
    folder = Path(folder)
    if not folder.exists() and aside_of(folder).exists():
        folder = aside_of(folder)  # a process was killed between the two renames of a write
    try:
        meta: Any = json.loads((folder / META).read_bytes())
        weights = (folder / WEIGHTS).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{error.filename} is missing: {folder} is not a complete checkpoint") from None
    except ValueError:  # not JSON, or not even UTF-8
        raise CheckpointError(f"{folder / META} is not JSON: restore it from a copy") from None
    if not isinstance(meta, dict):
        raise CheckpointError(f"{folder / META} is not a JSON object: restore it from a copy")
    if meta.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointError(
            f"{folder / META} has schema version {meta.get('schema_version')}, this version reads {SCHEMA_VERSION}"
        )
    if meta.pop("meta_sha256", None) != _digest(meta):
        raise CheckpointError(f"{folder / META} does not match its own checksum: restore it from a copy")
    if hashlib.sha256(weights).hexdigest() != meta["weights_sha256"]:
        raise CheckpointError(f"{folder / WEIGHTS} does not match its checksum in {META}: restore it from a copy")
    tensors = load(weights)
    scaler = Scaler(tensors.pop("scaler.mean").numpy(), tensors.pop("scaler.std").numpy())
    trained = TrainedModel(
        config=ModelConfig(**meta["model"]),
        loss_mode=meta["loss_mode"],
        feature_names=tuple(meta["feature_names"]),
        known=tuple(meta["known"]),
        symbols=tuple(meta["symbols"]),
        scaler=scaler,
        parameters=tensors,
        correlation=meta["correlation"],
        gain=meta["gain"],
        timing=Timing(**meta["timing"]),
        positions=PositionsConfig(**meta["positions"]),
        regime=RegimeConfig(**meta["regime"]),
        seed=meta["seed"],
        fit_end=meta["fit_end"],
        data_sha256=meta["data_sha256"],
        # A checkpoint from before these were kept needs neither.
        table_format=TableFormat(meta["key_columns"], meta.get("time_format"), meta.get("offsets", {})),
        fold_bounds=meta["fold_bounds"],
        metrics=meta["metrics"],
    )
    expected = {name: tuple(value.shape) for name, value in trained.network().named_parameters()}
    found = {name: tuple(value.shape[1:]) for name, value in tensors.items()}
    if expected != found:
        odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CheckpointError(f"{folder / WEIGHTS} does not hold the model that {META} describes: see {', '.join(odd)}")
    assert scaler.mean.shape == np.shape(trained.feature_names)
    return trained

"""A fitted fold, and finished folds on disk until their phase is delivered.

Shapes: E epochs run, A instruments.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from tft.checkpoint import tensors_to_bytes, write_folder_atomically
from tft.folds import Fold
from tft.scaling import Scaler

SIZE = "stacks-of-"


@dataclass(frozen=True, eq=False)
class FoldFit:
    """One fitted fold, weights of the kept epoch."""

    fold: Fold
    scaler: Scaler
    parameters: dict[str, Tensor]
    """On the CPU, by name."""
    kept_epoch: int
    """Counted from 0."""
    train_loss: NDArray[np.float64]
    """(E,) mean over steps"""
    validation_score: NDArray[np.float64]
    """(E,) not smoothed"""
    validation_position: NDArray[np.float32]
    """(E, n_validation, A) raw positions after each epoch; NaN where there is no target"""
    skipped_steps: int
    """Updates left out because a gradient was not finite."""
    seconds: float
    """Wall time of the fold's stack, shared equally."""
    stack: tuple[int, ...]
    """Indices of the folds that were trained as one, this one included; one comes again with each recipe it has."""


def _stack_folder(keep: Path, fold: int, stack: Sequence[int]) -> Path:
    return keep / f"fold-{fold}-of-{'-'.join(str(other) for other in stack)}"


def keep_size(keep: Path, size: int) -> None:
    """Note the stack size in use: an empty folder's name, made in one step."""
    (keep / f"{SIZE}{size}").mkdir(parents=True, exist_ok=True)


def kept_size(keep: Path) -> int | None:
    """The smallest size noted, None where none was."""
    return min((int(path.name.removeprefix(SIZE)) for path in keep.glob(f"{SIZE}*")), default=None)


def kept_composition(keep: Path, folds: Sequence[Fold]) -> Sequence[Fold] | None:
    """The first of these folds and those it was trained with, if that stack is there whole."""
    for size in range(len(folds), 0, -1):
        indices = [fold.index for fold in folds[:size]]
        if all(_stack_folder(keep, index, indices).is_dir() for index in indices):
            return folds[:size]
    return None


def keep(folder: Path, fit: FoldFit) -> None:
    """Write a fit into `folder`; raises OSError."""
    tensors = {f"parameters.{name}": value for name, value in fit.parameters.items()}
    for name in ("train_loss", "validation_score", "validation_position"):
        tensors[name] = torch.from_numpy(getattr(fit, name))
    tensors |= {"scaler.mean": torch.from_numpy(fit.scaler.mean), "scaler.std": torch.from_numpy(fit.scaler.std)}
    numbers = {"kept_epoch": fit.kept_epoch, "skipped_steps": fit.skipped_steps, "seconds": fit.seconds}
    content = {"fit.safetensors": tensors_to_bytes(tensors), "fit.json": json.dumps(numbers).encode()}
    write_folder_atomically(_stack_folder(folder, fit.fold.index, fit.stack), content)


def kept(keep: Path, stack: Sequence[Fold]) -> list[FoldFit] | None:
    """The stack's fits if every one of them is there."""
    indices = tuple(fold.index for fold in stack)
    folders = [_stack_folder(keep, index, indices) for index in indices]
    if not all(folder.is_dir() for folder in folders):
        return None
    fits = []
    for fold, folder in zip(stack, folders, strict=True):
        tensors = load_file(folder / "fit.safetensors")
        fits.append(
            FoldFit(
                fold=fold,
                scaler=Scaler(tensors["scaler.mean"].numpy(), tensors["scaler.std"].numpy()),
                parameters={
                    name.removeprefix("parameters."): value
                    for name, value in tensors.items()
                    if name.startswith("parameters.")
                },
                train_loss=tensors["train_loss"].numpy(),
                validation_score=tensors["validation_score"].numpy(),
                validation_position=tensors["validation_position"].numpy(),
                stack=indices,
                **json.loads((folder / "fit.json").read_text()),
            )
        )
    return fits

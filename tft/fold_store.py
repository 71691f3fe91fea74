"""The result of fitting a fold, and the store of finished fits from which an interrupted training resumes.

A fit is stored by fold and seed, together with the stack that it was trained in. A stack is given by its members, pairs
of a fold and a seed, in order.

Shapes: E epochs run, A instruments.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor

from tft.checkpoint import tensors_to_bytes
from tft.folds import Fold
from tft.runtime.store import Store
from tft.scaling import Scaler

TENSORS = "fit.safetensors"
NUMBERS = "fit.json"
STACK_SIZE = "stack-size"
"""Name of the stored entry, and of its one file, that holds the stack size in use"""


@dataclass(frozen=True, eq=False)
class FoldFit:
    """One fitted fold, with the weights of its kept epoch."""

    fold: Fold
    seed: int
    """Of the recipe that it was fitted with"""
    scaler: Scaler
    parameters: dict[str, Tensor]
    """Parameters by name, on the CPU"""
    kept_epoch: int
    """Counted from 0"""
    train_loss: NDArray[np.float64]
    """(E,) mean over the steps of each epoch"""
    validation_score: NDArray[np.float64]
    """(E,) not smoothed; lower is better"""
    validation_position: NDArray[np.float32]
    """(E, n_validation, A) raw positions after each epoch; NaN where there is no target"""
    skipped_steps: int
    """Updates left out because a gradient was not finite"""
    correlation: float
    """Of forecast errors between instruments, for the cross-sectional step; 0 with objective pooled"""
    seconds: float
    """Wall time of the fold's stack, shared equally among its folds"""
    stack: tuple[tuple[int, int], ...]
    """Index of the fold and seed of each member of the stack, this one included; a fold that was fitted with several
    recipes is listed once for each"""


def write_fit(store: Store, fit: FoldFit) -> None:
    """Write a fit as one entry of the store. Raises OSError."""
    tensors = {f"parameters.{name}": value for name, value in fit.parameters.items()}
    for name in ("train_loss", "validation_score", "validation_position"):
        tensors[name] = torch.from_numpy(getattr(fit, name))
    tensors |= {"scaler.mean": torch.from_numpy(fit.scaler.mean), "scaler.std": torch.from_numpy(fit.scaler.std)}
    numbers = {"kept_epoch": fit.kept_epoch, "skipped_steps": fit.skipped_steps, "correlation": fit.correlation}
    numbers["seconds"] = fit.seconds
    files = {TENSORS: tensors_to_bytes(tensors), NUMBERS: json.dumps(numbers).encode()}
    store.put(_name(fit.fold.index, fit.seed, fit.stack), files)


def read_stack(store: Store, members: Sequence[tuple[Fold, int]]) -> list[FoldFit] | None:
    """The stored fits of the stack of exactly these folds and seeds; None unless all of them are stored."""
    stack = tuple((fold.index, seed) for fold, seed in members)
    fits = []
    for fold, seed in members:
        files = store.get(_name(fold.index, seed, stack))
        if files is None:
            return None
        fits.append(_fit_from_files(files, fold, seed, stack))
    return fits


def finished_stack(store: Store, members: Sequence[tuple[Fold, int]]) -> int:
    """Length of the longest prefix of `members` that was trained as one stack and is stored completely, or 0."""
    for size in range(len(members), 0, -1):
        stack = [(fold.index, seed) for fold, seed in members[:size]]
        if all(store.exists(_name(*member, stack)) for member in stack):
            return size
    return 0


def write_stack_size(store: Store, size: int) -> None:
    """Store the stack size in use, replacing an earlier one. Raises OSError."""
    store.put(STACK_SIZE, {STACK_SIZE: str(size).encode()})


def read_stack_size(store: Store) -> int | None:
    """The stack size that was stored last; None if none was."""
    files = store.get(STACK_SIZE)
    return None if files is None else int(files[STACK_SIZE])


def _name(fold: int, seed: int, stack: Sequence[tuple[int, int]]) -> str:
    """Name of a fit in the store. It holds a hash of its whole stack, because a fit depends on what it is stacked with,
    and a list of all members could be longer than a file name can be.
    """
    members = " ".join(f"{index}.{own}" for index, own in stack)
    return f"fold-{fold}-seed-{seed}-of-{len(stack)}-{hashlib.sha256(members.encode()).hexdigest()[:16]}"


def _fit_from_files(files: dict[str, bytes], fold: Fold, seed: int, stack: tuple[tuple[int, int], ...]) -> FoldFit:
    """Decode the files that `write_fit` stored."""
    tensors = load(files[TENSORS])
    prefix = "parameters."
    return FoldFit(
        fold=fold,
        seed=seed,
        scaler=Scaler(tensors["scaler.mean"].numpy(), tensors["scaler.std"].numpy()),
        parameters={name.removeprefix(prefix): tensors[name] for name in sorted(tensors) if name.startswith(prefix)},
        train_loss=tensors["train_loss"].numpy(),
        validation_score=tensors["validation_score"].numpy(),
        validation_position=tensors["validation_position"].numpy(),
        stack=stack,
        **json.loads(files[NUMBERS]),
    )

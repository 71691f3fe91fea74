"""Which implementation of an operation runs: native code on a CPU, a CUDA kernel on a GPU, or the reference in torch.

Each operation has one file beside this one, with its autograd function and its reference, and up to two more by the
same name in cpu/ and cuda/, with the same functions. Those say themselves what they can run on (`unavailable`) and what
they do not compute (`refuses`); whatever is refused, torch computes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from tft.kernels.cpu import adam as cpu_adam
from tft.kernels.cpu import compiling as cpu
from tft.kernels.cpu import dropout as cpu_dropout
from tft.kernels.cpu import gated_norm as cpu_gated_norm
from tft.kernels.cpu import scan as cpu_scan
from tft.kernels.cpu import select as cpu_select
from tft.kernels.cuda import adam as cuda_adam
from tft.kernels.cuda import compiling as cuda
from tft.kernels.cuda import dropout as cuda_dropout
from tft.kernels.cuda import gated_norm as cuda_gated_norm
from tft.kernels.cuda import gather as cuda_gather
from tft.kernels.cuda import masked_softmax as cuda_masked_softmax
from tft.kernels.cuda import scan as cuda_scan
from tft.kernels.cuda import select as cuda_select
from tft.runtime.machine import processor

IMPLEMENTATIONS: Mapping[str, Mapping[str, ModuleType]] = {
    "cpu": {
        "adam": cpu_adam,
        "dropout": cpu_dropout,
        "gated_norm": cpu_gated_norm,
        "scan": cpu_scan,
        "select": cpu_select,
    },
    "cuda": {
        "adam": cuda_adam,
        "dropout": cuda_dropout,
        "gated_norm": cuda_gated_norm,
        "gather": cuda_gather,
        "masked_softmax": cuda_masked_softmax,
        "scan": cuda_scan,
        "select": cuda_select,
    },
}
"""By kind of device and operation; every other operation is torch's there."""
OPERATIONS = sorted({name for own in IMPLEMENTATIONS.values() for name in own})
NAMES = {"cpu": "native", "cuda": "cuda"}
"""What an implementation is called, by kind of device."""

_left_out: set[str] = set()

Reference = TypeVar("Reference")


def of(operation: str, reference: type[Reference], x: Tensor, *more: object) -> type[Reference]:
    """The implementation that computes `operation` with this tensor: one for its device, or the reference.

    x and more: what its `refuses` takes.
    """
    own = IMPLEMENTATIONS.get(x.device.type, {}).get(operation)
    if own is None or operation in _left_out or own.refuses(x, *more):
        return reference
    return cast(type[Reference], own)  # a module with the same functions


@contextmanager
def without(*operations: str) -> Iterator[None]:
    """Leave these operations to torch, in all threads, until the end of the block; for tests and measurements."""
    assert set(operations) <= set(OPERATIONS), operations
    new = set(operations) - _left_out
    _left_out.update(new)
    try:
        yield
    finally:
        _left_out.difference_update(new)


class InUse(NamedTuple):
    """What computes an operation in float32, in a width that it takes."""

    operation: str
    implementation: str
    """native, cuda or torch"""
    reason: str


def in_use(device: torch.device) -> list[InUse]:
    """Every operation with what computes it on a device, and why. Compiles what has not been compiled (seconds)."""
    return [_in_use(operation, device) for operation in OPERATIONS]


def _in_use(operation: str, device: torch.device) -> InUse:
    own = IMPLEMENTATIONS.get(device.type, {}).get(operation)
    if own is None:
        return InUse(operation, "torch", f"the only implementation on a {device.type.upper()}")
    if operation in _left_out:
        return InUse(operation, "torch", "left out by the caller")
    if fault := own.unavailable(device):
        return InUse(operation, "torch", fault)
    compiled = cpu if device.type == "cpu" else cuda
    return InUse(operation, NAMES[device.type], compiled.described(device))


def kernels_for(device: torch.device) -> str:
    """What computes in float32 on this device, as runs are tagged with it: native, torch, cuda or cuda+torch.

    Results of two of them differ in the last bits.
    """
    own = [_in_use(operation, device).implementation != "torch" for operation in ("scan", "select")]
    if device.type == "cpu":
        return "native" if all(own) else "torch"
    return "cuda" if all(own) else "cuda+torch" if any(own) else "torch"


def fingerprint(device: torch.device) -> str:
    """A digest that is equal on two machines exactly if they compute the same bits, as far as can be told.

    It covers the implementation of every operation and the processor; where native code runs the bytes of its library;
    on a GPU its name, capability and memory and the version of CUDA. Neither sources nor torch's version are in it.
    """
    found = in_use(device)
    return _fingerprint(device, tuple((one.operation, one.implementation) for one in found))


@cache
def _fingerprint(device: torch.device, implementations: tuple[tuple[str, str], ...]) -> str:
    parts = [device.type, repr(implementations), processor()]
    if any(name == NAMES["cpu"] for _, name in implementations):
        parts.append(cpu.digest())
    if device.type == "cuda":
        own = torch.cuda.get_device_properties(device)
        parts.append(repr((own.name, own.major, own.minor, own.total_memory, torch.version.cuda)))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

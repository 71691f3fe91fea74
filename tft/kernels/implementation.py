"""The choice of an operation's implementation: native code on a CPU, a CUDA kernel on a GPU, or the reference in torch.

Each operation has a file in this folder, with its autograd function and its reference, and up to two more of the same
name in cpu/ and cuda/, with the functions of the reference and two more: `unavailable` gives the reason why it cannot
run on a device, `refuses` the reason why it does not take certain tensors. The reference takes all tensors.
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
from tft.kernels.cpu import scan as cpu_scan
from tft.kernels.cpu import select as cpu_select
from tft.kernels.cuda import adam as cuda_adam
from tft.kernels.cuda import compiling as cuda
from tft.kernels.cuda import dropout as cuda_dropout
from tft.kernels.cuda import gated_norm as cuda_gated_norm
from tft.kernels.cuda import gather as cuda_gather
from tft.kernels.cuda import scan as cuda_scan
from tft.kernels.cuda import select as cuda_select
from tft.runtime.machine import processor

IMPLEMENTATIONS: Mapping[str, Mapping[str, ModuleType]] = {
    "cpu": {
        "adam": cpu_adam,
        "dropout": cpu_dropout,
        "scan": cpu_scan,
        "select": cpu_select,
    },
    "cuda": {
        "adam": cuda_adam,
        "dropout": cuda_dropout,
        "gated_norm": cuda_gated_norm,
        "gather": cuda_gather,
        "scan": cuda_scan,
        "select": cuda_select,
    },
}
"""Implementations by kind of device and operation; torch computes all other operations"""
OPERATIONS = sorted({name for operations in IMPLEMENTATIONS.values() for name in operations})
NAMES = {"cpu": "native", "cuda": "cuda"}
"""Name of the implementations for a kind of device"""

_left_out: set[str] = set()

Reference = TypeVar("Reference")


def of(operation: str, reference: type[Reference], x: Tensor, *more: object) -> type[Reference]:
    """The implementation of `operation` for the device of x, or the reference if there is none or it refuses.

    x and `more` are the arguments of the operation's `refuses`.
    """
    module = IMPLEMENTATIONS.get(x.device.type, {}).get(operation)
    if module is None or operation in _left_out or module.refuses(x, *more):
        return reference
    return cast(type[Reference], module)  # which has the same functions


@contextmanager
def without(*operations: str) -> Iterator[None]:
    """Compute these operations by torch, in all threads, until the end of the block; for tests and measurements."""
    assert set(operations) <= set(OPERATIONS), operations
    new = set(operations) - _left_out
    _left_out.update(new)
    try:
        yield
    finally:
        _left_out.difference_update(new)


class InUse(NamedTuple):
    """The implementation in use for an operation in float32, at a width that it supports."""

    operation: str
    implementation: str
    """native, cuda or torch"""
    reason: str
    """Why it is in use, or how it was compiled"""


def in_use(device: torch.device) -> list[InUse]:
    """The implementation in use for every operation on a device. Compiles those not compiled yet (seconds)."""
    return [_in_use(operation, device) for operation in OPERATIONS]


def _in_use(operation: str, device: torch.device) -> InUse:
    module = IMPLEMENTATIONS.get(device.type, {}).get(operation)
    if module is None:
        return InUse(operation, "torch", f"the only implementation on a {device.type.upper()}")
    if operation in _left_out:
        return InUse(operation, "torch", "left out by the caller")
    if fault := module.unavailable(device):
        return InUse(operation, "torch", fault)
    compiled = cpu if device.type == "cpu" else cuda
    return InUse(operation, NAMES[device.type], compiled.described(device))


def kernels_for(device: torch.device) -> str:
    """Name of the implementations in use on this device, for the tags of a run: native, torch, cuda or cuda+torch.

    Results computed by different ones differ in the last bits.
    """
    compiled = [_in_use(operation, device).implementation != "torch" for operation in ("scan", "select")]
    if device.type == "cpu":
        return "native" if all(compiled) else "torch"
    return "cuda" if all(compiled) else "cuda+torch" if any(compiled) else "torch"


def fingerprint(device: torch.device) -> str:
    """A digest of what the bits of a result depend on, equal on machines that compute the same bits.

    It covers the implementation of every operation and the processor; the bytes of the library, if native code is used;
    on a GPU its name, capability and memory and the version of CUDA. It does not cover sources or torch's version.
    """
    return _fingerprint(device, tuple((row.operation, row.implementation) for row in in_use(device)))


@cache
def _fingerprint(device: torch.device, implementations: tuple[tuple[str, str], ...]) -> str:
    parts = [device.type, repr(implementations), processor()]
    if any(name == NAMES["cpu"] for _, name in implementations):
        parts.append(cpu.digest())
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        parts.append(repr((gpu.name, gpu.major, gpu.minor, gpu.total_memory, torch.version.cuda)))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

"""A pool of memory for large temporary tensors."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNMENT = 64
"""Alignment of a tensor in bytes, the size of the largest vector registers"""


class Buffers:
    """Blocks of memory that are reused once their tensor is deleted. torch's allocator would grow the heap instead."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def take(self, n_bytes: int) -> Tensor:
        """An uninitialised tensor (n_bytes,) uint8."""
        with self._lock:
            at = next((i for i, block in enumerate(self._free) if len(block) >= n_bytes + ALIGNMENT), None)
            if at is None:
                self._free.clear()  # all are too small
            memory = np.empty(n_bytes + ALIGNMENT, np.uint8) if at is None else self._free.pop(at)
        start = -memory.ctypes.data % ALIGNMENT
        lease = memory[start : start + n_bytes]
        weakref.finalize(lease, self._free.append, memory).atexit = False
        return torch.from_numpy(lease)  # keeps a reference to the lease

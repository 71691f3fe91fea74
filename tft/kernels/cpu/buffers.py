"""Large tensors whose memory is used again when they are gone."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNMENT = 64
"""Bytes, those of the largest vector of a CPU."""


class Buffers:
    """torch's own allocator would let the heap grow by several of them until one fits."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def take(self, n_bytes: int) -> Tensor:
        """(n_bytes,) uint8, not initialised."""
        with self._lock:
            at = next((i for i, one in enumerate(self._free) if len(one) >= n_bytes + ALIGNMENT), None)
            if at is None:
                self._free.clear()  # too small for what is wanted now
            memory = np.empty(n_bytes + ALIGNMENT, np.uint8) if at is None else self._free.pop(at)
        start = -memory.ctypes.data % ALIGNMENT
        lease = memory[start : start + n_bytes]
        weakref.finalize(lease, self._free.append, memory).atexit = False
        return torch.from_numpy(lease)  # which holds the lease

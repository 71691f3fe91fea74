"""The model's inner loops as native code for a CPU: native.cpp, compiled where it is first needed.

LSTM scan, variable selection, dropout, gated norm and Adam. Each call uses one core, some of them also those that are
lent (cores.py), and lets other Python threads run. Without a C++ compiler there are no kernels, and the caller goes on
with torch.

Shapes: K stacked folds, L look-back bars, W windows, V variables, N cells, H hidden width, R rows of width D.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tft.kernels.noise import Mask
from tft.runtime.cores import share

SOURCE = Path(__file__).with_name("native.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    "-std=c++17",
    "-O3",
    "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native",
    # a * b + c in one instruction, and no care for errno and for traps, which nobody reads. Not -ffast-math: it would
    # reorder sums, cancel the rounding inside the exponential, and lose the NaN of a training that diverges.
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
)
SUFFIX = {torch.float32: "float32", torch.float64: "float64"}
KEPT_BYTES = 2**27
"""At most, of what a selection keeps for its backward; the rest is computed again."""
BLOCK = 64
"""Cells that native.cpp takes at a time."""
LARGEST_VECTOR_BYTES = 64
"""Of native.cpp, which rounds a width up to whole vectors."""

_found: list[Kernels | None] = []  # empty until the first call
_lock = threading.Lock()


def kernels() -> Kernels | None:
    """The kernels, compiled at the first call on a machine (seconds); None where that fails or if TFT_NATIVE=0."""
    if os.environ.get("TFT_NATIVE") == "0":
        return None
    with _lock:
        if not _found:
            try:
                _found.append(Kernels(_compiled()))
            except (OSError, subprocess.SubprocessError) as error:
                _found.append(None)
                warnings.warn(f"no native CPU kernels, torch takes about twice as long: {error}", stacklevel=2)
        return _found[0]


class Buffers:
    """Large tensors whose memory is used again when they are gone: torch's allocator would let the heap grow by several
    of them until one fits.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def take(self, n_bytes: int) -> Tensor:
        """(n_bytes,) uint8, not initialised."""
        with _lock:
            at = next((i for i, one in enumerate(self._free) if len(one) >= n_bytes + LARGEST_VECTOR_BYTES), None)
            if at is None:
                self._free.clear()  # too small for what is wanted now
            memory = np.empty(n_bytes + LARGEST_VECTOR_BYTES, np.uint8) if at is None else self._free.pop(at)
        start = -memory.ctypes.data % LARGEST_VECTOR_BYTES
        lease = memory[start : start + n_bytes]
        weakref.finalize(lease, self._free.append, memory).atexit = False
        return torch.from_numpy(lease)  # which holds the lease


class Kernels:
    """Tensors are float32 or float64 and on the CPU; those of a call have one dtype."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))  # a CDLL releases the interpreter's lock during a call
        self._buffers = Buffers()

    def adam(self, gradient: Tensor, of_folds: Tensor, weights: Tensor, mean: Tensor, square: Tensor) -> None:
        """One update of weights and moments (K, P) in place; of_folds (K, 5) as adam.py lays it out."""
        assert weights.shape == mean.shape == square.shape == gradient.shape and of_folds.shape == (len(weights), 5)
        assert all(t.is_contiguous() for t in (weights, mean, square))
        self._call("adam", (gradient, of_folds), (weights, mean, square), weights.shape)

    def scan_forward(
        self, gates: Tensor, windows: Tensor | None, weight: Tensor, hidden: Tensor, cell: Tensor, *, keep: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """gates (L, W, 4H), or (N, 4H) of which windows (W, L) are rows · weight (H, 4H) · hidden, cell (W, H) initial
        states, or all with a leading K -> states (L, W, H), and to `keep` for the backward cells (L, W, H) and the
        gates (L, W, 4H) after their nonlinearities.
        """
        n_steps = gates.shape[-3] if windows is None else windows.shape[-1]
        states = gates.new_empty(*hidden.shape[:-2], n_steps, *hidden.shape[-2:])
        cells, active = (torch.empty_like(states), states.new_empty(_gates_of(states))) if keep else (None, None)
        outputs, sizes = (states, cells, active), _scan_sizes(states, gates.shape)
        self._scan("scan_forward", (gates, weight, hidden, cell), outputs, sizes, windows)
        return states, cells, active

    def scan_backward(
        self,
        d_states: Tensor,
        windows: Tensor | None,
        weight: Tensor,
        hidden: Tensor,
        cell: Tensor,
        states: Tensor,
        cells: Tensor,
        active: Tensor,
        n_rows: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From d_states (L, W, H) and what scan_forward took and gave -> gradients of gates, weight and initial states.

        n_rows: N, with windows.
        """
        if windows is None:
            d_gates = torch.empty_like(active)
        else:
            d_gates = active.new_zeros(*active.shape[:-3], n_rows, active.shape[-1])
        d_weight, d_hidden, d_cell = (t.new_empty(t.shape) for t in (weight, hidden, cell))
        outputs = d_gates, d_weight, d_hidden, d_cell
        inputs, sizes = (d_states, weight, hidden, cell, states, cells, active), _scan_sizes(states, d_gates.shape)
        self._scan("scan_backward", inputs, outputs, sizes, windows)
        return outputs

    def _scan(
        self,
        name: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor | None],
        sizes: Sequence[int],
        windows: Tensor | None,
    ) -> None:
        rows = None if windows is None else windows.contiguous()
        assert rows is None or rows.dtype == torch.int64
        address = None if rows is None else ctypes.c_void_p(rows.data_ptr())
        self._call(name, inputs, outputs, sizes, address)

    def drop(self, x: Tensor, mask: Mask) -> Tensor:
        """x (K, N), of which `mask` drops elements."""
        dropped, of_folds = x.new_empty(x.shape), _of_folds(mask, len(x))
        self._call("drop_folds", (x,), (dropped,), x.shape, _pointers(of_folds))
        return dropped

    def gated_norm_forward(self, skip: Tensor, gated: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """skip (K, R, D) · gated (K, R, 2D) · weight, bias of K times D -> the normalised rows (K, R, D)."""
        normed = skip.new_empty(skip.shape)
        self._call("gated_norm_forward", (skip, gated, weight, bias), (normed,), skip.shape)
        return normed

    def gated_norm_backward(
        self, d_normed: Tensor, skip: Tensor, gated: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From d_normed (K, R, D) and what gated_norm_forward took -> gradients of it, that of the bias last."""
        out = tuple(t.new_empty(t.shape) for t in (skip, gated, weight, weight))
        self._call("gated_norm_backward", (d_normed, skip, gated, weight), out, skip.shape)
        d_skip, d_gated, d_weight, d_bias = out
        return d_skip, d_gated, d_weight, d_bias

    def select_forward(
        self, x: Tensor, weights: Tensor, grns: Sequence[Tensor], mask: Mask | None, *, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """x, weights (K, V, N) · grns, the fields of VariableGRNs (K, V, ...) · mask of rows V * N -> (K, N, H), and to
        `keep` for the backward what the first of the variables went through, as many as KEPT_BYTES hold.
        """
        n_folds, n_variables, n_cells = x.shape
        h, size = grns[0].shape[-1], x.element_size()
        line = LARGEST_VECTOR_BYTES // size
        of_variable = n_cells * 3 * -(-h // line) * line
        n_kept = min(n_variables, KEPT_BYTES // (n_folds * of_variable * size)) if keep else 0
        shape = (n_folds, n_kept, of_variable)
        kept = self._buffers.take(math.prod(shape) * size).view(x.dtype).view(shape) if n_kept else None
        selected = x.new_empty(n_folds, n_cells, h)
        # No cell depends on another.
        self._select("select_forward", (x, weights, *grns), (selected,), mask, kept, n_cells, multiple=BLOCK)
        return selected, kept

    def select_backward(
        self,
        d_selected: Tensor,
        x: Tensor,
        weights: Tensor,
        grns: Sequence[Tensor],
        mask: Mask | None,
        kept: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """From d_selected (K, N, H) and what select_forward took and kept -> gradients of weights and of grns: the
        same, however much was kept.
        """
        d_weights, *d_grns = (t.new_empty(t.shape) for t in (weights, *grns))
        inputs = (d_selected, x, weights, *grns)
        # No variable depends on another.
        self._select("select_backward", inputs, (d_weights, *d_grns), mask, kept, x.shape[1], multiple=1)
        return d_weights, d_grns

    def _select(
        self,
        name: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        mask: Mask | None,
        kept: Tensor | None,
        n: int,
        *,
        multiple: int,
    ) -> None:
        """n: of what can be shared out."""
        x, constant = inputs[-12], inputs[-10]
        inputs = [t.contiguous() for t in inputs]
        sizes = (*x.shape, constant.shape[-1], 0 if kept is None else kept.shape[1])
        of_folds = [] if mask is None else _of_folds(mask, len(x))
        memory = None if kept is None else ctypes.c_void_p(kept.data_ptr())
        drawn = _pointers(of_folds) if of_folds else None
        share(n, lambda *part: self._call(name, inputs, outputs, (*sizes, *part), drawn, memory), multiple=multiple)

    def _call(
        self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor | None], sizes: Sequence[int], *rest: object
    ) -> None:
        dtype = inputs[0].dtype
        assert all(t is None or (t.dtype == dtype and t.device.type == "cpu") for t in (*inputs, *outputs))
        inputs = [t.contiguous() for t in inputs]  # held until the call is over
        function = getattr(self._library, f"{name}_{SUFFIX[dtype]}")  # which, unlike an index, keeps what it found
        function.restype = None
        function(_pointers(inputs), _pointers(outputs), (ctypes.c_int64 * len(sizes))(*sizes), *rest)


def _scan_sizes(states: Tensor, gates: Sequence[int]) -> tuple[int, ...]:
    """K, L, W, H and the rows of a fold's gates."""
    assert states.numel() > 0
    n_folds = states.shape[:-3].numel()
    return n_folds, *states.shape[-3:], math.prod(gates[:-1]) // n_folds


def _gates_of(states: Tensor) -> tuple[int, ...]:
    return *states.shape[:-1], 4 * states.shape[-1]


def _of_folds(mask: Mask, n_folds: int) -> list[Tensor]:
    """Seeds, thresholds and scales as native.cpp reads them."""
    dtypes = (torch.int64, torch.int64, torch.float64)
    of_folds = [t.to(dtype).contiguous() for t, dtype in zip(mask, dtypes, strict=True)]
    assert all(t.shape == (n_folds,) for t in of_folds)
    return of_folds


def _pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


def _compiled() -> Path:
    """The library for this source and this processor, from the user's cache or built into it.

    The name tells processors apart, for machines that share a home folder. A build takes its place in one step, so
    that two at the same time or one that is killed do no harm.
    """
    source = SOURCE.read_bytes()
    name = hashlib.sha256("\n".join([*FLAGS, _processor(), ""]).encode() + source).hexdigest()[:32]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tft-native"
    library = cache / f"{name}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            built = Path(folder) / library.name
            command = [*_compiler(), *FLAGS, str(SOURCE), "-o", str(built)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300, check=False)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["no message"]
                raise OSError(f"{command[0]}: {next((line for line in lines if 'error' in line), lines[0])}")
            built.replace(library)
    return library


def _compiler() -> list[str]:
    chosen = os.environ.get("CXX")
    commands = [shlex.split(chosen)] if chosen else [[name] for name in COMPILERS]
    for command in commands:
        if command and shutil.which(command[0]):
            return command
    raise OSError(f"no C++ compiler ({chosen or ', '.join(COMPILERS)})")


def _processor() -> str:
    """What -march=native depends on."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return str(platform.uname())
    told = ("vendor", "cpu family", "model", "stepping", "flags", "CPU", "Features")
    return "\n".join(line for line in first if line.startswith(told))

"""Compiling, loading and calling the native code: native.cpp, which includes all headers of this folder.

It is compiled on the machine that uses it, at the first call. A call uses one core and lets other Python threads run.
Without a C++ compiler the operations are computed by torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tft.kernels.constants import ADAM_EPSILON, NORM_EPSILON
from tft.kernels.dropout_mask import Mask
from tft.runtime.machine import processor

FOLDER = Path(__file__).parent
UNIT = FOLDER / "native.cpp"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    "-std=c++17",
    "-O3",
    "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native",
    # a * b + c in one instruction, and no errno and no floating-point traps, which are not used. Not -ffast-math: it
    # would reorder sums, optimise away the rounding inside the exponential, and lose the NaN of a diverging training.
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
    f"-DADAM_EPSILON={ADAM_EPSILON}",
    f"-DNORM_EPSILON={NORM_EPSILON}",
)
SUFFIX = {torch.float32: "float32", torch.float64: "float64"}
SWITCH = "TFT_NATIVE"
"""Environment variable that disables native code if it is 0"""

_found: list[ctypes.CDLL | str] = []  # empty until the first call
_lock = threading.Lock()


def library() -> ctypes.CDLL | str:
    """The loaded library, or the reason why there is none. The first call on a machine compiles it (seconds)."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0"
    with _lock:
        if not _found:
            try:
                # A CDLL releases the interpreter's lock during a call.
                _found.append(ctypes.CDLL(str(_compiled())))
            except (OSError, subprocess.SubprocessError) as error:
                _found.append(str(error) or type(error).__name__)
        return _found[0]


def unavailable(device: torch.device | None = None) -> str | None:
    """Reason why native code cannot run; None if it can."""
    found = library()
    return found if isinstance(found, str) else None


def refuses(x: Tensor, *_: object) -> str | None:
    """Reason why native code does not take this tensor; None if it does. There is no limit on sizes."""
    return unavailable() or (None if x.dtype in SUFFIX else f"{x.dtype}, native code is float32 or float64")


def described(device: torch.device | None = None) -> str:
    """A description of the compiled code for the user."""
    found = library()
    assert isinstance(found, ctypes.CDLL)
    return f"compiled for vectors of {found.vector_bytes()} bytes"


def digest() -> str:
    """SHA-256 of the loaded library, equal for equal sources, compiler and processor."""
    found = library()
    assert isinstance(found, ctypes.CDLL)
    return _digest(found._name)


@cache
def _digest(library: str) -> str:
    return hashlib.sha256(Path(library).read_bytes()).hexdigest()


def call(
    name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor | None], sizes: Sequence[int], *rest: object
) -> None:
    """Call the function `name` of native.cpp, which writes to `outputs`.

    All tensors are on the CPU and have the same dtype. Inputs are made contiguous; `rest` are further C arguments.
    """
    dtype = inputs[0].dtype
    assert all(t is None or (t.dtype == dtype and t.device.type == "cpu") for t in (*inputs, *outputs))
    inputs = [t.contiguous() for t in inputs]  # referenced until the call returns
    function = getattr(library(), f"{name}_{SUFFIX[dtype]}")  # cached by ctypes, unlike an index
    function.restype = None
    function(pointers(inputs), pointers(outputs), (ctypes.c_int64 * len(sizes))(*sizes), *rest)


def pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """A C array of the tensors' addresses, null for None."""
    return (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


def mask_tensors(mask: Mask, n_folds: int) -> list[Tensor]:
    """Seeds, thresholds and scales (K,) in the dtypes that dropout.h reads."""
    dtypes = (torch.int64, torch.int64, torch.float64)
    tensors = [t.to(dtype).contiguous() for t, dtype in zip(mask, dtypes, strict=True)]
    assert all(t.shape == (n_folds,) for t in tensors)
    return tensors


def _compiled() -> Path:
    """Path of the library for these sources, flags and processor in the user's cache; compiles it if it is missing.

    The processor is part of the file name because machines may share a home folder. A compiled library is moved into
    the cache by a rename, so that concurrent or killed builds do no harm. Raises OSError if compilation fails.
    """
    name = hashlib.sha256("\n".join([*FLAGS, processor(), ""]).encode() + _sources()).hexdigest()[:32]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tft-native"
    library = cache / f"{name}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            built = Path(folder) / library.name
            command = [*_compiler(), *FLAGS, str(UNIT), "-o", str(built)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300, check=False)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["no message"]
                raise OSError(f"{command[0]}: {next((line for line in lines if 'error' in line), lines[0])}")
            built.replace(library)
    return library


def _sources() -> bytes:
    """Content of native.cpp and of every header, each with its name and length."""
    parts = [(path.name, path.read_bytes()) for path in (UNIT, *sorted(FOLDER.glob("*.h")))]
    return b"".join(f"{name} {len(text)}\n".encode() + text for name, text in parts)


def _compiler() -> list[str]:
    """Command of the C++ compiler: $CXX, or the first of COMPILERS that is installed. Raises OSError without one."""
    chosen = os.environ.get("CXX")
    commands = [shlex.split(chosen)] if chosen else [[name] for name in COMPILERS]
    for command in commands:
        if command and shutil.which(command[0]):
            return command
    raise OSError(f"no C++ compiler ({chosen or ', '.join(COMPILERS)})")

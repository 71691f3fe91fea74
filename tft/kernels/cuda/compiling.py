"""Compiling CUDA C++ by NVRTC, which comes with torch, and launching the kernels on torch's current stream."""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

MAX_DYNAMIC_SHARED_MEMORY = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES of cuda.h."""
Argument = Tensor | None | int | ctypes.Structure


class Kernel:
    """A kernel of a loaded module. Its launches can be captured in a CUDA graph."""

    def __init__(self, module: ctypes.c_void_p, name: str, *, n_threads: int, shared_bytes: int) -> None:
        self.n_threads, self.shared_bytes = n_threads, shared_bytes
        self._function = ctypes.c_void_p()
        _check(_driver().cuModuleGetFunction(ctypes.byref(self._function), module, name.encode()), name)
        limit = (self._function, MAX_DYNAMIC_SHARED_MEMORY, shared_bytes)
        _check(_driver().cuFuncSetAttribute(*limit), f"{shared_bytes} bytes of shared memory")

    def __call__(self, grid: tuple[int, int, int], device: torch.device, *arguments: Argument) -> None:
        """Launch the kernel. Tensors are passed as pointers, None as null, integers as 32 bits. Raises OSError."""
        values = [_as_c(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        with torch.cuda.device(device):
            # A thread of autograd has no CUDA context before its first CUDA call.
            _check(_driver().cuCtxSetCurrent(_context(torch.cuda.current_device())), "its context")
            stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
            sizes = (*grid, self.n_threads, 1, 1, self.shared_bytes)
            _check(_driver().cuLaunchKernel(self._function, *sizes, stream, pointers, None), "a launch")


def kernels(
    source: Path, options: Sequence[str], device: torch.device, sizes: Mapping[str, tuple[int, int]], what: str
) -> list[Kernel] | str:
    """Compile and load the kernels of a source, or return the reason why that is not possible.

    `sizes` gives the threads of a block and the bytes of shared memory for each kernel name. Warns if compiling or
    loading fails; `what` names the operation in the warning.
    """
    if torch.version.cuda is None:
        return "torch is not built for CUDA"
    try:
        module = load(source, options, device)
        return [Kernel(module, name, n_threads=threads, shared_bytes=n) for name, (threads, n) in sizes.items()]
    except OSError as error:
        warnings.warn(f"no CUDA kernels for {what}, torch takes several times as long: {error}", stacklevel=2)
        return str(error) or type(error).__name__


def loaded(found: list[Kernel] | str) -> list[Kernel]:
    """The kernels themselves, for a caller whose `refuses` has found that they are available."""
    assert not isinstance(found, str), found
    return found


def reason(found: list[Kernel] | str) -> str | None:
    """The reason why there are no kernels; None if there are."""
    return found if isinstance(found, str) else None


def too_old(device: torch.device, least: tuple[int, int]) -> str | None:
    """Reason why a device cannot run kernels that need compute capability `least`; None if it can."""
    if torch.version.cuda is None:
        return "torch is not built for CUDA"
    capability = torch.cuda.get_device_capability(device)
    if capability >= least:
        return None
    return f"compute capability {capability[0]}.{capability[1]} is below {least[0]}.{least[1]}"


def described(device: torch.device) -> str:
    """A description of the compiled code for the user."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"compiled for sm_{major}{minor} with CUDA {torch.version.cuda}"


def laid_out(*tensors: Tensor) -> list[Tensor]:
    """Contiguous float32 tensors, as most kernels expect them."""
    assert all(tensor.dtype == torch.float32 for tensor in tensors)
    return [tensor.contiguous() for tensor in tensors]


def not_float32(x: Tensor) -> str | None:
    """Reason why the kernels do not take this tensor, if it is not float32 on a GPU; None otherwise."""
    if not x.is_cuda:
        return f"the tensor is on the {x.device.type}"
    return None if x.dtype == torch.float32 else f"{x.dtype}, the kernels are float32"


def pointers(tensors: Sequence[Tensor]) -> ctypes.Structure:
    """A C structure of pointers to the tensors."""
    structure: ctypes.Structure = _structure(len(tensors))(*(tensor.data_ptr() for tensor in tensors))
    return structure


def load(source: Path, options: Sequence[str], device: torch.device) -> ctypes.c_void_p:
    """Compile `source` for this device and load the module. Raises OSError if that fails."""
    with torch.cuda.device(device):
        torch.cuda.current_stream(device)  # creates the CUDA context
        module = ctypes.c_void_p()
        _check(_driver().cuModuleLoadData(ctypes.byref(module), _compiled(source, options, device)), source.name)
    return module


def _compiled(source: Path, options: Sequence[str], device: torch.device) -> bytes:
    compiler, program = _compiler(), ctypes.c_void_p()
    major, minor = torch.cuda.get_device_capability(device)
    flags = [f"--gpu-architecture=sm_{major}{minor}", "--std=c++17", f"--include-path={source.parent}", *options]
    text, name = source.read_bytes(), source.name.encode()
    _check(compiler.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None), "NVRTC")
    try:
        failed = compiler.nvrtcCompileProgram(
            program, len(flags), (ctypes.c_char_p * len(flags))(*map(str.encode, flags))
        )
        if failed:
            lines = _text(compiler.nvrtcGetProgramLogSize, compiler.nvrtcGetProgramLog, program).decode().splitlines()
            raise OSError(next((line for line in lines if "error" in line), f"NVRTC says {failed}"))
        return _text(compiler.nvrtcGetCUBINSize, compiler.nvrtcGetCUBIN, program)
    finally:
        compiler.nvrtcDestroyProgram(ctypes.byref(program))


def _text(size: ctypes._NamedFuncPointer, read: ctypes._NamedFuncPointer, program: ctypes.c_void_p) -> bytes:
    n = ctypes.c_size_t()
    _check(size(program, ctypes.byref(n)), "NVRTC")
    memory = ctypes.create_string_buffer(n.value)
    _check(read(program, memory), "NVRTC")
    return memory.raw


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


@cache
def _context(device: int) -> ctypes.c_void_p:
    """The primary CUDA context of a device, which torch uses."""
    context = ctypes.c_void_p()
    _check(_driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "the context of a device")
    return context


@cache
def _compiler() -> ctypes.CDLL:
    """NVRTC of the CUDA version that torch was built for; its wheels include the library."""
    assert torch.version.cuda
    name = f"libnvrtc.so.{torch.version.cuda.split('.')[0]}"
    found = (library for folder in map(Path, sys.path) for library in folder.glob(f"nvidia/*/lib/{name}"))
    return ctypes.CDLL(str(next(found, name)))


@cache
def _structure(n: int) -> type[ctypes.Structure]:
    return type("Pointers", (ctypes.Structure,), {"_fields_": [(f"at{i}", ctypes.c_void_p) for i in range(n)]})


def _as_c(argument: Argument) -> ctypes._CData:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_int(argument)
    return ctypes.c_void_p() if argument is None else argument


def _check(code: int, what: str) -> None:
    if code:
        raise OSError(f"CUDA error {code} at {what}")

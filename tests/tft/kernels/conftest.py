"""Implementations of operations, as tests take them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tft.kernels import implementation
from tft.kernels.cpu import compiling


@pytest.fixture(params=["native", "torch"])
def on_cpu(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each implementation on the CPU: native code, if it can be built, and the reference in torch."""
    if request.param == "torch":
        with implementation.without(*implementation.OPERATIONS):
            yield "torch"
        return
    if fault := compiling.unavailable():
        pytest.skip(f"no native code: {fault}")
    yield "native"


@pytest.fixture
def native() -> None:
    """For tests of native code alone."""
    if fault := compiling.unavailable():
        pytest.skip(f"no native code: {fault}")


@pytest.fixture
def gpu() -> torch.device:
    """For tests of CUDA kernels alone: a GPU on which all of them run."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    device = torch.device("cuda")
    for operation, own in implementation.IMPLEMENTATIONS["cuda"].items():
        if fault := own.unavailable(device):
            pytest.skip(f"{operation}: {fault}")
    return device

"""CUDA graphs: a computation is captured once and replayed, so that thousands of kernels take one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Generator, Tensor

WARM_UP_RUNS = 3
"""Runs before capturing, in which libraries choose their algorithms and allocate their workspaces"""


Result = TypeVar("Result")


class Captured(Generic[Result]):
    """`function(*inputs)` captured as a CUDA graph. Inputs of all calls have the shapes of the first ones.

    The function may change tensors in place. Every call returns the same tensors, with new values.
    """

    def __init__(
        self,
        function: Callable[..., Result],
        inputs: Sequence[Tensor] = (),
        *,
        changed: Sequence[Tensor] = (),
        generator: Generator | None = None,
    ) -> None:
        """Capture `function`. `changed` lists all tensors that it changes in place; their values are restored.

        `generator` is the random generator that it draws from, which must be seeded again before the first call.
        """
        self.inputs = [tensor.clone() for tensor in inputs]
        before = [tensor.clone() for tensor in changed]
        self.graph = torch.cuda.CUDAGraph()
        if generator is not None:
            self.graph.register_generator_state(generator)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self.graph):
            self.result = function(*self.inputs)
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)

    def __call__(self, *inputs: Tensor) -> Result:
        for captured, given in zip(self.inputs, inputs, strict=True):
            captured.copy_(given)
        self.graph.replay()
        return self.result

"""A computation on a GPU recorded once and replayed: its thousands of launches cost the host one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Generator, Tensor

WARM_UP_RUNS = 3
"""Before recording: libraries choose their algorithms and allocate their workspaces in the first runs."""


Result = TypeVar("Result")


class Captured(Generic[Result]):
    """`function(*inputs)`, which may change tensors in place, as a CUDA graph. Shapes stay those of the first inputs.

    A call gives the tensors that the recorded one gave, with new values.
    """

    def __init__(
        self,
        function: Callable[..., Result],
        inputs: Sequence[Tensor] = (),
        *,
        changed: Sequence[Tensor] = (),
        generator: Generator | None = None,
    ) -> None:
        """changed: every tensor that `function` changes; they are as before when this returns. generator: the one it
        draws from, to be seeded anew before the first call.
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
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.result

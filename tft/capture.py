"""A computation on a GPU recorded once and replayed: its thousands of launches cost the host one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

WARM_UP_RUNS = 3
"""Before recording: libraries choose their algorithms and allocate their workspaces in the first runs."""


class Captured:
    """`function(*inputs)`, which changes tensors in place, as a CUDA graph. Shapes stay those of the first inputs."""

    def __init__(
        self,
        function: Callable[..., None],
        inputs: Sequence[Tensor],
        *,
        changed: Sequence[Tensor],
        generator: Generator,
    ) -> None:
        """changed: every tensor that `function` changes; they are as before when this returns. generator: the one it
        draws from, to be seeded anew before the first call.
        """
        self.inputs = [tensor.clone() for tensor in inputs]
        before = [tensor.clone() for tensor in changed]
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(generator)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self.graph):
            function(*self.inputs)
        for tensor, value in zip(changed, before, strict=True):
            tensor.copy_(value)

    def __call__(self, *inputs: Tensor) -> None:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()

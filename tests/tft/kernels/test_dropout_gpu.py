"""Dropout on a GPU: the elements that the hash of their seed and place says, forward, backward and in a graph."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor
from torch.func import vmap

from tft.kernels import dropout as module
from tft.kernels.dropout import drop, dropout
from tft.kernels.noise import Mask, Noise, random_seeds

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_gpu = pytest.mark.skipif(not module.takes(torch.zeros(1, device=DEVICE)), reason="no GPU that the kernel runs on")


def test_only_float32_is_taken() -> None:
    assert not module.takes(torch.zeros(1))
    assert not module.takes(torch.zeros(1, dtype=torch.float64, device=DEVICE))
    assert not module.takes(torch.zeros(0, device=DEVICE))


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_gpu_drops_what_the_cpu_drops(dtype: torch.dtype) -> None:
    """To the last bit, whatever the strides."""
    draws = Generator().manual_seed(6)
    mask = Mask(random_seeds(3, draws), *Noise.of(draws, [0.0, 0.3, 0.9])[1:])
    there = Mask(*(tensor.to(DEVICE) for tensor in mask))
    for shape in ((3, 1), (3, 1024), (3, 5, 2001), (3, 40, 33, 2)):
        x = torch.randn(shape, generator=draws, dtype=torch.float64).to(dtype)
        on_gpu = x.to(DEVICE)
        assert torch.equal(drop(on_gpu, there).cpu(), drop(x, mask))
        assert torch.equal(drop(on_gpu.transpose(1, -1), there).cpu(), drop(x.transpose(1, -1), mask))
        assert torch.equal(drop(torch.cat([on_gpu, on_gpu], dim=1)[:, : shape[1]], there).cpu(), drop(x, mask))
    assert drop(torch.full((3, 50), float("nan"), dtype=dtype, device=DEVICE), there).isnan().all()


@needs_gpu
def test_folds_draw_their_own_and_gradients_follow_in_a_graph_too() -> None:
    generator = Generator(DEVICE)
    noise = Noise.of(generator, [0.0, 0.2, 0.7])
    x = torch.randn(3, 100, 101, device=DEVICE, requires_grad=True)
    upstream = torch.randn(3, 100, 101, device=DEVICE)

    def step() -> tuple[Tensor, Tensor]:
        of_folds = vmap(lambda x, *levels: dropout(x, Noise(generator, *levels)), randomness="different")
        dropped = of_folds(x, noise.threshold, noise.scale)
        return dropped.detach(), torch.autograd.grad(dropped, x, upstream)[0]

    def check(dropped: Tensor, gradient: Tensor) -> None:
        factor = dropped / x.detach()
        torch.testing.assert_close(gradient, upstream * factor)
        share = (factor == 0.0).double().mean(dim=(1, 2)).cpu()
        torch.testing.assert_close(share, torch.tensor([0.0, 0.2, 0.7], dtype=torch.float64), rtol=0.0, atol=0.025)
        torch.testing.assert_close(
            factor.amax(dim=(1, 2)).cpu(), torch.tensor([1.0, 1 / 0.8, 1 / 0.3]), rtol=1e-4, atol=0.0
        )

    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        check(*step())
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        captured = step()
    seen = []
    for seed in (1, 2, 1):
        generator.manual_seed(seed)
        graph.replay()
        check(*captured)
        seen.append(captured[0].clone())
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])
    generator.manual_seed(1)
    assert torch.equal(step()[0], seen[0])

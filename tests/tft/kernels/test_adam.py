"""The optimiser step of a stack of folds, against torch's own Adam and a plain loop; native code and the reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tft.kernels.adam import LARGEST_AVERAGING, adam


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_it_is_torchs_adam_and_a_masked_fold_keeps_everything(weight_decay: float) -> None:
    """With decoupled decay it is torch's AdamW: weights, moments, average and step count."""
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(2, 40, generator=rng)
    masked_steps, clip = {1, 2, 5}, torch.tensor([[0.25], [4.0]])
    flat, averaged, count = start.clone(), start.clone(), torch.zeros(2, 1)
    first, second = torch.zeros(2, 40), torch.zeros(2, 40)
    references = [torch.nn.Parameter(start[k].clone()) for k in range(2)]
    means = [start[k].double() for k in range(2)]
    updates = [0, 0]
    lr = torch.tensor([[0.01], [0.002]])
    optimisers = [
        torch.optim.AdamW([one], lr=rate, weight_decay=weight_decay)
        for one, (rate,) in zip(references, lr.tolist(), strict=True)
    ]
    decay = torch.full((40,), weight_decay) if weight_decay else None
    for step in range(12):
        gradient = torch.randn(2, 40, generator=rng) * 10.0 ** (step % 3)
        update = torch.tensor([[1.0], [0.0 if step in masked_steps else 1.0]])
        before = [value[1].clone() for value in (flat, averaged, first, second, count)]
        adam(flat, averaged, gradient / clip, first, second, count, clip, update, lr, decay)
        for k in range(2):
            if update[k]:
                references[k].grad = gradient[k].clone()
                optimisers[k].step()
                updates[k] += 1
                kept = min((1 + updates[k]) / (10 + updates[k]), LARGEST_AVERAGING)
                means[k] = kept * means[k] + (1.0 - kept) * references[k].detach().double()
            assert torch.allclose(flat[k], references[k].detach(), rtol=0.0, atol=4e-6)
            assert torch.allclose(averaged[k].double(), means[k], rtol=0.0, atol=4e-6)
        if step in masked_steps:
            after = (flat, averaged, first, second, count)
            assert all(torch.equal(a, b[1]) for a, b in zip(before, after, strict=True))
    assert count.flatten().tolist() == updates == [12, 9]


def by_loop(
    start: list[float], gradients: list[list[float]], *, lr: float, clip: float, decay: list[float]
) -> tuple[list[float], list[float]]:
    """Weights and their average after all steps, weight by weight, in plain Python."""
    weights, averages = [], []
    for i, weight in enumerate(start):
        average, mean, square = weight, 0.0, 0.0
        for n, gradient in enumerate(gradients, start=1):
            slope = gradient[i] * clip if math.isfinite(gradient[i]) else 0.0
            mean = 0.9 * mean + 0.1 * slope
            square = 0.999 * square + 0.001 * slope**2
            weight *= 1.0 - lr * decay[i]
            weight -= lr * (mean / (1.0 - 0.9**n)) / (math.sqrt(square / (1.0 - 0.999**n)) + 1e-8)
            keep = min((1 + n) / (10 + n), 0.99)
            average = keep * average + (1.0 - keep) * weight
        weights.append(weight)
        averages.append(average)
    return weights, averages


@pytest.mark.usefixtures("on_cpu")
def test_it_equals_a_plain_loop_over_weights_that_decay_differently() -> None:
    """In float64, to rounding, for more steps than the 890 after which the average remembers no longer."""
    rng = torch.Generator().manual_seed(1)
    n_steps, n = 1000, 7
    start = torch.randn(1, n, generator=rng, dtype=torch.float64)
    gradients = torch.randn(n_steps, 1, n, generator=rng, dtype=torch.float64)
    gradients[3, 0, 2] = torch.nan
    decay = torch.linspace(0.0, 3.0, n, dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    flat, averaged, first, second, count = start.clone(), start.clone(), *torch.zeros(2, 1, n).double(), 0.0 * one
    for gradient in gradients:
        adam(flat, averaged, gradient, first, second, count, 0.3 * one, one, 0.01 * one, decay)
    expected = by_loop(start[0].tolist(), gradients[:, 0].tolist(), lr=0.01, clip=0.3, decay=decay.tolist())
    for ours, theirs in zip((flat, averaged), expected, strict=True):
        torch.testing.assert_close(ours[0], torch.tensor(theirs, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    assert LARGEST_AVERAGING == 0.99


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("lost", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_counts_as_nothing_and_a_masked_fold_does_not_see_it(
    lost: float, dtype: torch.dtype
) -> None:
    """An element as if its gradient were 0; a fold that is not updated keeps everything to the last bit."""
    rng = torch.Generator().manual_seed(0)
    start, averaged, gradient = (torch.randn(2, 77, generator=rng, dtype=dtype) for _ in range(3))
    decay = torch.rand(77, generator=rng, dtype=dtype)
    update, clip, lr = (torch.tensor(rows, dtype=dtype) for rows in ([[1.0], [0.0]], [[0.3], [1.0]], [[0.01], [0.1]]))

    def run(own: Tensor) -> list[Tensor]:
        state = [start.clone(), averaged.clone(), *(torch.full((2, 77), value, dtype=dtype) for value in (0.1, 0.2))]
        count = torch.full((2, 1), 3.0, dtype=dtype)
        adam(state[0], state[1], own, state[2], state[3], count, clip, update, lr, decay)
        return [*state, count]

    spoiled, nothing = gradient.clone(), gradient.clone()
    spoiled[0, 5], spoiled[1], nothing[0, 5] = lost, lost, 0.0
    for ours, expected in zip(run(spoiled), run(nothing), strict=True):
        assert torch.equal(ours, expected)
    moments = (torch.full((77,), value, dtype=dtype) for value in (0.1, 0.2))
    kept = [start[1], averaged[1], *moments, torch.tensor([3.0], dtype=dtype)]
    for ours, before in zip(run(spoiled), kept, strict=True):
        assert torch.equal(ours[1], before)

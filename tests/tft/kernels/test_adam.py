"""Adam on a stack of folds, against torch's own; with native code and with the reference in torch."""

from __future__ import annotations

import pytest
import torch

from tft.kernels.adam import adam


@pytest.mark.usefixtures("on_cpu")
def test_adam_is_adam_and_a_masked_fold_keeps_weights_moments_and_count() -> None:
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(2, 40, generator=rng)
    masked_steps, clip = {1, 2, 5}, torch.tensor([[0.25], [4.0]])
    flat, first, second, count = start.clone(), torch.zeros(2, 40), torch.zeros(2, 40), torch.zeros(2, 1)
    references = [torch.nn.Parameter(start[k].clone()) for k in range(2)]
    lr = torch.tensor([[0.01], [0.002]])
    optimisers = [torch.optim.Adam([one], lr=rate) for one, (rate,) in zip(references, lr.tolist(), strict=True)]
    for step in range(12):
        gradient = torch.randn(2, 40, generator=rng) * 10.0 ** (step % 3)
        update = torch.tensor([[1.0], [0.0 if step in masked_steps else 1.0]])
        before = [value[1].clone() for value in (flat, first, second, count)]
        adam(flat, gradient / clip, first, second, count, clip, update, lr)
        for k in range(2):
            if update[k]:
                references[k].grad = gradient[k].clone()
                optimisers[k].step()
            assert torch.allclose(flat[k], references[k].detach(), rtol=0.0, atol=1e-6)
        if step in masked_steps:
            assert all(torch.equal(a, b[1]) for a, b in zip(before, (flat, first, second, count), strict=True))
    assert count.flatten().tolist() == [12, 9]


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("lost", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_counts_as_nothing_and_a_masked_fold_does_not_see_it(
    lost: float, dtype: torch.dtype
) -> None:
    """An element as if its gradient were 0; a fold that is not updated keeps everything to the last bit."""
    rng = torch.Generator().manual_seed(0)
    start, gradient = (torch.randn(2, 77, generator=rng, dtype=dtype) for _ in range(2))
    update, clip, lr = (torch.tensor(rows, dtype=dtype) for rows in ([[1.0], [0.0]], [[0.3], [1.0]], [[0.01], [0.1]]))

    def run(own: torch.Tensor) -> list[torch.Tensor]:
        state = [start.clone(), *(torch.full((2, 77), value, dtype=dtype) for value in (0.1, 0.2))]
        count = torch.full((2, 1), 3.0, dtype=dtype)
        adam(state[0], own, state[1], state[2], count, clip, update, lr)
        return [*state, count]

    spoiled, nothing = gradient.clone(), gradient.clone()
    spoiled[0, 5], spoiled[1], nothing[0, 5] = lost, lost, 0.0
    for ours, expected in zip(run(spoiled), run(nothing), strict=True):
        assert torch.equal(ours, expected)
    kept = [start[1], torch.full((77,), 0.1, dtype=dtype), torch.full((77,), 0.2, dtype=dtype)]
    for ours, before in zip(run(spoiled), [*kept, torch.tensor([3.0], dtype=dtype)], strict=True):
        assert torch.equal(ours[1], before)

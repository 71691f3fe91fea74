"""Adam on a stack of folds, against torch's own."""

from __future__ import annotations

import pytest
import torch

from tft.kernels import adam as module
from tft.kernels.adam import adam
from tft.kernels.cpu import native

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_gpu = pytest.mark.skipif(DEVICE.type == "cpu" or module._kernel(DEVICE) is None, reason="no GPU with kernels")


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


@needs_gpu
def test_the_kernel_does_what_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several steps, with gradients that are not finite, a fold that is not updated, sizes that fill no block."""
    draws = torch.Generator().manual_seed(0)
    shape = (3, 2 * module.N_THREADS * module.EACH + 77)
    lr, clip = torch.tensor([[0.01], [0.002], [0.1]]), torch.tensor([[1.0], [0.3], [0.01]])
    start = torch.randn(shape, generator=draws)
    gradients = [torch.randn(shape, generator=draws) for _ in range(4)]
    gradients[2][0, 5], gradients[2][1, 6] = float("nan"), float("inf")
    updates = [torch.tensor([[1.0], [1.0], [float(step % 2)]]) for step in range(4)]

    def run() -> list[torch.Tensor]:
        state = [start.to(DEVICE).clone(), *(torch.zeros(shape, device=DEVICE) for _ in range(2))]
        count = torch.zeros(3, 1, device=DEVICE)
        for gradient, update in zip(gradients, updates, strict=True):
            own = (gradient.to(DEVICE), *state[1:], count, clip.to(DEVICE), update.to(DEVICE), lr.to(DEVICE))
            adam(state[0], *own)
        return [*state, count]

    by_kernel = run()
    monkeypatch.setattr(module, "_kernel", lambda device: None)
    for ours, theirs in zip(by_kernel, run(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("n_parameters", [1, 77, 2 * module.CPU_CHUNK + 13])
def test_native_code_does_what_torch_does(
    n_parameters: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several steps, with gradients that are not finite and a fold that is not updated, whatever its gradient."""
    if native.kernels() is None:
        pytest.skip("no native kernels")
    draws = torch.Generator().manual_seed(0)
    shape = (3, n_parameters)
    lr, clip = (torch.tensor(rows, dtype=dtype) for rows in ([[0.01], [0.002], [0.1]], [[1.0], [0.3], [0.01]]))
    start = torch.randn(shape, generator=draws, dtype=dtype)
    gradients = [torch.randn(shape, generator=draws, dtype=dtype) for _ in range(4)]
    gradients[2][0, -1], gradients[2][1, 0], gradients[2][2] = float("nan"), float("inf"), -float("inf")

    def run() -> list[torch.Tensor]:
        state = [start.clone(), *(torch.zeros(shape, dtype=dtype) for _ in range(2))]
        count = torch.zeros(3, 1, dtype=dtype)
        for step, gradient in enumerate(gradients):
            before = [value[2].clone() for value in (*state, count)]
            update = torch.tensor([[1.0], [1.0], [float(step % 2)]], dtype=dtype)
            adam(state[0], gradient, *state[1:], count, clip, update, lr)
            if not step % 2:
                assert all(torch.equal(a, b[2]) for a, b in zip(before, (*state, count), strict=True))
        return [*state, count]

    ours = run()
    assert all(torch.equal(a, b) for a, b in zip(ours, run(), strict=True))
    monkeypatch.setenv("TFT_NATIVE", "0")
    tolerance = {"rtol": 1e-5, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-14}
    for found, theirs in zip(ours, run(), strict=True):
        torch.testing.assert_close(found, theirs, **tolerance)

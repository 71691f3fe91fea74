"""The direct term: window means and pairs of the selected variables, against plain loops."""

from __future__ import annotations

import pytest
import torch

from tests.tft.test_model import N_ASSETS, N_VARIABLES, SMALL, gradients, loss_of, make_batch, make_model
from tft.direct_term import averages, scales
from tft.model import TemporalFusionTransformer


def test_the_direct_term_averages_over_powers_of_four_below_the_look_back_and_the_look_back() -> None:
    """Weights of a bar by its age, written out; each scale's sum to one."""
    assert [scales(length) for length in (2, 4, 5, 16, 17, 63)] == [
        (1, 2),
        (1, 4),
        (1, 4, 5),
        (1, 4, 16),
        (1, 4, 16, 17),
        (1, 4, 16, 63),
    ]
    found = averages(5, torch.zeros((), dtype=torch.float64))
    of_pairs = [0, 0, 0, 0, 1]
    assert found[:, :3].tolist() == [[0, 0, 0.2], [0, 0.25, 0.2], [0, 0.25, 0.2], [0, 0.25, 0.2], [1, 0.25, 0.2]]
    assert found[:, 3].tolist() == of_pairs


def test_the_direct_term_by_a_loop_and_in_the_first_output_alone() -> None:
    """What it adds to mu: coefficient of variable and scale times the mean of weight x number present x value, and of
    the target bar the product of each pair of these, times the product of their vectors.
    """
    model, batch = make_model(), make_batch()
    model.requires_grad_(False)
    model.windows.recalibration.fill_(1.0)
    with_term, cells = model(*batch.inputs())
    linear, pairs = model.cells.direct.linear.clone(), model.cells.direct.pairs.clone()
    model.cells.direct.linear.zero_()
    model.cells.direct.pairs.zero_()
    without, _ = model(*batch.inputs())
    n_present = batch.present.sum(dim=1)

    def chosen(row: int, v: int) -> float:
        return float(cells.weights[row, v] * n_present[row] * batch.x[row, v])

    for b in range(3):
        expected = 0.0
        for s, scale in enumerate((1, 4)):
            for row in batch.windows[b, -scale:].tolist():
                expected += sum(float(linear[v, s]) * chosen(row, v) / scale for v in range(N_VARIABLES))
        last = int(batch.windows[b, -1])
        for u in range(N_VARIABLES):
            for v in range(u + 1, N_VARIABLES):
                expected += float((pairs[u] * pairs[v]).sum()) * chosen(last, u) * chosen(last, v)
        added = with_term.distribution[b] - without.distribution[b]
        assert added[0].item() == pytest.approx(expected, rel=1e-9)
        assert added[1] == 0.0


def test_the_direct_term_starts_without_a_linear_part_and_learns() -> None:
    model = TemporalFusionTransformer(SMALL, n_variables=N_VARIABLES, n_assets=N_ASSETS, loss_mode="joint_mle").double()
    batch = make_batch()
    output, cells = model(*batch.inputs())
    assert (model.cells.direct.linear == 0.0).all() and (cells.direct[:, :-1] == 0.0).all()
    assert 0.0 < cells.direct[:, -1].abs().max() < 0.2
    found = gradients(loss_of(output, batch, "joint_mle"), dict(model.named_parameters()))
    assert (found["cells.direct.linear"] != 0.0).all() and (found["cells.direct.pairs"] != 0.0).any()

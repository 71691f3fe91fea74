"""The plain LSTM: what it sees, what it is trained on, and that it leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.statistics import position_lstm
from pipeline.statistics.position_lstm import PositionLSTM, fit_position_lstm
from tests.conftest import CPU, small_panel
from tft.folds import Fold
from tft.volatility import Timing, ewm_volatility, scaled_label

FOLD = Fold(0, range(5, 105), range(110, 130), range(133, 150))
PANEL = small_panel(150, 2, 3)
Y = scaled_label(PANEL.returns, ewm_volatility(PANEL.returns), Timing())


@pytest.fixture(autouse=True)
def _few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(position_lstm, "EPOCHS", 4)


def fitted(
    features: NDArray[np.float32] = PANEL.features,
    y: NDArray[np.float64] = Y,
    fold: Fold = FOLD,
    bars: range = FOLD.test,
    seed: int = 1,
) -> NDArray[np.float64]:
    return fit_position_lstm(features, y, fold, bars, seed=seed, device=CPU)[0]


def test_positions_of_every_bar_and_instrument_within_one() -> None:
    raw = fitted()
    assert raw.shape == (len(FOLD.test), 2)
    assert (np.abs(raw) < 1.0).all() and (raw != 0.0).all()


def test_the_same_seed_gives_the_same_positions_and_torch_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    first, state = fitted(), torch.get_rng_state()
    torch.rand(7)
    np.testing.assert_array_equal(fitted(), first)
    assert (fitted(seed=2) != first).all()
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("t", [135, 142])
def test_no_position_sees_a_later_bar(t: int) -> None:
    features, y = PANEL.features.copy(), Y.copy()
    features[t + 1 :] = 5.0
    y[FOLD.test.start :] = 3.0
    before, after = fitted(), fitted(features, y)
    upto = t + 1 - FOLD.test.start
    np.testing.assert_array_equal(before[:upto], after[:upto])
    assert (before[upto:] != after[upto:]).all()


def test_a_missing_value_and_a_bar_before_the_panel_count_as_the_mean() -> None:
    """A window that begins before the panel is one whose first bars hold the training mean."""
    features = PANEL.features.copy()
    filled = np.where(
        np.isnan(features), np.nanmean(features[FOLD.train.start : FOLD.train.stop], axis=(0, 1)), features
    )
    np.testing.assert_allclose(fitted(features), fitted(filled.astype(np.float32)), atol=0.02)
    early = fitted(bars=range(3))
    padded = np.concatenate([np.full((70, 2, 3), np.nan, dtype=np.float32), features])
    y = np.concatenate([np.full((70, 2), np.nan), Y])
    shifted = fitted(padded, y, FOLD.shifted(70), range(70, 73))
    np.testing.assert_allclose(early, shifted, rtol=1e-5)


def test_a_training_block_shorter_than_a_sequence_makes_shorter_sequences() -> None:
    assert np.isfinite(fitted(fold=Fold(0, range(60, 85), range(90, 110), FOLD.test))).all()


def test_training_is_on_the_sharpe_of_the_cells_with_a_label() -> None:
    """Mean over deviation, ddof 0, of two of three cells: 1 and 3 have a Sharpe of 2."""
    found = position_lstm._sharpe(torch.tensor([1.0, 3.0, 99.0]), torch.tensor([1.0, 1.0, 0.0]))
    assert float(found) == pytest.approx(2.0, rel=1e-6)
    assert float(position_lstm._sharpe(torch.tensor([4.0]), torch.tensor([0.0]))) == 0.0


def test_a_position_is_the_tanh_of_an_lstm() -> None:
    """Against the gates written out, Hochreiter & Schmidhuber 1997 with a forget gate, without dropout."""
    torch.manual_seed(3)
    network = PositionLSTM(2).eval()
    x = torch.randn(1, 5, 2)
    lstm = network.lstm
    h, c, expected = torch.zeros(20), torch.zeros(20), []
    for step in x[0]:
        gates = lstm.weight_ih_l0 @ step + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ h + lstm.bias_hh_l0
        i, f, g, o = gates.chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        expected.append(torch.tanh(network.head(h)))
    torch.testing.assert_close(network(x)[0], torch.cat(expected))

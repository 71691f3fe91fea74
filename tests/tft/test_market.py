"""What folds train on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import CPU, small_panel, small_recipe
from tft.market import Market, choose_device
from tft.scaling import Scaler
from tft.volatility import Timing, ewm_volatility


def test_labels_are_returns_over_the_volatility_known_at_the_decision() -> None:
    """Sigma is by default the volatility of the panel's returns; missing labels are 0 on the device."""
    panel = small_panel(60)
    own, given = Market(panel, Timing(), CPU), Market(panel, Timing(), CPU, sigma=np.full((60, 2), 0.02))
    np.testing.assert_array_equal(own.sigma, ewm_volatility(panel.returns))
    np.testing.assert_allclose(own.y[30:58], panel.returns[32:] / own.sigma[30:58], rtol=1e-12)
    np.testing.assert_allclose(given.y[:58], panel.returns[2:] / 0.02, rtol=1e-12)
    assert np.isnan(given.y[58:]).all()
    expected = np.where(np.isnan(given.y), 0.0, given.y).astype(np.float32).reshape(-1)
    np.testing.assert_array_equal(given.y_on_device.numpy(), expected)


def test_folds_that_can_use_the_same_columns_share_where_windows_may_lie() -> None:
    panel, model = small_panel(60), small_recipe().model
    market = Market(panel, Timing(), CPU)
    early, late = (Scaler.fit(panel.features[rows]) for rows in (slice(0, 30), slice(30, 60)))
    lacking = replace(late, std=np.where([True, False, True], late.std, np.nan).astype(np.float32))
    assert market.space(early, model) is market.space(late, model)
    assert market.space(lacking, model) is not market.space(late, model)
    assert market.space(late, replace(model, seq_len=5)) is not market.space(late, model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is available")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^device is 'cuda', but no GPU is available here: use auto or cpu$"):
        choose_device("cuda")
    assert choose_device("auto") == choose_device("cpu") == CPU

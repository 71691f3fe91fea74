"""A panel prepared for training and forecasting: on its device, with volatility, labels and window spaces.

Shapes: T bars, A instruments.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from tft.model import ModelConfig
from tft.panel import Panel
from tft.scaling import Scaler
from tft.volatility import Timing, ewm_volatility, scaled_label
from tft.windows import DevicePanel, WindowSpace


class Market:
    """A panel whose features are on the device and whose volatility and labels are computed, shared by all folds.

    `sigma` (T, A) is the volatility per bar that scales labels and positions; by default `ewm_volatility` of the
    panel's returns.
    """

    def __init__(
        self, panel: Panel, timing: Timing, device: torch.device, sigma: NDArray[np.float64] | None = None
    ) -> None:
        self.panel, self.timing, self.device = panel, timing, device
        self.sigma = ewm_volatility(panel.returns) if sigma is None else sigma  # (T, A)
        assert self.sigma.shape == panel.returns.shape
        self.y = scaled_label(panel.returns, self.sigma, timing)  # (T, A), NaN where there is no label
        self.on_device = DevicePanel(panel.features, device)
        self.y_on_device = torch.from_numpy(np.nan_to_num(self.y, nan=0.0).astype(np.float32).reshape(-1)).to(device)
        self._spaces: dict[tuple[bytes, int, int], WindowSpace] = {}

    def space(self, scaler: Scaler, config: ModelConfig) -> WindowSpace:
        """The window space of a fold with this scaler; folds with the same usable columns share one."""
        panel, usable = self.panel, np.isfinite(scaler.std)
        key = (usable.tobytes(), config.seq_len, config.n_context)
        if key not in self._spaces:  # nearly always the same for all folds
            self._spaces[key] = WindowSpace.from_features(
                panel.features, panel.times, panel.symbols, scaler, seq_len=config.seq_len, n_context=config.n_context
            )
        return self._spaces[key]


def choose_device(name: str) -> torch.device:
    """The torch device `name` (auto, cpu, cuda, cuda:N); `auto` is the GPU if there is one, else the CPU.

    Raises ValueError if this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but no GPU is available here: use auto or cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    n_gpus = torch.cuda.device_count()
    if device is None or device.type not in ("cpu", "cuda") or (device.index or 0) >= max(1, n_gpus):
        raise ValueError(
            f"device is {name!r}, which this machine does not have: use auto, cpu" + ", cuda" * (n_gpus > 0)
        )
    return device

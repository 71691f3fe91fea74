"""What folds train on: a panel on its device, with volatility, labels and the places where windows may lie.

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
    """A panel made ready for fitting and forecasting: on the device once, volatility and labels computed once.

    `sigma` (T, A) scales labels and positions; by default it is the volatility of the panel's own returns.
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
        """Where the windows of a fold with this scaler may lie; shared by folds that can use the same columns."""
        panel, usable = self.panel, np.isfinite(scaler.std)
        key = (usable.tobytes(), config.seq_len, config.n_context)
        if key not in self._spaces:  # nearly always the same for all folds
            self._spaces[key] = WindowSpace.from_features(
                panel.features, panel.times, panel.symbols, scaler, seq_len=config.seq_len, n_context=config.n_context
            )
        return self._spaces[key]


def choose_device(name: str) -> torch.device:
    """The device of this name; `auto` is the GPU if there is one. Raises ValueError where there is no such device."""
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
        raise ValueError(f"device is {name!r}, which is none here: use auto, cpu" + ", cuda" * (n_gpus > 0))
    return device

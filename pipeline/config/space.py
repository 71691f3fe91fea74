"""The search space of tuning: which parameters can be tuned, and the values a trial may give each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tft.head import LOSS_MODES

SECTION_OF = {
    "d_hidden": "model",
    "n_heads": "model",
    "lstm_layers": "model",
    "dropout": "model",
    "seq_len": "model",
    "n_context": "model",
    "lr": "training",
    "batch_size": "training",
    "mle_weight": "training",
    "loss_mode": "training",
    "max_position": "positions",
    "position_smooth": "positions",
}
"""The twelve parameters that can be tuned, and the section of the configuration that holds each."""
WHOLE_NUMBERS = {"d_hidden", "n_heads", "lstm_layers", "seq_len", "n_context", "batch_size"}
"""The tunable parameters that are whole numbers."""


@dataclass(frozen=True)
class Range:
    """The values of one tuned parameter: either `choices`, or all from `low` to `high`, both included."""

    choices: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    """Whether values are drawn evenly on a logarithmic scale."""
    step: float | None = None
    """Distance between neighbouring values, counted from `low`; null: every value in between."""

    def extremes(self) -> tuple[Any, ...]:
        """Values between which all others lie: the choices, or low and high."""
        return self.choices if self.choices is not None else (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether a trial can have this value. The range must be free of faults."""
        if self.choices is not None:
            return value in self.choices
        assert self.low is not None and self.high is not None
        on_grid = (
            self.step is None or abs((value - self.low) / self.step - round((value - self.low) / self.step)) < 1e-9
        )
        return bool(self.low <= value <= self.high and on_grid)

    def faults(self, name: str) -> list[str]:
        """One sentence for each fault of this range as the values of parameter `name`."""
        where = f"tuning.space.{name}"
        if name == "loss_mode" and self.choices is None:
            return [f"{where} needs choices: it is text"]
        if name in WHOLE_NUMBERS and any(
            value is not None and not float(value).is_integer() for value in (self.low, self.high, self.step)
        ):
            return [f"{where} needs a whole low, high and step"]
        if self.choices is not None:
            return self._faults_of_choices(name, self.choices)
        if self.low is None or self.high is None:
            return [f"{where} needs choices, or low and high"]
        if self.low > self.high:
            return [f"{where}.low ({self.low}) exceeds high ({self.high})"]
        if self.log and (self.low <= 0 or self.step is not None):
            return [f"{where} is on a log scale, which needs low > 0 and no step"]
        if self.step is not None and self.step <= 0:
            return [f"{where}.step is {self.step}, it must be positive"]
        return []

    def _faults_of_choices(self, name: str, choices: tuple[Any, ...]) -> list[str]:
        where = f"tuning.space.{name}"
        if self.low is not None or self.high is not None:
            return [f"{where} has both choices and low/high: give one of them"]
        if not choices:
            return [f"{where}.choices is empty: give at least one value"]
        kind = (str,) if name == "loss_mode" else (int,) if name in WHOLE_NUMBERS else (int, float)
        odd = [value for value in choices if not isinstance(value, kind) or isinstance(value, bool)]
        odd += [value for value in choices if name == "loss_mode" and value not in (*LOSS_MODES, *odd)]
        return [f"{where}.choices has {value!r}, which {name} cannot be" for value in odd]

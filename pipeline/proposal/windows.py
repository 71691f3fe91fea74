"""How the bars of a table are cut: into development and holdout, and into folds. All lengths are in bars."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from tft.metrics import MIN_BARS, MIN_INFERENCE_BARS

DELAY, HORIZON, PURGE_GAP, SEQ_LEN = 1, 1, 5, 10
OUTSIDE = SEQ_LEN - 1 + PURGE_GAP + DELAY + HORIZON
"""Development bars that are neither trained on nor tested: the warm-up, the gap, and those without a label."""
HOLDOUT, MOST_HOLDOUT = 0.3, 0.4
TUNING_FOLDS, PRODUCTION_FOLDS = 2, 6
LEAST_TESTED = TUNING_FOLDS * MIN_BARS
LEAST_VALIDATION, MOST_VALIDATION = 21, 126
LEAST_TRAINED = 63
"""What a fold trains on at least, beside its validation block."""
MOST_TRAIN = 1008
"""A fold with a longer training window takes longer; that it is better is not known."""
MOST_EXPANDING = 3 * MOST_TRAIN
"""With more bars than this the windows roll: expanding ones would train on ever more."""


@dataclass(frozen=True)
class Windows:
    """The cut of a table of so many bars."""

    n_bars: int
    holdout_fraction: float
    n_development: int
    validation: int
    train: int
    """The validation block and the gap before it included."""

    @property
    def tested(self) -> int:
        """Development bars in test blocks."""
        return self.n_development - OUTSIDE - self.train

    @property
    def expanding(self) -> bool:
        return self.n_bars <= MOST_EXPANDING

    @property
    def exploration_step(self) -> int:
        return max(1, self.tested // 3)

    @property
    def production_step(self) -> int:
        return ceil((self.n_bars - OUTSIDE - self.train) / PRODUCTION_FOLDS)


def windows_for(n_bars: int) -> Windows:
    """The windows that so many bars allow. Raises ValueError if they allow none."""
    windows = _cut(n_bars)
    if windows.tested >= LEAST_TESTED:
        return windows
    enough = n_bars
    while _cut(enough).tested < LEAST_TESTED:
        enough += 1
    raise ValueError(
        f"{n_bars} bars are too few, {enough} are needed: of the {windows.n_development} before the holdout a fold "
        f"takes {windows.train} to train and validate, {LEAST_TESTED} to be tested on, {OUTSIDE} are look-back and gaps"
    )


def _cut(n_bars: int) -> Windows:
    judged = MIN_INFERENCE_BARS + DELAY + HORIZON
    fraction = min(MOST_HOLDOUT, max(HOLDOUT, ceil(100 * judged / n_bars) / 100))
    n_development = n_bars - ceil(fraction * n_bars)
    validation = min(MOST_VALIDATION, max(LEAST_VALIDATION, n_development // 8))
    least = validation + PURGE_GAP + LEAST_TRAINED
    two_thirds = 2 * (n_development - OUTSIDE) // 3
    return Windows(n_bars, fraction, n_development, validation, min(MOST_TRAIN, max(least, two_thirds)))

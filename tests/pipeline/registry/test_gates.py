"""The gates of a refresh on positions that are worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.registry.gates import COMPARED_BARS, positions_differ

Array = NDArray[np.float64]


def wave(n_bars: int = COMPARED_BARS) -> Array:
    """Two instruments whose positions go 1, -1, 1, ... and 1, 1, -1, -1, ...: turnovers of 2 and about 1 a bar."""
    bars = np.arange(n_bars)
    return np.stack([np.where(bars % 2, -1.0, 1.0), np.where(bars % 4 < 2, 1.0, -1.0)], axis=1)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_half_to_twice_the_turnover_passes(factor: float) -> None:
    assert positions_differ(factor * wave(), wave()) == []


@pytest.mark.parametrize(("factor", "times"), [(0.49, "0.49 times"), (2.01, "2.01 times")])
def test_more_and_less_do_not(factor: float, times: str) -> None:
    (said,) = positions_differ(factor * wave(), wave())
    assert said == f"its turnover over the last 63 bars is {times} that of the incumbent, the limits are 0.5 and 2"


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_positions_have_to_correlate_by_a_half(share: float) -> None:
    """A mix of the incumbent's positions and others, as large, that have nothing to do with them."""
    rng = np.random.default_rng(1)
    own = rng.choice([-1.0, 1.0], (COMPARED_BARS, 20))
    mixed = share * own + np.sqrt(1.0 - share**2) * rng.choice([-1.0, 1.0], own.shape)
    correlation = np.corrcoef(mixed.ravel(), own.ravel())[0, 1]
    said = positions_differ(mixed, own)
    assert bool(said) == (correlation < 0.5) == (share < 0.5)
    if said:
        assert said == [
            f"its positions over the last 63 bars correlate {correlation:.2f} with those of the incumbent, the least "
            f"is 0.5"
        ]


def test_what_nobody_can_tell_does_not_pass() -> None:
    """Too few bars, bars without a decision, and a model that stands still."""
    few = "the table has fewer than 63 bars on which both decide"
    assert positions_differ(wave(62), wave(62)) == [few]
    undecided = wave()
    undecided[0] = np.nan
    assert positions_differ(undecided, wave()) == [few]
    still = positions_differ(np.zeros((COMPARED_BARS, 2)), np.zeros((COMPARED_BARS, 2)))
    assert len(still) == 2
    assert "not to be compared with that of the incumbent" in still[0] and "no correlation" in still[1]

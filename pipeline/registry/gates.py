"""What a refresh has to pass: the same recipe on newer bars, which is to do what the incumbent does.

A refresh need not be better than the version it replaces, and a comparison could not tell: that is older, not worse.
These gates are for what can go wrong with a fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.registry.decided import positions
from pipeline.registry.evidence import Evidence
from tft.checkpoint import TrainedModel
from tft.metrics import MIN_INFERENCE_BARS
from tft.panel import Panel

COMPARED_BARS = MIN_INFERENCE_BARS
"""The last so many bars, on which both decide."""
TURNOVER_RANGE = (0.5, 2.0)
LEAST_CORRELATION = 0.5


def closed_gates(new: TrainedModel, old: TrainedModel, panel: Panel, evidence: Evidence) -> list[str]:
    """One clause for each gate that the refresh `new` of the incumbent `old` does not pass.

    The panel has the instruments and columns that both read, up to the newest bar.
    """
    closed = [f"the data checks call this an error: {error}" for error in evidence.errors]
    if evidence.worse_calibration:
        closed.append(evidence.worse_calibration)
    first = max(len(panel.times) - COMPARED_BARS, 0)
    return closed + positions_differ(*(positions(each, panel, first) for each in (new, old)))


def positions_differ(new: NDArray[np.float64], old: NDArray[np.float64]) -> list[str]:
    """Clauses on positions (n, A) that are traded or taken otherwise than those of the incumbent."""
    known = np.isfinite(new) & np.isfinite(old)
    if known.any(axis=1).sum() < COMPARED_BARS:
        return [f"the table has fewer than {COMPARED_BARS} bars on which both decide"]
    said = []
    turnovers = [float(np.abs(np.diff(np.nan_to_num(one), axis=0)).mean()) for one in (new, old)]
    low, high = TURNOVER_RANGE
    if not low * turnovers[1] <= turnovers[0] <= high * turnovers[1] or turnovers[1] == 0.0:
        times = f"{turnovers[0] / turnovers[1]:.2f} times" if turnovers[1] else "not to be compared with"
        said.append(
            f"its turnover over the last {COMPARED_BARS} bars is {times} that of the incumbent, the limits are {low:g} "
            f"and {high:g}"
        )
    pair = new[known], old[known]
    if min(one.std() for one in pair) <= 1e-12:
        said.append(f"positions that never change over the last {COMPARED_BARS} bars have no correlation")
    elif (correlation := float(np.corrcoef(*pair)[0, 1])) < LEAST_CORRELATION:
        said.append(
            f"its positions over the last {COMPARED_BARS} bars correlate {correlation:.2f} with those of the "
            f"incumbent, the least is {LEAST_CORRELATION:g}"
        )
    return said

"""Bars are written by the frequency of the table."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.bar_labels import bar_label, bar_unit


@pytest.mark.parametrize(
    ("times", "labels"),
    [
        (["2024-03-01T00:00", "2024-03-04T00:00"], ["2024-03-01", "2024-03-04"]),
        (["2024-03-01T21:00", "2024-03-11T20:00"], ["2024-03-01", "2024-03-11"]),
        (["2024-03-01T00:00", "2024-03-01T09:15"], ["2024-03-01 00:00", "2024-03-01 09:15"]),
        (["2024-03-01T09:15:00", "2024-03-01T09:15:10"], ["2024-03-01 09:15:00", "2024-03-01 09:15:10"]),
    ],
)
def test_bars_are_written_as_briefly_as_they_can_be_told_apart(times: list[str], labels: list[str]) -> None:
    bars = np.array(times, dtype="datetime64[us]")
    assert [bar_label(str(bar), bar_unit(bars)) for bar in bars] == labels
    assert bar_label(None, "D") == "no test"

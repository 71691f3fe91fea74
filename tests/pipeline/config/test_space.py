"""The search space: what it may hold, and that the untuned configuration is a point of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.config.documents import faults, load


@pytest.mark.parametrize(
    ("values", "untuned", "inside"),
    [
        ("{choices: [16, 32]}", 48, False),
        ("{choices: [16, 48]}", 48, True),
        ("{low: 8, high: 40}", 48, False),
        ("{low: 8, high: 48}", 48, True),
        ("{low: 8, high: 64, step: 16}", 48, False),
        ("{low: 16, high: 64, step: 16}", 48, True),
    ],
)
def test_an_untuned_value_outside_the_space_is_refused(tmp_path: Path, values: str, untuned: int, inside: bool) -> None:
    """Trial 0 is the untuned configuration, so it has to be a point of the space."""
    document = f"{{model: {{d_hidden: {untuned}}}, tuning: {{space: {{d_hidden: {values}}}}}}}"
    if inside:
        assert load(tmp_path, document).untuned() == {"d_hidden": untuned}
    else:
        (fault,) = faults(tmp_path, document)
        assert f"model.d_hidden ({untuned}) lies outside tuning.space.d_hidden" in fault


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("{lr: {}}", "needs choices, or low and high"),
        ("{lr: {low: 0.001}}", "needs choices, or low and high"),
        ("{lr: {choices: []}}", "choices is empty"),
        ("{lr: {choices: [1], high: 2}}", "both choices and low/high"),
        ("{lr: {low: 0, high: 1, log: true}}", "needs low > 0"),
        ("{lr: {low: 0.1, high: 1, step: 0}}", "must be positive"),
        ("{loss_mode: {low: 0, high: 1}}", "needs choices: it is text"),
        ("{d_hidden: {low: 8, high: 64, step: 0.5}}", "needs a whole low, high and step"),
        ("{seq_len: {low: 8.5, high: 64}}", "needs a whole low, high and step"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(tmp_path: Path, space: str, said: str) -> None:
    (fault,) = faults(tmp_path, f"{{tuning: {{space: {space}}}}}")
    assert said in fault

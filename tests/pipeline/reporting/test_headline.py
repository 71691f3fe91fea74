"""The headline table: rows that read by themselves, and no p-value of zero."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.reporting.description import description
from pipeline.reporting.headline import headline_table
from pipeline.reporting.produced import Produced
from tests.pipeline.reporting.test_page import comparable_rows, inference, small_record


def produced(p_value: float | None = 0.2, **more: Any) -> Produced:
    """What the table reads of a run; skill's p-value as given."""
    record = small_record(160, holdout_bars=80)
    known = inference(record)
    assert known.skill is not None
    skill = replace(known.skill, neutral=replace(known.skill.neutral, p_value_deflated=p_value))
    return cast(
        Produced,
        SimpleNamespace(
            comparable=comparable_rows(record),
            inference=replace(known, skill=skill),
            holdout=record.performance("holdout"),
            development=record.performance("development"),
            **more,
        ),
    )


@pytest.mark.parametrize(
    ("p_value", "cell"), [(0.0, "< 0.001"), (0.00099, "< 0.001"), (0.001, "0.001"), (0.25, "0.250"), (None, "-")]
)
def test_a_p_value_is_never_zero(p_value: float | None, cell: str) -> None:
    _, rows = headline_table(produced(p_value), nested=False)
    assert dict(rows)["p-value of no skill"] == [cell, "-"]


def test_figures_of_the_scaled_record_say_so() -> None:
    """The turnover of the record as it was traded is another number, and stands elsewhere."""
    labels = [label for label, _ in headline_table(produced(), nested=False)[1]]
    assert len(set(labels)) == len(labels)
    start = labels.index("volatility scaled to")
    assert labels[start + 1 : start + 4] == [
        "return a year, scaled",
        "worst drawdown, scaled",
        "turnover a year, scaled",
    ]
    assert {"of which drift", "of which skill", "costs per unit of risk"} <= set(labels)


def test_the_description_has_headings_no_wider_than_its_numbers() -> None:
    result = produced(selection="", looks=(), trouble=(), model_version="")
    lines = description(result, experiment_id="1", run_id="a", children={}).splitlines()
    assert "| | holdout | development |" in lines

"""What a production run's inference says for a version, and what a first version lacks."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from pipeline.data.findings import Finding
from pipeline.registry.evidence import Evidence, evidence_of
from pipeline.statistics.baseline_comparison import BaselineRow
from pipeline.statistics.baselines import LONG_ONLY, RIDGE
from pipeline.statistics.drift import Drift, Skill, skill_inference
from pipeline.statistics.inference import Inference


def row(baseline: str, segment: str, high: float | None) -> BaselineRow:
    rest: dict[str, Any] = dict.fromkeys((field.name for field in fields(BaselineRow)), None)
    known = {"baseline": baseline, "segment": segment, "n_bars": 500, "interval_high_annual": high, "remark": ""}
    return BaselineRow(**rest | known)


def inference(skill: Skill | None, rows: tuple[BaselineRow, ...]) -> Inference:
    return Inference("The verdict.", skill.neutral if skill else None, skill, None, None, None, (), None, rows)


def skill(sharpe: float) -> Skill:
    """Three years in which the market moved by itself and the record by its neutral Sharpe."""
    market, noise = np.random.default_rng(0).standard_normal((2, 756))
    noise = (noise - noise.mean()) / noise.std()
    drift = Drift(noise + sharpe / np.sqrt(252), market, market, varies=True)
    return skill_inference(drift, periods_per_year=252)


@pytest.mark.parametrize(
    ("found", "finds"), [(skill(2.0), True), (skill(0.3), False), (skill(-2.0), False), (None, False)]
)
def test_skill_is_what_the_verdict_finds(found: Skill | None, finds: bool) -> None:
    """Sharpes of 2 and 0.3 over three years; without a holdout nothing is found."""
    assert evidence_of(inference(found, ())).finds_skill == finds


@pytest.mark.parametrize(
    ("rows", "high"),
    [
        ((row(RIDGE, "holdout", -1.0), row(LONG_ONLY, "holdout", 0.4)), 0.4),
        ((row(LONG_ONLY, "development", 0.4),), None),
        ((row(LONG_ONLY, "holdout", None),), None),
        ((), None),
    ],
)
def test_long_only_is_compared_on_the_holdout(rows: tuple[BaselineRow, ...], high: float | None) -> None:
    found = evidence_of(inference(skill(2.0), rows))
    assert found.long_only_high == high
    assert found.missing() == ([] if high is not None else ["a comparison with long only"])


def test_errors_of_the_data_checks_are_kept_and_warnings_are_not() -> None:
    findings = [Finding("error", "leak", "column a", "it is tomorrow"), Finding("warning", "stale", "column b", "old")]
    assert evidence_of(inference(None, ()), findings).errors == ("column a: it is tomorrow",)


def test_what_is_missing_is_listed_in_full() -> None:
    assert Evidence(False, "", -0.1).missing() == [
        "a verdict of skill",
        "a Sharpe that is not worse than that of long only (the 95 % interval of the difference ends at -0.10)",
    ]

"""What a version has for itself when it is registered: the verdict, long only, its calibration, the data's errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlflow.tracking import MlflowClient

from pipeline.config.reading import from_json, to_json
from pipeline.data.findings import Finding
from pipeline.statistics import calibration_in_words
from pipeline.statistics.baselines import LONG_ONLY
from pipeline.statistics.inference import Inference

EVIDENCE = "evidence"


@dataclass(frozen=True)
class Evidence:
    """What the rule judges a version by, as far as it does not change any more. Kept as a tag of the version."""

    finds_skill: bool
    """Whether the verdict finds skill."""
    verdict: str
    long_only_high: float | None
    """Upper end of the 95 % interval of the annual Sharpe difference to long only, on the clean bars; None: unknown."""
    worse_calibration: str = ""
    """A clause on a forecast distribution that scores worse than the unconditional one by more than two standard
    errors; empty otherwise."""
    errors: tuple[str, ...] = ()
    """What the data checks call an error in the columns it was fitted on."""

    def missing(self) -> list[str]:
        """What a first version lacks for Production, in words."""
        lacks = []
        if not self.finds_skill:
            lacks.append("a verdict of skill")
        if self.long_only_high is None:
            lacks.append("a comparison with long only")
        elif self.long_only_high < 0.0:
            lacks.append(
                f"a Sharpe that is not worse than that of long only (the 95 % interval of the difference ends at "
                f"{self.long_only_high:.2f})"
            )
        return lacks


NONE = Evidence(False, "", None)
"""That of a version registered before evidence was kept."""


def evidence_of(inference: Inference, findings: Sequence[Finding] = ()) -> Evidence:
    """The evidence of a production run."""
    long_only = [row for row in inference.baselines if (row.baseline, row.segment) == (LONG_ONLY, "holdout")]
    return Evidence(
        inference.finds_skill,
        inference.verdict,
        long_only[0].interval_high_annual if long_only else None,
        calibration_in_words.worse(inference.calibration),
        errors_of(findings),
    )


def errors_of(findings: Sequence[Finding]) -> tuple[str, ...]:
    return tuple(f"{finding.where}: {finding.message}" for finding in findings if finding.severity == "error")


def keep(name: str, version: str, evidence: Evidence) -> None:
    """Write the evidence into the version, in place of what is there."""
    MlflowClient().set_model_version_tag(name, version, EVIDENCE, to_json(evidence))


def kept(name: str, version: str) -> Evidence:
    """The evidence that a version was registered with."""
    text = MlflowClient().get_model_version(name, version).tags.get(EVIDENCE)
    return from_json(Evidence, text) if text else NONE

"""The findings of checks of the data, and their summary on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Worst first."""


@dataclass(frozen=True)
class Finding:
    """One thing that may be wrong with the data."""

    severity: Severity
    check: str
    where: str
    """The column, instrument and bar that it concerns, as far as they apply."""
    message: str
    column: str = ""
    """The column to list in `data.accept`; empty where no single column is at fault."""


def summary(findings: Sequence[Finding], *, n_lines: int = 10, n_alike: int = 3) -> list[str]:
    """At most `n_lines` findings, a line each, at most `n_alike` of one check and severity; then a line that counts all
    of them where some were left out."""
    alike: Counter[tuple[str, str]] = Counter()
    shown: list[str] = []
    for finding in findings:
        alike[finding.severity, finding.check] += 1
        if len(shown) < n_lines and alike[finding.severity, finding.check] <= n_alike:
            shown.append(f"{finding.severity}: {finding.where}: {finding.message}")
    left = len(findings) - len(shown)
    if left:
        kinds = ", ".join(f"{n} x {check} ({severity})" for (severity, check), n in alike.items())
        shown.append(f"and {left} more findings, in findings.json of the run; in all {kinds}")
    return shown

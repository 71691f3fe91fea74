"""The error that tells a user what is wrong with a table."""

from __future__ import annotations

from collections.abc import Sequence


class DataError(ValueError):
    """A table that cannot be used. `findings` holds one sentence for each thing that is wrong with it."""

    def __init__(self, source: str, findings: Sequence[str]) -> None:
        self.findings = tuple(findings)
        super().__init__(f"{source} cannot be used:\n" + "\n".join(f"- {finding}" for finding in findings))


def one_line(error: Exception) -> str:
    """The message of another library's error, on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]

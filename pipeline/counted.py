"""Numbers of things in words."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """`1 fold`, `3 folds`: for nouns whose plural takes an s."""
    return f"{n} {noun}{'' if n == 1 else 's'}"

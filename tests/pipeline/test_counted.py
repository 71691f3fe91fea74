"""Numbers of things agree with their nouns."""

from __future__ import annotations

import pytest

from pipeline.counted import counted


@pytest.mark.parametrize(("n", "text"), [(0, "0 folds"), (1, "1 fold"), (2, "2 folds"), (21, "21 folds")])
def test_one_is_singular_and_every_other_number_plural(n: int, text: str) -> None:
    assert counted(n, "fold") == text

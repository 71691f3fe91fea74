"""Where something finished is kept, so that a process that dies does not have to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Store(Protocol):
    """Named pieces, each a few files. What a store is (a folder, a bucket) is its implementation's affair.

    Below a name lies either a piece or a store of its own, never both.
    """

    def put(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write a piece, whole or not at all, in place of the one of that name. Raises OSError."""
        ...

    def get(self, name: str) -> dict[str, bytes] | None:
        """The files of a piece by name; None where there is no such piece."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is such a piece, and with it all of its files."""
        ...

    def within(self, name: str) -> Store:
        """The store below this name, whose pieces are apart from those of this one."""
        ...

"""The interface of a store for finished work, from which a restarted process continues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Store(Protocol):
    """Entries by name, each a set of files, in a folder, a bucket or elsewhere.

    A name refers either to an entry or to a nested store, never to both.
    """

    def put(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write an entry atomically, replacing one of the same name. Raises OSError."""
        ...

    def get(self, name: str) -> dict[str, bytes] | None:
        """The content of an entry's files by file name; None if there is no such entry."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is an entry of this name, which is then complete."""
        ...

    def within(self, name: str) -> Store:
        """The nested store of this name, with entries of its own."""
        ...

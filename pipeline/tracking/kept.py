"""What is kept on this machine against a crash: finished results that MLflow does not hold, and folds in progress.

Losing it costs time and nothing else.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tft.checkpoint import aside_of, write_folder_atomically

RESULT = "result.json"


@dataclass(frozen=True)
class LocalStore:
    """A `tft.runtime.store.Store` in a folder, which need not exist yet: a piece is a folder of files below it."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def put(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write a piece, whole or not at all, in place of the one of that name. Raises OSError."""
        write_folder_atomically(self.root / name, files)

    def get(self, name: str) -> dict[str, bytes] | None:
        """The files of a piece by name; None where there is no such piece."""
        try:
            return {file.name: file.read_bytes() for file in self._files(name)} or None
        except FileNotFoundError:  # dropped meanwhile by another process
            return None

    def exists(self, name: str) -> bool:
        """Whether there is such a piece, and with it all of its files."""
        return bool(self._files(name))

    def within(self, name: str) -> LocalStore:
        """The store in the folder of this name."""
        return LocalStore(self.root / name)

    def drop(self, name: str) -> None:
        """Remove a piece, or a store below this one with all that is in it, as far as that can be done.

        What cannot be removed, because another process writes there or the disk is read-only, only takes up room.
        """
        for folder in (self.root / name, aside_of(self.root / name)):
            # Renamed first, so that whoever reads finds a piece whole or not at all.
            dropped = folder.with_name(f".{folder.name}.dropped-{os.getpid()}")
            with suppress(OSError):
                folder.rename(dropped)
            shutil.rmtree(dropped, ignore_errors=True)

    def _files(self, name: str) -> list[Path]:
        folder = self.root / name
        if not folder.exists():
            folder = aside_of(folder)  # the process was killed while it replaced the piece
        return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


KEPT = LocalStore(Path("checkpoints") / "kept")


class Kept:
    """Finished results and folds in progress, by key, in one store."""

    def __init__(self, store: LocalStore = KEPT) -> None:
        self.store = store

    def result(self, key: str) -> str | None:
        """The result that was kept under this key."""
        files = self.store.get(f"results/{key}")
        return files[RESULT].decode() if files else None

    def keep_result(self, key: str, text: str) -> None:
        """Keep a finished result under its key; warn if that fails, since only a restart would have read it."""
        try:
            self.store.put(f"results/{key}", {RESULT: text.encode()})
        except OSError as error:
            warnings.warn(f"finished results cannot be kept in {self.store} ({error.strerror})", stacklevel=2)

    def drop_result(self, key: str) -> None:
        self.store.drop(f"results/{key}")

    def folds(self, key: str) -> LocalStore:
        """Return the store that holds finished folds of unfinished work, from which a restarted process goes on."""
        return self.store.within(f"folds/{key[:16]}")

    def drop_folds(self, key: str) -> None:
        self.store.drop(f"folds/{key[:16]}")

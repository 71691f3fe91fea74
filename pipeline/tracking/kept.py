"""What is kept on disk against a crash, by key: finished results that MLflow does not hold, and folds in progress."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

from tft.checkpoint import write_folder_atomically

RESULT = "result.json"


class Kept:
    """Pieces below one folder. Losing them costs time and nothing else."""

    def __init__(self, folder: Path = Path("checkpoints") / "kept") -> None:
        self.folder = folder

    def result(self, key: str) -> str | None:
        """The result that was kept under this key."""
        file = self._results(key) / RESULT
        return file.read_text() if file.exists() else None

    def keep_result(self, key: str, text: str) -> None:
        """Written whole or not at all. A disk that cannot be written is a warning: only a restart would read it."""
        try:
            write_folder_atomically(self._results(key), {RESULT: text.encode()})
        except OSError as error:
            warnings.warn(f"finished results cannot be kept in {self.folder} ({error.strerror})", stacklevel=2)

    def drop_result(self, key: str) -> None:
        shutil.rmtree(self._results(key), ignore_errors=True)

    def folds(self, key: str) -> Path:
        """Where finished folds of running work wait in case its process dies: the next one goes on from there."""
        return self.folder / "folds" / key[:16]

    def drop_folds(self, key: str) -> None:
        shutil.rmtree(self.folds(key), ignore_errors=True)

    def _results(self, key: str) -> Path:
        return self.folder / "results" / key

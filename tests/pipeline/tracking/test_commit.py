"""The commit that a run is tagged with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.tracking import commit


def test_the_commit_of_the_code_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With `-dirty` after it if tracked files have changed; `unknown` outside a checkout."""
    commands = (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"])
    (tmp_path / "pipeline").mkdir()
    file = tmp_path / "pipeline" / "commit.py"
    file.write_text("")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(commit, "__file__", str(file))
    assert commit.git_commit() == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in commands:
        subprocess.run([*git, *command], check=True, capture_output=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert commit.git_commit() == head
    file.write_text("changed")
    assert commit.git_commit() == f"{head}-dirty"

"""A page as PDF, by whatever browser of the Chromium family is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
_TIMEOUT_S = 300


def print_page(page: Path, pdf: Path) -> None:
    """Print an HTML file as PDF. Raises ValueError if no browser is installed or it prints nothing."""
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        raise ValueError(
            f"no browser that prints is installed ({', '.join(BROWSERS)}): install one, or open the page in any "
            f"browser and print it from there"
        )
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--disable-gpu", f"--user-data-dir={profile}", "--no-pdf-header-footer"]
        if os.geteuid() == 0:  # Chromium refuses to run as root in its sandbox
            command.append("--no-sandbox")
        printed = Path(profile) / "page.pdf"
        done = subprocess.run(
            [*command, f"--print-to-pdf={printed}", page.resolve().as_uri()],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if not printed.exists():
            reason = " ".join(done.stderr.split())[-300:]
            raise ValueError(f"{browser} printed nothing (exit code {done.returncode}): {reason}")
        shutil.copyfile(printed, pdf)

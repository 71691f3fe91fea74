"""The command line: `tft-pipeline`, `python -m pipeline`."""

from pipeline.cli.commands import main

__all__ = ["main"]

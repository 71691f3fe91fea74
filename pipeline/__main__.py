"""`python -m pipeline` is `tft-pipeline`."""

from pipeline.cli.commands import main

main()

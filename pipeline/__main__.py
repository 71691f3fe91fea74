"""`python -m pipeline` is `tft-pipeline`."""

from pipeline.cli import main

main()

"""A Temporal Fusion Transformer for panels of instruments, and the engine that trains it fold by fold."""

import os

# On some processors MKL rounds a row differently depending on where it lies in the matrix, so that a live decision
# would not equal the backtest's. The reproducible code path is as fast. MKL reads this variable at its first
# computation; setting it later has no effect.
os.environ.setdefault("MKL_CBWR", "AUTO")

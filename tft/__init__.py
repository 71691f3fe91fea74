"""A Temporal Fusion Transformer for panels of instruments, and the engine that trains it fold by fold."""

import os

# On some processors MKL rounds a row differently by its place in the matrix, and a live decision would not equal the
# backtest's. Its reproducible code path is as fast. Read when MKL first computes: after that it changes nothing.
os.environ.setdefault("MKL_CBWR", "AUTO")

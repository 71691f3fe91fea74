"""`python -m tft.kernels [cpu|cuda]` prints which implementation of each operation is in use on a device, and why."""

from __future__ import annotations

import sys

import torch

from tft.kernels.implementation import fingerprint, in_use


def main() -> None:
    given = sys.argv[1:] or ["cuda" if torch.cuda.is_available() else "cpu"]
    if len(given) > 1 or given[0] not in ("cpu", "cuda"):
        sys.exit("usage: python -m tft.kernels [cpu|cuda]")
    device = torch.device(given[0])
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device on this machine: python -m tft.kernels cpu")
    for row in [("operation", "implementation", "reason"), *in_use(device)]:
        print(f"{row[0]:16}{row[1]:16}{row[2]}")
    print(f"\nfingerprint {fingerprint(device)}")


if __name__ == "__main__":
    main()

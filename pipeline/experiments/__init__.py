"""Whole jobs that production runs are compared with: luck, a known signal, another setting."""

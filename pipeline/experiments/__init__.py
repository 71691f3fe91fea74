"""Whole jobs run to judge other jobs."""

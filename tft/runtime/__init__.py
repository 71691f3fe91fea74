"""Threads, idle cores, the heap, CUDA graphs and storage: how training runs, not what it computes."""

"""CUDA implementations of the operations for a GPU, and their compilation."""

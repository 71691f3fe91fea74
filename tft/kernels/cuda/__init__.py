"""CUDA implementations for a GPU, and how they are compiled."""

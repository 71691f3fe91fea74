"""A Temporal Fusion Transformer for panels of instruments, and the engine that trains it fold by fold."""

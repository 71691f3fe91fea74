"""Native implementations of the operations for a CPU, and their compilation."""

"""Native implementations for a CPU, and how they are compiled."""

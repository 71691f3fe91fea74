"""From a feature table to a checked panel, and what can be wrong with its columns."""

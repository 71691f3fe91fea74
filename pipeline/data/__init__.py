"""From a feature table to a checked panel."""

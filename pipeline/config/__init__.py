"""The configuration of a run: what it may say, and how it is read."""

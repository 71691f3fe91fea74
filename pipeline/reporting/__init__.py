"""The tables, figures and page by which a person reads a run."""

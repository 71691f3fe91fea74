"""What is kept of a run, in MLflow and on disk."""

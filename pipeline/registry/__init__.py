"""The model registry: versions, promotion, the served model."""

"""A first configuration for a table that nobody has configured yet: what fits it, why, and what it costs."""

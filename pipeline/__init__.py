"""Five phases from a table of features to a registered model, and everything that talks to the outside."""

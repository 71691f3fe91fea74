"""Reading a feature table into a checked panel, and looking for what is wrong with its columns."""

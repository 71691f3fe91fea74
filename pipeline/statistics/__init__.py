"""What luck alone would give, and what simple rules give on the same bars."""

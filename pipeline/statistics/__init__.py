"""Inference on Sharpe ratios: what luck alone would give, and what simple rules earn on the same bars."""

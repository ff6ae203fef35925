"""Rows and targets: what they are, how they are prepared, and where they come from."""

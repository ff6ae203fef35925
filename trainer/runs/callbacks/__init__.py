"""Callbacks: called with every report, they may add columns to metrics.csv and stop the training."""

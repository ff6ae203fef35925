"""E(w) as a sum over blocks of rows: value, gradient, curvature, penalties, metrics, and the proof of a minimum."""

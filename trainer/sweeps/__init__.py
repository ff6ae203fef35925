"""Sweeps: every combination of the choices on the command line, or a search, each job a run in a folder of its own."""

"""Imported by the server that forks the workers, so that each of them has all modules at once."""

from trainer.sweeps.worker import preload

preload()

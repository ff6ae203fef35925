"""Runs that are killed, and disks that fail, at any moment.  ``make test-crash`` does it a hundred times."""

"""One run: its configuration, its parts, its training, and all that it leaves in its folder."""

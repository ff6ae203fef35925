"""``python -m trainer.sweep``; see trainer.commands.sweep."""

from trainer.commands import main

if __name__ == "__main__":
    main("sweep")

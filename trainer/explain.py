"""``python -m trainer.explain``; see trainer.commands.explain."""

from trainer.commands import main

if __name__ == "__main__":
    main("explain")

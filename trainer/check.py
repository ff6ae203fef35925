"""``python -m trainer.check``; see trainer.commands.check."""

from trainer.commands import main

if __name__ == "__main__":
    main("check")

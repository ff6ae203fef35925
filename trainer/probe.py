"""``python -m trainer.probe``; see trainer.commands.probe."""

from trainer.commands import main

if __name__ == "__main__":
    main("probe")

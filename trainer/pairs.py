"""``python -m trainer.pairs``; see trainer.commands.pairs."""

from trainer.commands import main

if __name__ == "__main__":
    main("pairs")

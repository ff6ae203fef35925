"""``python -m trainer.evaluate``; see trainer.commands.evaluate."""

from trainer.commands import main

if __name__ == "__main__":
    main("evaluate")

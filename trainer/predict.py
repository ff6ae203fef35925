"""``python -m trainer.predict``; see trainer.commands.predict."""

from trainer.commands import main

if __name__ == "__main__":
    main("predict")

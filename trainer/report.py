"""``python -m trainer.report``; see trainer.commands.report."""

from trainer.commands import main

if __name__ == "__main__":
    main("report")

"""``python -m trainer``; see trainer.commands.train."""

from trainer.commands import main

if __name__ == "__main__":
    main()

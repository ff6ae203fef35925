"""The command ``trainer pairs [--markdown]``, and ``python -m trainer.pairs``."""

from trainer.chain.pairs import markdown, table


def main(words: list[str]) -> int:
    """Prints the table of pairs."""
    if words not in ([], ["--markdown"]):
        print("python -m trainer.pairs prints the table of pairs; --markdown prints it as docs/pairs.md has it.")
        return 0 if words in (["--help"], ["-h"]) else 2
    print(markdown() if words else table())
    return 0

"""The command ``trainer check [seed=0]``, and ``python -m trainer.check``."""

from trainer.chain.check import cells, check, table
from trainer.errors import ConfigError


def main(words: list[str]) -> int:
    """The exit code is 1 if a pair fails."""
    key, _, seed = (words or ["seed=0"])[0].partition("=")
    if len(words) > 1 or key != "seed" or not (seed.isascii() and seed.isdigit()):
        raise ConfigError(f"{' '.join(words)!r} is not seed=<number>, which is all that trainer.check reads.")
    rows = [check(pairs, int(seed)) for pairs in cells()]
    print(table(rows))
    return int(any(row.failures for row in rows))

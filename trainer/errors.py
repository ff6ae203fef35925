"""Every error that a user can cause: a sentence that names the value, the reason and the way out.

The class carries the exit code, so the command line needs no table of its own.
"""


class TrainerError(Exception):
    """A failure that its message explains in full; the command line prints it without a traceback."""

    exit_code = 2


class ConfigError(TrainerError, ValueError):
    """A name, a type, a range or a combination in the configuration that cannot be run."""


class Incompatible(ConfigError):
    """Components that are right by themselves and do not go together; a sweep skips such a job."""


class DataError(TrainerError, ValueError):
    """A file was read, but what it holds cannot be trained on."""


class Diverged(TrainerError):
    """The objective or the parameters are no longer finite; the training stops within the step."""

    exit_code = 1


class NonFiniteError(Diverged):
    """A strategy is not finite at finite scores; the message names the row, the pair and the strategy that would do."""


class FileError(TrainerError, OSError):
    """A file or a folder that cannot be read or written."""

    exit_code = 3


def require(condition: bool, sentence: str) -> None:
    """Refuses a value of the configuration by a sentence; for the range checks of the components."""
    if not condition:
        raise ConfigError(sentence)

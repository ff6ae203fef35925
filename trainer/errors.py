"""Every error that a user can cause: a sentence that names the value, the reason and the way out.

The class carries the exit code, so the command line needs no table of its own.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

OTHER_NAMES = {  # of the field, by our words for them, for hints; where one has several meanings, all that are choices
    "adam_w": "adamw",
    "autograd": "vjp",
    "backprop": "vjp",
    "bfgs": "lbfgs",
    "binary_cross_entropy": "bce",
    "categorical_cross_entropy": "ce",
    "cosine_annealing": "cosine",
    "cross_entropy": "ce",
    "cross_validation": "folds",
    "csv": "file",
    "cuda": "torch:cuda:0 device",
    "cv": "folds",
    "eta": "lr",
    "finite_differences": "numeric",
    "gpu": "torch:cuda:0 device",
    "gradient_descent": "sgd",
    "hinge": "crammer_singer weston_watkins squared_hinge",
    "index_col": "id",
    "irls": "newton",
    "ista": "fista",
    "kfold": "folds",
    "kl_divergence": "kl",
    "l1": "mae",
    "l2": "squared_error brier",
    "lambda": "strength",
    "lasso": "l1",
    "learning_rate": "lr",
    "linear": "identity",
    "log_loss": "ce bce",
    "logistic": "ce bce sigmoid",
    "logits": "identity",
    "max_iter": "epochs",
    "mean_absolute_error": "mae",
    "mean_squared_error": "squared_error brier",
    "mse": "squared_error brier",
    "multinomial": "ce softmax",
    "n_jobs": "threads",
    "n_splits": "folds",
    "negative_log_likelihood": "nll",
    "normalize": "standardize",
    "one_hot": "categorical",
    "parquet": "file",
    "parse_dates": "dates",
    "random_state": "seed",
    "ridge": "l2",
    "sample_weight": "weight",
    "sep": "delimiter",
    "separator": "delimiter",
    "step_decay": "step",
    "test_size": "valid_fraction test_fraction",
    "usecols": "features",
    "validation_split": "valid_fraction",
    "weight_decay": "l2",
}
NUMBERS, LISTS = (int, float), (list, tuple)  # a union, int | float, would be made anew for each value of a record
NO_TEXT = "holds half of a surrogate pair, which is no character and fits in no file; write it otherwise"


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
    """A file or a folder that cannot be read or written, or memory that the system does not have."""

    exit_code = 3


def require(condition: bool, sentence: str) -> None:
    """Refuses a value of the configuration by a sentence; for the range checks of the components."""
    if not condition:
        raise ConfigError(sentence)


def is_text(value: Any) -> bool:
    """Whether UTF-8 has bytes for every text in a value, the keys of mappings too: half a surrogate pair has none."""
    if isinstance(value, str):
        try:
            return value.isascii() or bool(value.encode())
        except UnicodeEncodeError:
            return False
    if value is None or isinstance(value, NUMBERS):
        return True
    if isinstance(value, LISTS):
        return all(map(is_text, value))
    return not isinstance(value, Mapping) or (all(map(is_text, value)) and all(map(is_text, value.values())))


def require_text(names: Iterable[Any], what: str) -> None:
    """Refuses names of classes, features or columns that no file of ours could keep."""
    for name in names:
        if not is_text(name):
            raise DataError(f"{what} {ascii(name)[:100]} {NO_TEXT}.")


def choose(group: str, choices: Collection[str], name: Any) -> str:
    """The name, if it is one of the choices."""
    if isinstance(name, str) and name in choices:
        return name
    text = "null" if name is None else str(name)
    shown = text if text.isprintable() else ascii(name)
    raise ConfigError(f"{group}={shown[:100]} is not known{suggest(str(name), choices)} Choices: {listed(choices)}.")


def suggest(name: str, choices: Iterable[str]) -> str:
    """', did you mean ...?' where a choice is close, or has this name elsewhere, else a full stop."""
    meant = near(name, choices)
    return f"; did you mean {' or '.join(meant)}?" if meant else "."


def near(name: str, choices: Iterable[str]) -> list[str]:
    """The choices that are closest to a name in spelling, capitals aside, or called something close by others."""
    ours = {choice.lower(): [choice] for choice in choices}
    meanings = {word: [ours[our][0] for our in words.split() if our in ours] for word, words in OTHER_NAMES.items()}
    called = {word: meant for word, meant in meanings.items() if meant} | ours
    close = get_close_matches(name.lower().replace("-", "_"), called, n=1)
    return called[close[0]] if close else []


def listed(names: Iterable[str]) -> str:
    """Names in alphabetical order, for a sentence."""
    return ", ".join(sorted(names))


def subject(noun: str, plural: str, names: Sequence[str]) -> str:
    """The beginning of a sentence on things by name, at most five of them: Class a has, or Classes a, b have."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{noun} {names[0]} has" if len(names) == 1 else f"{plural} {', '.join(names[:5])}{more} have"


def counted(number: int, noun: str) -> str:
    """1 epoch, 2 epochs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shown(path: str) -> str:
    """A path as it may stand in a message: no escape code reaches the terminal, and no password either."""
    path = without_secrets(path)
    return path if path and path.isprintable() else ascii(path)


def without_secrets(text: str) -> str:
    """An address without what may be a password: what stands before @, and of http what stands behind ?.

    A word such as ${oc.env:TOKEN} stays, as it says only where the password is.

    >>> without_secrets("https://me:secret@host/a.csv?key=1"), without_secrets("s3://bucket/part-?.csv")
    ('https://host/a.csv', 's3://bucket/part-?.csv')
    """
    if "://" not in text:
        return text
    text = re.sub(r"(?<=://)(?!\$\{[^{}]*\}@)[^/?#]*@", "", text)
    return re.sub(r"^(https?://[^?#]*)(?!\?\$\{[^{}]*\}$)[?#].*", r"\1", text, flags=re.IGNORECASE | re.DOTALL)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, without its full stop."""
    return str(error).strip().split("\n")[0].rstrip(".")

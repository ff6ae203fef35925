"""What the command line may say: an option is a file of conf/ by its plain name, and nothing names Python code to run.

Hydra builds objects from the keys ``_target_`` of its own node (callbacks, launcher, sweeper), and logging from
``()`` and ``class``. Here both come from the files of this package and of installed plugins only: an option that were
a path, a package behind ``@``, or a key of Hydra's that is not on the lists below could bring others. What is recorded
in files goes through the same check when it is used again.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override

from trainer.errors import ConfigError, choose, listed
from trainer.runs.config import Options

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
PLUGINS = ("hydra/launcher", "hydra/sweeper")
SETTINGS = {  # of the launchers and sweepers that these choose: numbers and names, and no commands or folders
    "hydra.launcher": (
        *("account", "array_parallelism", "backend", "batch_size", "constraint", "cpus_per_gpu", "cpus_per_task"),
        *("gpus_per_node", "gpus_per_task", "max_num_timeout", "mem_gb", "mem_per_cpu", "mem_per_gpu", "n_jobs"),
        *("nodes", "partition", "pre_dispatch", "prefer", "qos", "ray.init.num_cpus", "ray.init.num_gpus", "require"),
        *("tasks_per_node", "timeout", "timeout_min", "verbose"),
    ),
    "hydra.sweeper": ("max_batch_size", "resume"),
}
NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")  # of an option
KEY = re.compile(r"[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)*")
WINDOWS = re.compile(r"(con|prn|aux|nul|(com|lpt)\d)(\..*)?|.*[<>:\"|?*].*|.*[. ]", re.IGNORECASE)  # has none so
LONGEST_NAME = 80  # bytes of a folder's name; disks take 255, and a run adds names of its own
LONGEST, MOST = 10_000, 500  # characters, dots and brackets of an override; the parser takes seconds for more
CODE = ("_target_", "()")
ALONE = ("run", "multirun", "cfg", "info", "shell_completion")  # flags of which a command has one at most
SHELLS = ("bash", "fish", "zsh")
ELSEWHERE = ("config_dir", "config_path", "config_name", "experimental_rerun")


def check_overrides(overrides: list[str], options: Options) -> None:
    """ConfigError for an override that names code or a file, reaches into Hydra, or gives a group several options."""
    for text in overrides:
        if len(text) > LONGEST or len(re.findall(r"[.\[{(]", text)) > MOST or re.search(r"\d{1000}", text):
            raise ConfigError(
                f"{text[:40]!r}... is too long or too deep to be read: at most {LONGEST} characters, {MOST} dots and "
                "brackets, and 999 digits."
            )
    for override in OverridesParser.create().parse_overrides(overrides):
        key, text = override.key_or_group, override.input_line or ""
        values = values_of(override)
        if override.package is not None or not KEY.fullmatch(key):
            raise ConfigError(f"{text!r} is no setting: a key is a name or names with dots, without @. See --help.")
        if any(part in CODE for part in key.split(".")) or any(map(_names_code, values)):
            raise ConfigError(f"{text!r} names code to run, which no setting may. Choose as in hydra/launcher=joblib.")
        if key in options:
            if not override.is_delete() and not isinstance(override.value(), Glob):
                _check_options(key, values, options[key])
        elif key.split(".")[0] == "hydra" or "/" in key:
            _check_hydra(key, values, text)


def _check_options(group: str, values: list[Any], options: Mapping[str, Path]) -> None:
    """ConfigError unless each value is one of the options, or for callbacks a list of them."""
    for value in values:
        if group != "callbacks" and isinstance(value, list | dict):
            names = list(map(str, value))
            raise ConfigError(
                f"{group}=[{','.join(names)}] gives {group} {len(names)} options, and a run has one. "
                f"Try each in a run of its own with -m {group}={','.join(names)}."
            )
        for name in value if isinstance(value, list) else [value]:
            _check_option(options[choose(group, options, name)])


def _check_option(path: Path) -> None:
    """ConfigError for an option's file that would fill more than its group's node, as that of Hydra."""
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    more = re.search(r"^\s*#\s*@package\b", text, re.MULTILINE) or (isinstance(content, dict) and "defaults" in content)
    if more or _names_code(content):
        raise ConfigError(f"{path} has a package, defaults or a target of its own, which name code. Leave them out.")


def _check_hydra(key: str, values: list[Any], text: str) -> None:
    """ConfigError for a key of Hydra's, or a value, that is not on the lists."""
    part, name = ".".join(key.split(".")[:2]), ".".join(key.split(".")[2:])
    if key in PLUGINS:
        known = all(isinstance(value, str) and NAME.fullmatch(value) for value in values)
    elif key == "hydra.verbose":
        flat = [name for value in values for name in (value if isinstance(value, list) else [value])]
        known = all(isinstance(name, bool) or (isinstance(name, str) and KEY.fullmatch(name)) for name in flat)
    else:
        known = key in FOLDERS or name in SETTINGS.get(part, ())
    if not known:
        raise ConfigError(
            f"{text!r} changes what is Hydra's, which may run code or write elsewhere. These may be set: "
            f"{', '.join((*FOLDERS, *PLUGINS))}, hydra.verbose (true, or names of loggers), "
            f"hydra.sweeper.max_batch_size, and of hydra.launcher {', '.join(SETTINGS['hydra.launcher'])}."
        )
    for value in values if key in FOLDERS else ():
        check_folder(key, re.sub(r"\$\{.*?\}", "x", str(value)))  # what comes of these is seen when it is known
        if key == "hydra.sweep.subdir" and {"..", ""} & set(str(value).split("/")):
            raise ConfigError(f"{text!r} leaves the folder of the sweep. Give a name.")


def check_folder(key: str, text: str) -> None:
    """ConfigError for a folder's name that not every system and terminal can take."""
    for name in re.sub(r"^[a-zA-Z]:(?=/)", "", text).split("/"):  # without a drive of Windows
        if reason := _fault(name):
            raise ConfigError(f"{key}={ascii(text)[:100]} {reason}. Give another name.")
    if not text.strip():
        raise ConfigError(f"{key} is empty. Give the name of a folder, or . for this one.")


def tamed(text: str) -> str:
    """A folder's path in which a name that not every system can take is cut, spelt plainly and told apart by a hash.

    Names that are made of settings, as by ${hydra.job.override_dirname}, may be anything.
    """
    return "/".join(_tamed(name) if _fault(name) else name for name in text.split("/"))


def _tamed(name: str) -> str:
    digest = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()[:8]
    plain = re.sub(r"[^\w,=+-]", "_", name).encode()[: LONGEST_NAME - 9].decode(errors="ignore")
    return f"{plain}-{digest}"


def _fault(name: str) -> str:
    """Why a name is none for a folder everywhere, or nothing."""
    if name in (".", ".."):
        return ""
    if not name.isprintable():
        return "holds a character that cannot be shown"
    if len(name.encode()) > LONGEST_NAME:
        return f"has a name of {len(name.encode())} bytes, and {LONGEST_NAME} are the most"
    if WINDOWS.fullmatch(name):
        return f"has the name {name!r}, which a folder cannot have on Windows"
    return ""


def check_flags(given: Any) -> None:
    """ConfigError for flags of Hydra that read a file from somewhere else, or that do not go together."""
    for name in ELSEWHERE:
        if getattr(given, name, None):
            raise ConfigError(
                f"{_flag(name)} reads a file that may name code to run. Leave it out, and give keys as key=value."
            )
    chosen = [name for name in ALONE if getattr(given, name)]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(map(_flag, chosen))} exclude each other. Give one of them.")
    for name in ("resolve", "package"):
        if getattr(given, name) and not given.cfg:
            raise ConfigError(f"{_flag(name)} belongs to --cfg, as in --cfg job {_flag(name)}; leave it out.")
    ways = [f"{way}={shell}" for way in ("install", "uninstall") for shell in SHELLS]
    ways += [f"query={shell}" for shell in SHELLS]
    if given.shell_completion and (len(given.overrides) != 1 or given.overrides[0] not in ways):
        raise ConfigError(f"--shell-completion takes one of {listed(ways)}, as in trainer -sc install=bash.")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def values_of(override: Override) -> list[Any]:
    """The values that an override gives its key, several in a sweep, as Python has them."""
    value = override.value()
    return [Override._convert_value(item) for item in value.list] if isinstance(value, ChoiceSweep) else [value]


def _names_code(value: Any) -> bool:
    if isinstance(value, dict):
        return any(str(part) in CODE for key in value for part in str(key).split(".")) or _names_code(
            list(value.values())
        )
    return isinstance(value, list) and any(map(_names_code, value))

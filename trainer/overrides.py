"""What the command line may not say: nothing there names Python code to run, or a file with such names.

Hydra builds objects from the keys ``_target_`` of its own node (callbacks, launcher, sweeper), and logging from
``()`` and ``class``. Here both come from the files of this package and of installed plugins only.
"""

import hashlib
import re
from collections.abc import Collection
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString

from trainer.errors import ConfigError

OURS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.verbose")
FOLDERS = OURS[:3]
WINDOWS = re.compile(r"(con|prn|aux|nul|(com|lpt)\d)(\..*)?|.*[<>:\"|?*].*|.*[. ]", re.IGNORECASE)  # has none so
LONGEST_NAME = 80  # bytes of a folder's name; disks take 255, and a run adds names of its own
PARTS = ("hydra.launcher.", "hydra.sweeper.")  # the settings of the one that hydra/launcher= and hydra/sweeper= choose
LONGEST, MOST = 10_000, 500  # characters, dots and brackets of an override; the parser takes seconds for more
CODE = ("_target_", "()")
FLAGS = ("config_dir", "config_path", "config_name", "experimental_rerun")


def check_overrides(overrides: list[str], groups: Collection[str]) -> None:
    """ConfigError for an override that names code, reaches into Hydra, or gives a group several options at once."""
    for text in overrides:
        if len(text) > LONGEST or len(re.findall(r"[.\[{(]", text)) > MOST or re.search(r"\d{1000}", text):
            raise ConfigError(
                f"{text[:40]!r}... is too long or too deep to be read: at most {LONGEST} characters, {MOST} dots and "
                "brackets, and 999 digits."
            )
    for override in OverridesParser.create().parse_overrides(overrides):
        key, value, text = override.key_or_group, override.value(), override.input_line or ""
        if _names_code(key, value):
            raise ConfigError(f"{text!r} names code to run, which no setting may. Choose as in hydra/launcher=joblib.")
        of_hydra = [name for name in (key, override.package or "") if name.split(".")[0] == "hydra"]
        if of_hydra and not (key in OURS or key.startswith(PARTS)):
            raise ConfigError(
                f"{text!r} changes what is Hydra's, which may run code or write elsewhere. These may be set: "
                f"{', '.join(OURS)}, {'..., '.join(PARTS)}..."
            )
        if key in FOLDERS and isinstance(value, str | QuotedString):
            name = getattr(value, "text", value)
            check_folder(key, re.sub(r"\$\{.*?\}", "x", name))  # what comes of these is seen when it is known
        if key == "hydra.sweep.subdir" and {"..", ""} & set(str(getattr(value, "text", value)).split("/")):
            raise ConfigError(f"{text!r} leaves the folder of the sweep. Give a name.")
        if key in groups and key != "callbacks" and isinstance(value, list | dict):
            names = [str(getattr(name, "text", name)) for name in value]
            raise ConfigError(
                f"{key}={_shown(value)} gives {key} {len(names)} options, and a run has one. "
                f"Try each in a run of its own with -m {key}={','.join(names)}."
            )


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


def quoted(text: str) -> str:
    """A text as the value of an override, whatever it holds."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


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
    """ConfigError for a flag of Hydra that reads a configuration, or a pickle, from somewhere else."""
    for name in FLAGS:
        if getattr(given, name, None):
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{flag} reads a file that may name code to run. Leave it out, and give keys as key=value."
            )


def _names_code(key: str, value: Any) -> bool:
    if any(part in CODE for part in key.split(".")):
        return True
    if isinstance(value, dict):
        return any(_names_code(str(getattr(name, "text", name)), inner) for name, inner in value.items())
    if isinstance(value, ChoiceSweep):
        return any(_names_code("", inner) for inner in value.list)
    if isinstance(value, list):
        return any(_names_code("", inner) for inner in value)
    return False


def _shown(value: Any) -> str:
    names = [str(name.text if isinstance(name, QuotedString) else name) for name in value]
    return f"[{','.join(names)}]"

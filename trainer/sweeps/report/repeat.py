"""The command that repeats a run: what its configuration says, less what conf/ says already, quoted for a shell."""

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.errors import ConfigError
from trainer.runs.config import config_folder, options
from trainer.sweeps.report.reading import Run

_BARE = re.compile(r"[A-Za-z_/.][A-Za-z0-9_/.-]*")
_WORDS = ("true", "false", "null", "nan", "inf")


def command(run: Run) -> str:
    """python -m trainer and the overrides; a choice comes before its keys.

    Empty where the configuration, which a file says, holds what the command line would refuse or a terminal obey.
    """
    from hydra.errors import HydraException  # slow to import, for a report without runs to repeat

    from trainer.runs.overrides import check_overrides

    seed = {} if run.seed is None else {"seed": run.seed}  # the one drawn, where the configuration has null
    words = [f"{key}={value}" for key, value in _overrides({**run.config, **seed})]
    try:
        check_overrides(words, options())
    except (ConfigError, HydraException):
        return ""
    return shlex.join(["python", "-m", "trainer", *words]) if all(map(str.isprintable, words)) else ""


def _overrides(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    plain = _yaml("config")
    groups = {
        key: value
        for item in plain.get("defaults", [])
        if isinstance(item, Mapping)
        for key, value in item.items()
        if " " not in str(key)
    }
    for key, value in config.items():
        if key == "callbacks" and isinstance(value, Mapping):
            if value:
                yield key, grammar(list(value))
            for name, node in value.items():
                yield from _keys(f"{key}.{name}", node, _yaml("callbacks", str(name)).get(name, {}))
        elif key in groups and isinstance(value, Mapping) and "name" in value:
            if value["name"] != groups[key]:
                yield key, grammar(value["name"])
            yield from _keys(str(key), value, _yaml(str(key), str(value["name"])))
        elif key in groups:
            continue
        elif key not in plain or plain[key] != value or isinstance(value, bool) != isinstance(plain[key], bool):
            yield str(key), grammar(value)


def _keys(prefix: str, node: Any, defaults: Any) -> Iterator[tuple[str, str]]:
    for key, value in (node or {}).items() if isinstance(node, Mapping) else ():
        if key != "name" and not (isinstance(defaults, Mapping) and key in defaults and defaults[key] == value):
            yield f"{prefix}.{key}", grammar(value)


def _yaml(*names: str) -> Mapping[str, Any]:
    """A file of conf/, or an option of a group; empty if there is none."""
    path = options().get(names[0], {}).get(names[-1]) if len(names) > 1 else config_folder() / f"{names[0]}.yaml"
    if path is None:
        return {}
    try:
        read = OmegaConf.load(path)
        content = OmegaConf.to_container(read, resolve=False)
    except (OSError, ValueError, OmegaConfBaseException):
        return {}
    return {str(key): value for key, value in content.items()} if isinstance(content, Mapping) else {}


def grammar(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        if _BARE.fullmatch(value) and value.lower() not in _WORDS:
            return value
        text = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", value)  # of backslashes only those before a quote
        text = re.sub(r"(\\+)$", lambda found: found[1] * 2, text)
        return f"'{text}'"
    if isinstance(value, list):
        return f"[{','.join(grammar(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{grammar(key)}:{grammar(item)}" for key, item in value.items()) + "}"
    return str(value)

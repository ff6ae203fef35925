"""The command that repeats a run: what its configuration says, less what conf/ says already, quoted for a shell."""

import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.errors import ConfigError
from trainer.runs.config import config_folder, options
from trainer.runs.text import grammar
from trainer.sweeps.report.reading import Run


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


@cache
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
